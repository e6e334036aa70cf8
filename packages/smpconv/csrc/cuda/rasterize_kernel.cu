// Plans and launches the kernels of rasterize. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/rasterize_kernel.cuh"
#include "cuda/rasterize_kernel.h"

namespace smpconv::points {
namespace {

using leanconv::ceil_ratio;
using leanconv::launch;
using leanconv::with_dtype;

constexpr int64_t kMaxCount = 1 << 30;
constexpr int64_t kBlocksWanted = 512;
constexpr int64_t kDeep = 4;  // segments of a warp where there are enough blocks

int64_t spread_blocks(const Params& p) {
  const int64_t taps = int64_t{p.height} * p.width;
  return ceil_ratio(taps, 32 * p.across * p.depth) * p.groups * ceil_ratio(p.channels, kWarps / p.across * kChannels);
}

// As many warps side by side along the channels as those need, and work enough for a thread where there is plenty.
void plan_spread(Params* params) {
  Params& p = *params;
  p.across = kWarps;
  while (p.across > 1 && kWarps / p.across * kChannels < p.channels) p.across /= 2;
  p.depth = kDeep;
  if (p.across * p.depth > kMaxSegments || spread_blocks(p) < kBlocksWanted) p.depth = 1;
}

}  // namespace

bool representable(int64_t groups, int64_t channels, int64_t points, int64_t taps) {
  return std::max({groups, channels, points, taps}) <= kMaxCount;
}

void launch_spread(Params params, DType dtype, void* stream) {
  plan_spread(&params);
  with_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    const auto kernel = params.depth == kDeep ? spread<T, kDeep> : spread<T, 1>;
    launch(kernel, params, spread_blocks(params), kThreads, sizeof(Stage<T>), stream, kPackage);
  });
}

void launch_gather(const Params& params, DType dtype, void* stream) {
  with_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t blocks = int64_t{params.groups} * params.points;
    launch(gather<T>, params, blocks, kThreads, sizeof(List<T>), stream, kPackage);
  });
}

}  // namespace smpconv::points

std::string smpconv::compiled_archs() { return leanconv::compiled_archs(); }
