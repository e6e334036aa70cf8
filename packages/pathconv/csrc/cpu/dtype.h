// The dtypes of the CPU kernels.
#pragma once

#include "common/half.h"

namespace pathconv {

using namespace leanconv::cpu;

enum class DType { float32, float64, float16, bfloat16 };

}  // namespace pathconv
