// Launches of the depthwise convolution's CUDA kernels: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/depthwise_conv1d_params.h"
#include "cuda/launches.h"

namespace pathconv::depthwise {

// Whether the kernels can count batch, channels (of y) and positions, padding and taps included, with 32 bits; the
// number of elements is not bound.
bool representable(int64_t batch, int64_t channels, int64_t positions);

// Launches of params that hold sizes, strides and pointers; they choose the plan. The forward pass and the input
// gradient:
void launch_correlate(Params params, DType dtype, void* stream);

// The weight gradient, in two steps: the plan says how much `partial` holds.
void plan_weight_sums(Params* params, DType dtype);
void launch_weight_sums(const Params& params, DType dtype, void* stream);

}  // namespace pathconv::depthwise
