// The types of the CPU kernels' numbers.
#pragma once

#include "common/dtype.h"
#include "common/half.h"

namespace pathconv {

using namespace leanconv::cpu;
using leanconv::bytes_of;
using leanconv::DType;

}  // namespace pathconv
