// Launches of the traversal's CUDA kernels: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/launches.h"
#include "cuda/traverse_params.h"

namespace pathconv::traversal {

// Whether the kernels can count the positions, channels and images of these params with 32 bits; the number of elements
// of a tensor is not bound.
bool representable(int64_t batch, int64_t channels, int64_t paths, int64_t length, int64_t outputs);

// Launches of params that hold sizes, strides and pointers; they choose the plan. traverse and its adjoint:
void launch_traverse(Params params, DType dtype, bool channels_last, bool adjoint, void* stream);

// The fused convolution and its input gradient.
void launch_convolve(Params params, DType dtype, bool channels_last, void* stream);

// The weight gradient, in two steps: the plan says how much `partial` holds.
void plan_weight_sums(Params* params, DType dtype);
void launch_weight_sums(const Params& params, DType dtype, void* stream);

}  // namespace pathconv::traversal
