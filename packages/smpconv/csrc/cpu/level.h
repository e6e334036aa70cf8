// The kernels of each level, and which of them run.
#pragma once

#include "common/isa.h"
#include "cpu/depthwise_job.h"
#include "cpu/rasterize_job.h"

namespace smpconv {

struct Level {
  DepthwiseLevel depthwise;
  RasterizeLevel rasterize;
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

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

// Where kernels run.
struct Place {
  const Level& level;
  ParallelFor parallel;
  int64_t threads;
};

// body(begin, end) on pieces of [0, count), each of which is `cost` multiply-adds.
template <class F>
void run(const Place& place, int64_t count, int64_t cost, const F& body) {
  constexpr int64_t kCostPerThread = 1 << 18;
  if (count == 0) return;
  const int64_t grain = cost >= kCostPerThread ? 1 : kCostPerThread / (cost > 0 ? cost : 1);
  const auto call = [](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); };
  place.parallel(count, grain, call, &body);
}

}  // namespace smpconv
