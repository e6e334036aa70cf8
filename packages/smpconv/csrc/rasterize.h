// Argument checks of the ops `smpconv::rasterize*`, shared by the CPU and the CUDA binding.
#pragma once

#include <cstdint>
#include <vector>

#include "smpconv.h"

namespace smpconv {

// What a call of either op is about: coords (G, N, d), radius (G, N), weight (G, C, N), kernels (G, C, *size).
struct PointSizes {
  int64_t groups, channels, points;
  int64_t dims, height, width;  // height is 1 in one dimension
};

// Taps are numbered in 32 bits, and so are some behind the last.
constexpr int64_t kMostTaps = INT32_MAX - 64;

inline PointSizes check_rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight,
                                  const std::vector<int64_t>& size, bool flip) {
  const int64_t dims = static_cast<int64_t>(size.size());
  check_points(coords, radius, weight, dims);
  STD_TORCH_CHECK(dims == 1 || dims == 2, "size must have 1 or 2 numbers, but has ", dims);
  for (const int64_t taps : size)
    STD_TORCH_CHECK(taps >= 0 && taps <= kMostTaps, "size must be from 0 to ", kMostTaps, ", but holds ", taps);
  STD_TORCH_CHECK(!flip || dims == 2, "flip must be false in one dimension");
  const int64_t height = dims == 2 ? size[0] : 1, width = size[dims - 1];
  STD_TORCH_CHECK(width == 0 || height <= kMostTaps / width, "size must hold at most ", kMostTaps, " taps");
  return {weight.size(0), weight.size(1), weight.size(2), dims, height, width};
}

inline PointSizes check_rasterize_backward(const Tensor& grad, const Tensor& coords, const Tensor& radius,
                                           const Tensor& weight, bool flip) {
  check_like(grad, "grad", weight, "weight");
  STD_TORCH_CHECK(grad.dim() == 3 || grad.dim() == 4, "grad must have 3 or 4 dimensions, but has ", grad.dim());
  std::vector<int64_t> size;
  for (int64_t i = 2; i < grad.dim(); ++i) size.push_back(grad.size(i));
  const PointSizes sizes = check_rasterize(coords, radius, weight, size, flip);
  STD_TORCH_CHECK(grad.size(0) == weight.size(0) && grad.size(1) == weight.size(1), "grad must have the groups and ",
                  "channels of weight, (", weight.size(0), ", ", weight.size(1), ")");
  return sizes;
}

}  // namespace smpconv
