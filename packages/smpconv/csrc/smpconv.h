// What the bindings of all ops share: layouts and checks.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

namespace smpconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The layout rule, equal to that of `reference.channels_last`.
inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.size(1) > 1 && !t.is_contiguous(); }

inline Tensor images_from_pixels(const Tensor& pixels) {  // (N, H, W, C) as (N, C, H, W)
  return torch::stable::transpose(torch::stable::transpose(pixels, 2, 3), 1, 2);
}

// A result of the shape and layout of `like`.
inline Tensor empty_images(const Tensor& like) {
  const int64_t n = like.size(0), c = like.size(1), h = like.size(2), w = like.size(3);
  if (!is_channels_last(like)) return torch::stable::new_empty(like, {n, c, h, w});
  return images_from_pixels(torch::stable::new_empty(like, {n, h, w, c}));
}

inline void check_floating(const Tensor& t, const char* name) {
  const auto dtype = t.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
}

inline void check_like(const Tensor& t, const char* name, const Tensor& other, const char* other_name) {
  STD_TORCH_CHECK(t.scalar_type() == other.scalar_type(), name, " must have the dtype of ", other_name, ", ",
                  torch::headeronly::toString(other.scalar_type()), ", but is ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == other.device(), name, " must be on the device of ", other_name);
}

inline void check_images(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), but has ", t.dim());
  check_floating(t, name);
}

inline void check_kernel_size(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height > 0 && width > 0 && height % 2 == 1 && width % 2 == 1,
                  "kernel_size must be odd in both dimensions, but is (", height, ", ", width, ")");
}

inline void check_depthwise(const Tensor& x, const char* name, const Tensor& weight) {
  check_images(x, name);
  STD_TORCH_CHECK(weight.dim() == 3 && weight.size(0) == x.size(1), "weight must have shape (", x.size(1),
                  ", Kh, Kw) for this ", name);
  check_like(weight, "weight", x, name);
  check_kernel_size(weight.size(1), weight.size(2));
}

inline void check_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_depthwise(x, "x", weight);
  if (!bias.has_value()) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias must have shape (", x.size(1), ") for this x");
  check_like(*bias, "bias", x, "x");
}

inline void check_grad_weight(const Tensor& grad, const Tensor& x, const std::vector<int64_t>& kernel_size) {
  check_images(x, "x");
  check_images(grad, "grad");
  check_like(grad, "grad", x, "x");
  for (int64_t i = 0; i < 4; ++i)
    STD_TORCH_CHECK(grad.size(i) == x.size(i), "grad must have the shape of x, but differs in dimension ", i);
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size must have 2 numbers, but has ", kernel_size.size());
  check_kernel_size(kernel_size[0], kernel_size[1]);
}

// coords (G, N, d), radius (G, N), weight (G, C, N)
inline void check_points(const Tensor& coords, const Tensor& radius, const Tensor& weight, int64_t dims) {
  check_floating(weight, "weight");
  STD_TORCH_CHECK(weight.dim() == 3, "weight must have 3 dimensions (G, C, N), but has ", weight.dim());
  STD_TORCH_CHECK(coords.dim() == 3 && coords.size(0) == weight.size(0) && coords.size(1) == weight.size(2) &&
                      coords.size(2) == dims,
                  "coords must have shape (", weight.size(0), ", ", weight.size(2), ", ", dims, ") for this weight");
  STD_TORCH_CHECK(radius.dim() == 2 && radius.size(0) == weight.size(0) && radius.size(1) == weight.size(2),
                  "radius must have shape (", weight.size(0), ", ", weight.size(2), ") for this weight");
  check_like(coords, "coords", weight, "weight");
  check_like(radius, "radius", weight, "weight");
}

}  // namespace smpconv
