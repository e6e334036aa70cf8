// edit in shared/common/native/binding.h
// What the bindings of all ops share: dtypes, and torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "common/dtype.h"

namespace leanconv {

inline DType dtype_of(const torch::stable::Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::Half: return DType::float16;
    case ScalarType::BFloat16: return DType::bfloat16;
    default: return DType::float32;
  }
}

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
inline void parallel_for(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                         const void* context) {
  torch::stable::parallel_for(0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace leanconv
