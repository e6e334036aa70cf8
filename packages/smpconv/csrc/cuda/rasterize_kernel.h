// Launches of the kernels of rasterize: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/launches.h"
#include "cuda/rasterize_params.h"

namespace smpconv::points {

// Whether the kernels can count these with 32 bits; the number of elements of a tensor is not bound.
bool representable(int64_t groups, int64_t channels, int64_t points, int64_t taps);

// Launches of params that hold sizes and pointers; they choose the plan. The kernel has elements; there may be no
// point.
void launch_spread(Params params, DType dtype, void* stream);
void launch_gather(const Params& params, DType dtype, void* stream);

}  // namespace smpconv::points
