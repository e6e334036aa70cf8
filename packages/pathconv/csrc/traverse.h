// Argument checks and shapes of the traversal's ops, shared by the CPU and the CUDA binding.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <optional>

namespace pathconv::traversal {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// One call of torch's allocator: an operator is looked up by name, which costs microseconds once the caches are cold.
template <size_t D>
Tensor empty_strided(const Tensor& like, const std::array<int64_t, D>& sizes, const std::array<int64_t, D>& strides) {
  int32_t dtype, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(D, sizes.data(), strides.data(), dtype, device_type, device_index, &made));
  return Tensor(made);
}

// Results lie as the caller says, channels first or last; the fake kernels in ops/traverse.py have the same strides.
inline Tensor empty_sequence(const Tensor& like, int64_t batch, int64_t channels, int64_t length, bool channels_last) {
  const int64_t c = std::max(channels, int64_t{1}), l = std::max(length, int64_t{1});
  const std::array<int64_t, 3> first = {c * l, l, 1}, last = {l * c, 1, c};
  return empty_strided<3>(like, {batch, channels, length}, channels_last ? last : first);
}

inline Tensor empty_image(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          bool channels_last) {
  const int64_t c = std::max(channels, int64_t{1}), h = std::max(height, int64_t{1}), w = std::max(width, int64_t{1});
  const std::array<int64_t, 4> first = {c * h * w, h * w, w, 1}, last = {h * w * c, 1, w * c, c};
  return empty_strided<4>(like, {batch, channels, height, width}, channels_last ? last : first);
}

// `t` itself wherever a kernel can read it: unit stride along the channels or along the positions.
inline Tensor readable(const Tensor& t) {
  return t.stride(2) == 1 || t.stride(1) == 1 || t.numel() == 0 ? t : torch::stable::contiguous(t);
}

inline void check_floating(const Tensor& t, const char* name, int64_t dimensions, const char* shape) {
  STD_TORCH_CHECK(t.dim() == dimensions, name, " must have ", dimensions, " dimensions ", shape, ", but has ", t.dim());
  const auto dtype = t.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
}
inline void check_image(const Tensor& t) { check_floating(t, "x", 4, "(N, C, H, W)"); }
inline void check_sequence(const Tensor& t) { check_floating(t, "grad", 3, "(N, C, L)"); }

inline void check_like(const Tensor& t, const char* name, const Tensor& other, const char* other_name) {
  STD_TORCH_CHECK(t.scalar_type() == other.scalar_type(), name, " must have the dtype of ", other_name, ", ",
                  torch::headeronly::toString(other.scalar_type()), ", but is ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == other.device(), name, " must be on the device of ", other_name);
}

inline void check_table(const Tensor& table, const char* name, const Tensor& other, int64_t length) {
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Int && table.is_contiguous(), name,
                  " must be a contiguous int32 tensor");
  STD_TORCH_CHECK(table.dim() == 2 && table.size(0) > 0 && table.size(1) == length, name,
                  " must have shape (P, L) with one entry per pixel, L = ", length, ", and at least one path");
  STD_TORCH_CHECK(table.device() == other.device(), name, " must be on the device of the other tensors");
}

inline void check_tables(const Tensor& index, const Tensor& inverse, const Tensor& other, int64_t length) {
  check_table(index, "index", other, length);
  check_table(inverse, "inverse", other, length);
  STD_TORCH_CHECK(index.size(0) == inverse.size(0), "index and inverse must have as many paths, but have ",
                  index.size(0), " and ", inverse.size(0));
}

inline void check_size(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height >= 0 && width >= 0, "height and width must not be negative, but are ", height, " and ", width);
}

inline void check_traverse(const Tensor& x, const Tensor& index, const Tensor& inverse) {
  check_image(x);
  check_tables(index, inverse, x, x.size(2) * x.size(3));
}

inline void check_adjoint(const Tensor& grad, const Tensor& index, const Tensor& inverse, int64_t height,
                          int64_t width) {
  check_sequence(grad);
  check_size(height, width);
  check_tables(index, inverse, grad, height * width);
  STD_TORCH_CHECK(grad.size(2) == height * width, "grad must have one position per pixel, ", height * width,
                  ", but has ", grad.size(2));
  STD_TORCH_CHECK(grad.size(1) % index.size(0) == 0, "grad must have a multiple of the paths, ", index.size(0),
                  ", of channels, but has ", grad.size(1));
}

inline void check_conv(const Tensor& x, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                       const std::optional<Tensor>& bias) {
  check_traverse(x, index, inverse);
  check_floating(weight, "weight", 2, "(D, P * C)");
  check_like(weight, "weight", x, "x");
  STD_TORCH_CHECK(weight.size(1) == index.size(0) * x.size(1), "weight must have one column per path and channel, ",
                  index.size(0) * x.size(1), ", but has ", weight.size(1));
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0),
                    "bias must have shape (D,) with the D of weight, ", weight.size(0));
    check_like(*bias, "bias", x, "x");
  }
}

inline void check_conv_grad_input(const Tensor& grad, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                                  int64_t height, int64_t width) {
  check_sequence(grad);
  check_size(height, width);
  check_tables(index, inverse, grad, height * width);
  STD_TORCH_CHECK(grad.size(2) == height * width, "grad must have one position per pixel, ", height * width,
                  ", but has ", grad.size(2));
  check_floating(weight, "weight", 2, "(D, P * C)");
  check_like(weight, "weight", grad, "grad");
  STD_TORCH_CHECK(weight.size(0) == grad.size(1), "weight must have one row per channel of grad, ", grad.size(1),
                  ", but has ", weight.size(0));
  STD_TORCH_CHECK(weight.size(1) % index.size(0) == 0, "weight must have a multiple of the paths, ", index.size(0),
                  ", of columns, but has ", weight.size(1));
}

inline void check_conv_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& index, const Tensor& inverse) {
  check_traverse(x, index, inverse);
  check_sequence(grad);
  check_like(grad, "grad", x, "x");
  STD_TORCH_CHECK(grad.size(0) == x.size(0) && grad.size(2) == index.size(1),
                  "grad must have the samples and pixels of x");
}

}  // namespace pathconv::traversal
