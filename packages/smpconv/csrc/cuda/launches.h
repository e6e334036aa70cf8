// What the declarations of all launches share.
#pragma once

#include <string>

#include "common/dtype.h"

namespace smpconv {

using leanconv::bytes_of;
using leanconv::DType;
using leanconv::sum_bytes_of;

constexpr const char* kPackage = "smpconv";

// Architectures with machine code in this library, for example "sm_75, sm_80, sm_90".
std::string compiled_archs();

}  // namespace smpconv
