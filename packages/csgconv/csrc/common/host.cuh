// edit in shared/common/native/host.cuh
// What plans and launches of all kernels share. Host side; included by .cu files alone.
#pragma once

#include <algorithm>

#include "common/dtype.h"
#include "common/launch.cuh"
#include "common/scalar.cuh"

namespace leanconv {

inline int64_t ceil_ratio(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest part when `count` is cut into as few equal parts of at most `limit` as can be.
inline int64_t even_part(int64_t count, int64_t limit) {
  return std::max<int64_t>(ceil_ratio(count, std::max<int64_t>(ceil_ratio(count, limit), 1)), 1);
}

template <typename Function>
void with_dtype(DType dtype, Function function) {
  switch (dtype) {
    case DType::float64: return function(double());
    case DType::float16: return function(Half());
    case DType::bfloat16: return function(BFloat16());
    default: return function(float());
  }
}

}  // namespace leanconv
