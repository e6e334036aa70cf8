// The CPU kernels of the traversal: plain C++, no torch types.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "cpu/traverse_job.h"

namespace pathconv::traversal {

// y[n, p * C + c, l] = x[n, c, index[p, l]], and x[n, c, q] = sum_p y[n, p * C + c, inverse[p, q]].
struct Params {
  int64_t batch, channels, height, width, paths;
  int64_t outputs;  // of the convolution; else unused
  DType dtype;

  int64_t length() const { return height * width; }
};

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

// Where a kernel runs.
struct Place {
  const Level& level;
  ParallelFor parallel;
};
const Level& level_for(leanconv::Isa);

// Images may have any strides. Results are dense, with channels first or last; sequences given have stride 1 along
// either. Tables hold numbers in [0, H * W). Results do not depend on the number of threads.
void gather(const Params&, const void* x, ImageStrides, const int32_t* index, void* y, SequenceStrides, Place);
void adjoint(const Params&, const void* grad, SequenceStrides, const int32_t* index, const int32_t* inverse, void* x,
             ImageStrides, Place);

// y[n, o, l] = bias[o] + sum_{p, c} weight[o, p * C + c] * x[n, c, index[p, l]]; bias may be null.
void conv(const Params&, const void* x, ImageStrides, const int32_t* index, const void* weight, const void* bias,
          void* y, SequenceStrides, Place);
void conv_grad_input(const Params&, const void* grad, SequenceStrides, const int32_t* inverse, const void* weight,
                     void* x, ImageStrides, Place);
void conv_grad_weight(const Params&, const void* grad, SequenceStrides, const void* x, ImageStrides,
                      const int32_t* index, void* weight, void* bias, Place);

}  // namespace pathconv::traversal
