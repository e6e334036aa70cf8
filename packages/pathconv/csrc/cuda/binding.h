// What the CUDA bindings of all ops share.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cuda/dtype.h"

namespace pathconv {

inline DType dtype_of(const torch::stable::Tensor& t) {
  using torch::headeronly::ScalarType;
  switch (t.scalar_type()) {
    case ScalarType::Double: return DType::float64;
    case ScalarType::Half: return DType::float16;
    case ScalarType::BFloat16: return DType::bfloat16;
    default: return DType::float32;
  }
}

inline void* current_stream(const torch::stable::Tensor& t) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
}

// Room for `count` sums in accumulation precision.
inline torch::stable::Tensor partial_sums(const torch::stable::Tensor& like, int64_t count) {
  using torch::headeronly::ScalarType;
  const bool wide = like.scalar_type() == ScalarType::Double;
  return torch::stable::new_empty(like, {count}, wide ? ScalarType::Double : ScalarType::Float);
}

}  // namespace pathconv
