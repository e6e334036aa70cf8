// The CPU kernels of rasterize: plain C++, no torch types. All tensors are dense.
#pragma once

#include "cpu/level.h"

namespace smpconv {

// coords (G, N, d), radius (G, N), weight (G, C, N) -> kernel (G, C, taps).
void rasterize_points(const RasterizeParams&, const void* coords, const void* radius, const void* weight, void* kernel,
                      const Place&);

void rasterize_points_grad(const RasterizeParams&, const void* grad, const void* coords, const void* radius,
                           const void* weight, void* grad_coords, void* grad_radius, void* grad_weight, const Place&);

}  // namespace smpconv
