// edit in shared/common/native/cuda_binding.h
// What the CUDA bindings of all ops share. Needs USE_CUDA before any header of torch, for the declaration of the
// stream.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include "common/binding.h"

namespace leanconv {

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

}  // namespace leanconv
