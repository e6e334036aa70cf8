// Launches of the kernels over feature maps: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/launches.h"
#include "cuda/pick_or_mix_params.h"

namespace pix::maps {

// Whether the kernels can count these with 32 bits; the number of elements of a tensor is not bound.
bool representable(int64_t batch, int64_t channels, int64_t pixels);

// Launches of params that hold sizes and pointers, with the channels last in memory or first; they choose the plan.
void launch_pick(Params params, DType dtype, bool last, void* stream);

// Sums, in two steps: the plan says how many pieces an image has in `partial`.
void plan_sums(Params* params, DType dtype, bool last);
void launch_sums(const Params& params, DType dtype, bool last, void* stream);

// The gradient, in two steps likewise; with grad_gates and more than one piece it needs `partial`.
void plan_scatter(Params* params, DType dtype, bool last);
void launch_scatter(const Params& params, DType dtype, bool last, void* stream);

}  // namespace pix::maps
