// Argument checks and shapes of the three ops, shared by the CPU and the CUDA binding.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace dwoconv1d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }  // of a >= 0; no sum to overflow

// The layout rule, equal to that of the fake kernels in ops.py: channels_last in, channels_last out.
inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.size(1) > 1 && !t.is_contiguous(); }

inline Tensor empty_image(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  const auto format = is_channels_last(like) ? torch::headeronly::MemoryFormat::ChannelsLast
                                             : torch::headeronly::MemoryFormat::Contiguous;
  return torch::stable::empty({batch, channels, height, width}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt, format);
}

// `t` itself wherever a kernel can read it: unit stride along the channels or along the columns.
inline Tensor readable(const Tensor& t) {
  const bool unit = t.stride(3) == 1 || t.stride(1) == 1 || t.numel() == 0;
  return unit ? t : torch::stable::contiguous(t);
}

inline void check_image(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), but has ", t.dim());
  const auto dtype = t.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
}

inline void check_like(const Tensor& t, const char* name, const Tensor& image, const char* image_name) {
  STD_TORCH_CHECK(t.scalar_type() == image.scalar_type(), name, " must have the dtype of ", image_name, ", ",
                  torch::headeronly::toString(image.scalar_type()), ", but is ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == image.device(), name, " must be on the device of ", image_name);
}

inline void check_weight(const Tensor& weight, const Tensor& image, const char* image_name) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight must have 2 dimensions (C, K), but has ", weight.dim());
  STD_TORCH_CHECK(weight.size(0) == image.size(1), "weight must have one row per channel of ", image_name, ", ",
                  image.size(1), ", but has ", weight.size(0));
  STD_TORCH_CHECK(weight.size(1) > 0, "weight must have at least one tap, but K is 0");
  check_like(weight, "weight", image, image_name);
}

inline void check_offsets(const Tensor& offsets, const Tensor& image, const char* image_name) {
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Int && offsets.is_contiguous(),
                  "offsets must be a contiguous int32 tensor");
  STD_TORCH_CHECK(offsets.dim() == 3 && offsets.size(0) == 2 && offsets.size(1) == image.size(1),
                  "offsets must have shape (2, C, K) with the C of ", image_name, ", ", image.size(1));
  STD_TORCH_CHECK(offsets.size(2) > 0, "offsets must have at least one tap, but K is 0");
  STD_TORCH_CHECK(offsets.device() == image.device(), "offsets must be on the device of ", image_name);
}

inline void check_stride(int64_t stride_h, int64_t stride_w) {
  STD_TORCH_CHECK(stride_h > 0 && stride_w > 0, "stride must be positive, but is (", stride_h, ", ", stride_w, ")");
}

inline void check_forward(const Tensor& x, const Tensor& weight, const Tensor& offsets,
                          const std::optional<Tensor>& bias, int64_t stride_h, int64_t stride_w) {
  check_image(x, "x");
  check_stride(stride_h, stride_w);
  check_weight(weight, x, "x");
  check_offsets(offsets, x, "x");
  STD_TORCH_CHECK(offsets.size(2) == weight.size(1), "offsets must have one entry per tap of weight, ", weight.size(1),
                  ", but has ", offsets.size(2));
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias must have shape (C,) with the C of x, ",
                    x.size(1));
    check_like(*bias, "bias", x, "x");
  }
}

inline void check_grad_input(const Tensor& grad, const Tensor& weight, const Tensor& offsets, int64_t height,
                             int64_t width, int64_t stride_h, int64_t stride_w) {
  check_image(grad, "grad");
  check_stride(stride_h, stride_w);
  check_weight(weight, grad, "grad");
  check_offsets(offsets, grad, "grad");
  STD_TORCH_CHECK(offsets.size(2) == weight.size(1), "offsets must have one entry per tap of weight, ", weight.size(1),
                  ", but has ", offsets.size(2));
  STD_TORCH_CHECK(height >= 0 && width >= 0 && grad.size(2) == ceil_div(height, stride_h) &&
                      grad.size(3) == ceil_div(width, stride_w),
                  "grad must have the size of the output for height ", height, " and width ", width);
}

inline void check_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& offsets, int64_t stride_h,
                              int64_t stride_w) {
  check_image(x, "x");
  check_image(grad, "grad");
  check_stride(stride_h, stride_w);
  check_like(grad, "grad", x, "x");
  check_offsets(offsets, x, "x");
  STD_TORCH_CHECK(grad.size(0) == x.size(0) && grad.size(1) == x.size(1) &&
                      grad.size(2) == ceil_div(x.size(2), stride_h) && grad.size(3) == ceil_div(x.size(3), stride_w),
                  "grad must have the shape of the output for x");
}

}  // namespace dwoconv1d
