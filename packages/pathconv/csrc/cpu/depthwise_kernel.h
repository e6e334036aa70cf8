// The CPU kernels of the depthwise 1D convolution: plain C++, no torch types.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "cpu/depthwise_job.h"

namespace pathconv::depthwise {

// y[n, c * M + m, l] = bias[c * M + m] + sum_k weight[n, c * M + m, k] * x[n, c, l * stride + k - padding]
struct Params {
  int64_t batch, channels, multiplier, taps;  // N, C, M, K
  int64_t length, out_length;                 // of x and of y
  int64_t stride, padding;
  bool per_sample;  // weight and its gradient are (N, M * C, K), else (1, M * C, K)
  DType dtype;
};

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

// x and y, or grad and grad_x, or x and grad, lie alike: both with unit stride along the channels where `lanes` says
// so, else along the positions. Weights, biases and their gradients are contiguous; bias may be null. Results do not
// depend on the number of threads.
void forward(const Params&, Lanes, const void* x, Strides, const void* weight, const void* bias, void* y, Strides,
             leanconv::Isa, ParallelFor);
void grad_input(const Params&, Lanes, const void* grad, Strides, const void* weight, void* grad_x, Strides,
                leanconv::Isa, ParallelFor);
void grad_weight(const Params&, Lanes, const void* grad, Strides, const void* x, Strides, void* grad_weight,
                 void* grad_bias, leanconv::Isa, ParallelFor);

}  // namespace pathconv::depthwise
