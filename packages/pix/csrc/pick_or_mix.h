// Argument checks and shapes of the ops `pix::pick_or_mix*`, shared by the CPU and the CUDA binding and by the ops of
// pix.h.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace pix {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The layout rule, equal to that of the fake kernels in ops.py.
inline bool is_channels_last(const Tensor& t) { return t.stride(1) == 1 && t.size(1) > 1 && !t.is_contiguous(); }

// C' = ceil(C / zeta), without overflow where zeta is large.
inline int64_t outputs_of(int64_t channels, int64_t zeta) { return channels / zeta + (channels % zeta != 0); }

// A choice is one byte, unless the positions in a subset need more.
inline ScalarType choice_dtype(int64_t zeta) { return zeta > 256 ? ScalarType::Int : ScalarType::Byte; }

// The dtype of p and of all sums.
inline ScalarType sum_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor images_from_pixels(const Tensor& pixels) {  // (N, H, W, C) as (N, C, H, W)
  return torch::stable::transpose(torch::stable::transpose(pixels, 2, 3), 1, 2);
}

inline Tensor empty_images(const Tensor& like, bool channels_last, int64_t batch, int64_t channels, int64_t height,
                           int64_t width, ScalarType dtype) {
  if (!channels_last) return torch::stable::new_empty(like, {batch, channels, height, width}, dtype);
  return images_from_pixels(torch::stable::new_empty(like, {batch, height, width, channels}, dtype));
}

// Distance of neighbouring pixels where one number says it, else 0. Dimensions of size 1 have no neighbours.
inline int64_t pixel_step(const Tensor& t) {
  const int64_t height = t.size(2), width = t.size(3);
  if (height == 1 || width == 1) return height * width == 1 ? 1 : t.stride(width > 1 ? 3 : 2);
  return t.stride(2) == width * t.stride(3) ? t.stride(3) : 0;
}

inline bool has_layout(const Tensor& t, bool channels_last) {
  if (t.numel() == 0) return true;
  if (!channels_last) return pixel_step(t) == 1;
  return (t.size(1) == 1 || t.stride(1) == 1) && pixel_step(t) >= t.size(1);
}

// `t` itself wherever the kernels of the layout can read it: pixels at one distance, side by side or channels side by
// side.
inline Tensor readable(const Tensor& t, bool channels_last) {
  if (has_layout(t, channels_last)) return t;
  if (!channels_last) return torch::stable::contiguous(t);
  const Tensor pixels = torch::stable::transpose(torch::stable::transpose(t, 1, 2), 2, 3);
  return images_from_pixels(torch::stable::contiguous(pixels));
}

// The same without room between the pixels or samples.
inline Tensor dense(const Tensor& t, bool channels_last) {
  if (!channels_last) return torch::stable::contiguous(t);
  const Tensor pixels = torch::stable::transpose(torch::stable::transpose(t, 1, 2), 2, 3);
  return images_from_pixels(torch::stable::contiguous(pixels));
}

inline void check_images(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), but has ", t.dim());
  const auto dtype = t.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
}

inline void check_zeta(int64_t zeta) {
  STD_TORCH_CHECK(zeta >= 1 && zeta <= INT32_MAX, "zeta must be from 1 to 2^31 - 1, but is ", zeta);
}

inline void check_dtype(const Tensor& t, const char* name, ScalarType dtype, const Tensor& other,
                        const char* other_name) {
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, " must be ", torch::headeronly::toString(dtype), " where ",
                  other_name, " is ", torch::headeronly::toString(other.scalar_type()), ", but is ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == other.device(), name, " must be on the device of ", other_name);
}

// One number per sample and channel.
inline void check_vectors(const Tensor& t, const char* name, ScalarType dtype, const Tensor& other,
                          const char* other_name, int64_t channels) {
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == other.size(0) && t.size(1) == channels, name, " must have shape (",
                  other.size(0), ", ", channels, ") for this ", other_name);
  check_dtype(t, name, dtype, other, other_name);
}

inline void check_same_images(const Tensor& t, const char* name, ScalarType dtype, const Tensor& other,
                              const char* other_name, int64_t channels) {
  STD_TORCH_CHECK(t.dim() == 4 && t.size(0) == other.size(0) && t.size(1) == channels && t.size(2) == other.size(2) &&
                      t.size(3) == other.size(3),
                  name, " must have shape (", other.size(0), ", ", channels, ", ", other.size(2), ", ", other.size(3),
                  ") for this ", other_name);
  check_dtype(t, name, dtype, other, other_name);
}

inline void check_pick_or_mix(const Tensor& x, const Tensor& p, int64_t zeta) {
  check_images(x, "x");
  check_zeta(zeta);
  check_vectors(p, "p", sum_dtype(x), x, "x", outputs_of(x.size(1), zeta));
}

// What the backward passes of both ops share.
inline void check_upstream(const Tensor& grad, const Tensor& y, const Tensor& p, const Tensor& choice,
                           const std::optional<Tensor>& x, int64_t channels, int64_t zeta) {
  check_images(grad, "grad");
  check_zeta(zeta);
  STD_TORCH_CHECK(channels >= 0, "channels must not be negative, but is ", channels);
  STD_TORCH_CHECK(grad.size(1) == outputs_of(channels, zeta), "grad must have ", outputs_of(channels, zeta),
                  " channels for ", channels, " of x and zeta = ", zeta, ", but has ", grad.size(1));
  check_same_images(y, "y", grad.scalar_type(), grad, "grad", grad.size(1));
  check_same_images(choice, "choice", choice_dtype(zeta), grad, "grad", grad.size(1));
  check_vectors(p, "p", sum_dtype(grad), grad, "grad", grad.size(1));
  if (x.has_value()) check_same_images(*x, "x", grad.scalar_type(), grad, "grad", channels);
}

}  // namespace pix
