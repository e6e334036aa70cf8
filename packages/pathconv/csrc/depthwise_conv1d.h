// Argument checks and shapes of the three depthwise ops, shared by the CPU and the CUDA binding.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace pathconv::depthwise {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The layout rule, equal to that of the fake kernels in ops/depthwise.py: (N, L, C) memory in, (N, L, C) memory out.
inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.size(1) > 1 && !t.is_contiguous(); }

inline Tensor empty_sequence(const Tensor& like, bool channels_last, int64_t batch, int64_t channels, int64_t length) {
  if (!channels_last) return torch::stable::new_empty(like, {batch, channels, length});
  return torch::stable::transpose(torch::stable::new_empty(like, {batch, length, channels}), 1, 2);
}

// `t` itself wherever a kernel can read it: unit stride along the channels if `channels_last`, else along the length.
inline Tensor readable(const Tensor& t, bool channels_last) {
  if (t.stride(channels_last ? 1 : 2) == 1 || t.numel() == 0) return t;
  if (!channels_last) return torch::stable::contiguous(t);
  return torch::stable::transpose(torch::stable::contiguous(torch::stable::transpose(t, 1, 2)), 1, 2);
}

inline void check_sequence(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 3, name, " must have 3 dimensions (N, C, L), but has ", t.dim());
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

inline void check_weight(const Tensor& weight, const Tensor& sequence, const char* name) {
  STD_TORCH_CHECK(weight.dim() == 3, "weight must have 3 dimensions (B, M * C, K), but has ", weight.dim());
  STD_TORCH_CHECK(weight.size(0) == 1 || weight.size(0) == sequence.size(0),
                  "weight must have one kernel for all samples or one per sample of ", name, ", ", sequence.size(0),
                  ", but has ", weight.size(0));
  STD_TORCH_CHECK(weight.size(2) > 0, "weight must have at least one tap, but K is 0");
  check_like(weight, "weight", sequence, name);
}

// M: outputs per channel.
inline int64_t multiplier(int64_t outputs, int64_t channels, const char* name) {
  const bool divides = channels > 0 ? outputs % channels == 0 : outputs == 0;
  STD_TORCH_CHECK(divides && (channels == 0 || outputs >= channels), name,
                  " must have a multiple of the channels of x, ", channels, ", but has ", outputs);
  return channels > 0 ? outputs / channels : 1;
}

// Positions of the output.
inline int64_t out_length(int64_t length, int64_t taps, int64_t stride, int64_t padding) {
  STD_TORCH_CHECK(stride > 0, "stride must be positive, but is ", stride);
  STD_TORCH_CHECK(padding >= 0, "padding must not be negative, but is ", padding);
  STD_TORCH_CHECK(taps > 0, "kernel_size must be positive, but is ", taps);
  STD_TORCH_CHECK(length >= 0 && taps - length <= padding + padding, "kernel_size ", taps,
                  " is larger than the length with its padding, ", length, " + 2 * ", padding);
  return (length + 2 * padding - taps) / stride + 1;
}

inline void check_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_sequence(x, "x");
  check_weight(weight, x, "x");
  multiplier(weight.size(1), x.size(1), "weight");
  if (!bias.has_value()) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(1),
                  "bias must have shape (M * C,) with the M * C of weight, ", weight.size(1));
  check_like(*bias, "bias", x, "x");
}

inline void check_grad_input(const Tensor& grad, const Tensor& weight, int64_t channels, int64_t length, int64_t stride,
                             int64_t padding) {
  check_sequence(grad, "grad");
  check_weight(weight, grad, "grad");
  STD_TORCH_CHECK(channels >= 0, "channels must not be negative, but is ", channels);
  multiplier(weight.size(1), channels, "weight");
  STD_TORCH_CHECK(grad.size(1) == weight.size(1) && grad.size(2) == out_length(length, weight.size(2), stride, padding),
                  "grad must have the shape of the output for length ", length);
}

inline void check_grad_weight(const Tensor& grad, const Tensor& x, int64_t kernel_size, int64_t stride,
                              int64_t padding) {
  check_sequence(x, "x");
  check_sequence(grad, "grad");
  check_like(grad, "grad", x, "x");
  multiplier(grad.size(1), x.size(1), "grad");
  STD_TORCH_CHECK(grad.size(0) == x.size(0) && grad.size(2) == out_length(x.size(2), kernel_size, stride, padding),
                  "grad must have the shape of the output for x");
}

}  // namespace pathconv::depthwise
