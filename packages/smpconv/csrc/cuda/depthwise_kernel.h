// Launches of the depthwise convolution's CUDA kernels: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/depthwise_params.h"
#include "cuda/launches.h"

namespace smpconv::depthwise {

// Whether the kernels can count images, channels and pixels with 32 bits; the number of elements is not bound.
bool representable(int64_t batch, int64_t channels, int64_t height, int64_t width);

// The longest side of a kernel whose rows fit into the shared memory of every GPU.
constexpr int64_t kMaxSide = 1023;

// The forward pass or, with params.turned, the gradient of the input. Params holds sizes and pointers; this chooses the
// plan.
void launch_convolve(Params params, DType dtype, bool last, void* stream);

// The gradients of weight and bias, in two steps: the plan says how many sums `partial` holds.
void plan_grad_weight(Params* params, DType dtype, bool last);
int64_t partial_count(const Params& params);
void launch_grad_weight(const Params& params, DType dtype, bool last, void* stream);

}  // namespace smpconv::depthwise
