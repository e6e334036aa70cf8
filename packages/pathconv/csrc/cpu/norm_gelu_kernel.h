// The CPU kernel of the layer norm with a GELU behind it: plain C++, no torch types and, for the units compiled for
// newer processors, no STL.
#pragma once

#include <cstdint>

#include "common/isa.h"
#include "cpu/dtype.h"

namespace pathconv::norm_gelu {

// out[r] = gelu(layer_norm(x[r] + shift) * weight + bias) for rows r of `channels` numbers, one behind the other.
struct Params {
  int64_t rows, channels;
  double eps;
  DType dtype;
  const void *x, *shift, *weight, *bias;  // shift may be null
  void* out;
};

// Rows [begin, end), by the instructions of one level.
using Rows = void(const Params&, int64_t begin, int64_t end);
Rows rows_baseline;
#if defined(__x86_64__)
Rows rows_avx2, rows_avx512;
#endif

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

void forward(const Params&, leanconv::Isa, ParallelFor);

}  // namespace pathconv::norm_gelu
