// What a launch of the kernels of rasterize is told. Pointers, then 32-bit numbers: cupy_backend/points.py packs the
// same.
#pragma once

namespace smpconv::points {

// All tensors are dense.
//   spread  reads coords, radius, weight          writes kernel
//   gather  reads coords, radius, weight, grad    writes grad_coords, grad_radius, grad_weight
struct Params {
  const void* coords;            // (G, N, d)
  const void* radius;            // (G, N)
  const void* weight;            // (G, C, N)
  const void* grad;              // (G, C, taps)
  void* kernel;                  // (G, C, taps)
  void* grad_coords;             // (G, N, d)
  void* grad_radius;             // (G, N)
  void* grad_weight;             // (G, C, N)
  int groups, channels, points;  // G, C, N
  int dims, height, width;       // height is 1 in one dimension
  int average, flip;
  // The plan of spread.
  int across;  // warps of a block side by side along the taps; the others take other channels
  int depth;   // times 32 taps that a warp takes
};

}  // namespace smpconv::points
