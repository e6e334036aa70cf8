// What the depthwise kernels of every level take: plain pointers, sizes and strides of elements.
//
// A group is as many neighbouring channels as a vector has lanes. Its images are packed, one vector per pixel, so that
// both layouts run the same multiply-adds, of which those with padding are skipped pixel by pixel.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace smpconv {

using leanconv::DType;

struct Strides {
  int64_t n, c, h, w;
};

struct Params {
  int64_t batch, channels, height, width;
  int64_t kernel_h, kernel_w;  // both odd
  DType dtype;
};

// Rows [begin, end) of the outputs of one group of one sample.
struct ConvTask {
  const void* in;  // of the group and sample
  Strides in_strides;
  void* out;
  Strides out_strides;
  int64_t channels;    // live lanes
  const void* weight;  // packed
  const void* bias;    // packed, or null
  int64_t begin, end;
  void* scratch;  // conv_scratch vectors
};

// Adds what rows [begin, end) of grad give to kernel rows [tap_begin, tap_end) of one group: once for each sample.
struct GradTask {
  const void *grad, *in;  // of the group and sample
  Strides grad_strides, in_strides;
  int64_t channels;
  int64_t begin, end, tap_begin, tap_end;
  void* sums;       // (tap rows, sum_row) vectors
  void* bias_sums;  // one vector, or null
  void* scratch;    // grad_scratch vectors
};

// The kernels of one level.
struct DepthwiseLevel {
  int64_t bytes;  // of a vector
  int64_t (*conv_scratch)(const Params&, int64_t rows);
  int64_t (*grad_scratch)(const Params&, int64_t rows, int64_t taps);
  int64_t (*sum_row)(const Params&);
  // (channels, KH, KW) to (KH, KW, vector), turned around where `turn` is set; bias to a vector.
  void (*pack_weight)(const Params&, const void* weight, int64_t channels, bool turn, void* out);
  void (*pack_bias)(const Params&, const void* bias, int64_t channels, void* out);
  void (*conv)(const Params&, const ConvTask&);
  void (*grad)(const Params&, const GradTask&);
  void (*unpack_sums)(const Params&, const void* sums, int64_t tap_begin, int64_t tap_end, int64_t channels, void* out);
  void (*unpack_bias)(const Params&, const void* sums, int64_t channels, void* out);
};

}  // namespace smpconv
