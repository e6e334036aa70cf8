// What the plans of the depthwise convolution's kernels share. Host side; included by .cu files alone.
#pragma once

#include "common/host.cuh"
#include "cuda/depthwise_kernel.cuh"
#include "cuda/depthwise_kernel.h"

namespace smpconv::depthwise {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::launch;
using leanconv::with_dtype;

constexpr int64_t kMaxShared = 64 * 1024;  // what every GPU has, and several blocks on larger ones

struct Instance {
  int sums, copies;
  bool crossed;
};

// Chooses the first of the instances that cost least; what cannot run costs less than 0.
template <int Count, typename Cost>
void choose(const Instance (&instances)[Count], Params* params, Cost cost) {
  int64_t least = -1;
  for (const Instance& instance : instances) {
    const int64_t now = cost(instance, *params);
    if (now < 0 || (least >= 0 && now >= least)) continue;
    least = now;
    params->sums = instance.sums;
    params->copies = instance.copies;
    params->crossed = instance.crossed;
  }
}

inline int64_t half(int64_t count) { return (count + 1) / 2; }

}  // namespace smpconv::depthwise
