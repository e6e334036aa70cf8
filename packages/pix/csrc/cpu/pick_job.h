// What the dispatcher hands to the kernels of one instruction-set level. No STL: these types live in units compiled for
// newer processors, where an inlined template of the standard library could leak into the rest of the program.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace pix {

using leanconv::DType;

// A subset is zeta channels side by side, the last one perhaps shorter: output channel c is p * max of its subset where
// p < tau, and p * sum / zeta elsewhere.
struct Params {
  int64_t batch, channels, outputs, pixels;  // N, C, C', H * W
  int64_t zeta;
  float tau;
  bool count_short;    // a short subset is divided by its own size
  bool l1;             // the context is the mean of |x|
  bool channels_last;  // pixels of channels side by side, else planes of pixels side by side
  DType dtype;
};

// Distances, in elements, between samples and between neighbouring planes or, for channels_last, pixels.
struct Strides {
  int64_t n, step;
};

// Outputs are dense. Choices are bytes, or int32 for zeta > 256; `choice` may be null.
struct Forward {
  const void* x;
  Strides x_strides;
  const void* p;  // (N, C') sums
  void *y, *choice;
};

// `shift` (N, C), added to every pixel's gradient, is null or what the context's gradient adds, `x` is null or what
// that one's sign is multiplied with.
struct Backward {
  const void* grad;
  Strides grad_strides;
  const void* y;
  Strides y_strides;
  const void *p, *choice;  // choice is dense
  const void* shift;
  const void* x;
  Strides x_strides;
  void* grad_x;  // dense
};

// The blend: p = sigmoid(z weight^T + bias) for z (N, C) and weight (C', C). All are dense; bias may be null.
struct Blend {
  const void *weight, *bias;
  const void* z;        // sums, as are the following
  void* p;              // only written by the forward pass
  void *d_logit, *d_z;  // only the backward pass has these and the following
  void *grad_weight, *grad_bias;
};

// The kernels of one level. Ranges are output channels of one sample or, for channels_last, pixels of it.
struct Level {
  void (*pick)(const Params&, const Forward&, int64_t n, int64_t begin, int64_t end);
  void (*scatter)(const Params&, const Backward&, int64_t n, int64_t begin, int64_t end);
  void (*fence)();  // after a thread's last scatter
  // sum of grad * y: one number per channel of the range or, for channels_last, one per channel.
  void (*dots)(const Params&, const Backward&, int64_t n, int64_t begin, int64_t end, void* sums);
  // sum of x or |x|: likewise, but ranges are channels of x.
  void (*sums)(const Params&, const Forward&, int64_t n, int64_t begin, int64_t end, void* sums);
  // p of samples [n0, n1), output channels [begin, end)
  void (*blend)(const Params&, const Blend&, int64_t n0, int64_t n1, int64_t begin, int64_t end);
  // d_z = d_logit weight of samples [n0, n1), channels [begin, end)
  void (*spread)(const Params&, const Blend&, int64_t n0, int64_t n1, int64_t begin, int64_t end);
  // grad_weight = d_logit^T z and grad_bias, output channels [begin, end)
  void (*outer)(const Params&, const Blend&, int64_t begin, int64_t end);
};

extern const Level level_baseline;
#if defined(__x86_64__)
extern const Level level_avx2, level_avx512;
#endif

}  // namespace pix
