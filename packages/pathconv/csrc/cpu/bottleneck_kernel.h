// The rows between the matrix products of the bottleneck: plain C++, no torch types and, for the units compiled for
// newer processors, no STL.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pathconv::bottleneck {

// `rows` rows of `channels` numbers, one behind the other; all float64 where a kernel is told `wide`, else float32.
struct Rows {
  int64_t rows, channels;
};

// out = (x - mean) * scale, where 1 / scale is the standard deviation of the row
struct Normalize : Rows {
  double eps;
  const void* x;
  void *out, *scale;  // scale (rows), may be null
};
// Turns the gradient of Normalize's result into that of its x, in place.
struct NormalizeGrad : Rows {
  const void *normalized, *scale;
  void* grad;
};

// out = gelu(normalized(x + shift) * weight + bias); may be in place
struct Activate : Rows {
  double eps;
  const void *x, *shift, *weight, *bias;
  void* out;
};
// Computes that once more and turns the gradient of it, in place, into that of x; the others (channels) grow by theirs.
struct ActivateGrad : Activate {
  void *grad, *grad_shift, *grad_weight, *grad_bias;
};

// out = x + factor * (z + end), where a factor belongs to `length` rows; no factor is one; z may be in place
struct Residual : Rows {
  int64_t first, length;  // first: of all rows, which row this begins with
  const void *x, *z, *factor, *end;
  void* out;
};
// out = factor * grad; grad_end (channels) grows by its sum. Without factor, out is not written.
struct ResidualGrad : Rows {
  int64_t first, length;
  const void *grad, *factor;
  void *out, *grad_end;
};

struct Level {
  void (*normalize)(bool wide, const Normalize&);
  void (*normalize_grad)(bool wide, const NormalizeGrad&);
  void (*activate)(bool wide, const Activate&);
  void (*activate_grad)(bool wide, const ActivateGrad&);
  void (*residual)(bool wide, const Residual&);
  void (*residual_grad)(bool wide, const ResidualGrad&);
};

extern const Level level_baseline;
#if defined(__x86_64__)
extern const Level level_avx2, level_avx512;
#endif

inline const Level& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return level_avx512;
  if (isa == leanconv::Isa::avx2) return level_avx2;
#endif
  return level_baseline;
}

}  // namespace pathconv::bottleneck
