// The CPU kernels of the oriented 1D depthwise convolution: plain C++, no torch types.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "cpu/job.h"

namespace dwoconv1d {

// y[n,c,p,q] = bias[c] + sum_s (weight[c,s] + residual * [s = K/2]) * x[n,c, p*stride_h + dy[c,s], q*stride_w +
// dx[c,s]]
struct Params {
  int64_t batch, channels, taps;
  int64_t height, width;          // of x
  int64_t out_height, out_width;  // of y
  int64_t stride_h, stride_w;
  const int32_t* offsets;  // (2, C, K): dy, dx
  bool residual;
  DType dtype;
};

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

// Tensors may have any strides. weight and grad_weight (C, K), bias and grad_bias (C) are contiguous; bias may be null.
// Results do not depend on the number of threads.
void forward(const Params&, const void* x, Strides, const void* weight, const void* bias, void* y, Strides,
             leanconv::Isa, ParallelFor);
void grad_input(const Params&, const void* grad, Strides, const void* weight, void* grad_x, Strides, leanconv::Isa,
                ParallelFor);
void grad_weight(const Params&, const void* grad, Strides, const void* x, Strides, void* grad_weight, void* grad_bias,
                 leanconv::Isa, ParallelFor);

}  // namespace dwoconv1d
