// Plans and launches the kernels over feature maps. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/pick_or_mix_grad.cuh"
#include "cuda/pick_or_mix_kernel.h"

namespace pix::maps {
namespace {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::launch;
using leanconv::with_dtype;

constexpr int64_t kBlocksWanted = 1024;
constexpr int64_t kMaxCount = 1 << 30;
constexpr int64_t kMaxPieces = 64;       // that somebody adds up
constexpr int64_t kMaxReads = 8;         // of a thread
constexpr int64_t kMaxColumns = 64;      // of a block
constexpr int64_t kMaxSumColumns = 32;   // of a block that has rows to add up
constexpr int64_t kMaxOneWarp = 1024;    // reads in a plane of a warp, where there are many planes
constexpr int64_t kMaxAlone = 256;       // and where there are few
constexpr int64_t kMaxSummed = 512;      // and of a sum
constexpr int64_t kMaxPacked = 256;      // pixels of a plane that shares a block
constexpr int64_t kPackedPixels = 1024;  // of such a block
constexpr int64_t kMaxAligned = 16;      // bytes

int64_t address_of(const void* data) { return reinterpret_cast<int64_t>(data); }

// Whether all tensors of a launch but the choice, of one byte, can be read by `width` neighbours.
bool aligned(const Params& p, int64_t width, int64_t bytes) {
  const int64_t maps = address_of(p.x) | address_of(p.grad) | address_of(p.y) | address_of(p.grad_x);
  return maps % std::min(width * bytes, kMaxAligned) == 0;
}

// Blocks that share the pixels of an image: `units` blocks would do without, each of which covers `step` reads at once.
int64_t pieces_of(int64_t units, int64_t reads, int64_t step, bool sums) {
  const int64_t wanted = std::max(ceil_ratio(reads, kMaxReads * step), kBlocksWanted / std::max<int64_t>(units, 1));
  const int64_t most = sums ? std::min(ceil_ratio(reads, step), kMaxPieces) : ceil_ratio(reads, step);
  return std::max<int64_t>(std::min(wanted, most), 1);
}

// The same for sums of which decisions are made: it must not depend on the batch.
int64_t sum_pieces(int64_t reads, int64_t step) {
  return std::max<int64_t>(std::min(ceil_ratio(reads, kMaxReads * step), kMaxPieces), 1);
}

// Neighbours that a thread reads in a plane.
int64_t plane_width(const Params& p, int64_t bytes) {
  for (const int64_t width : {bytes == 2 ? 8 : 4, 4}) {
    const bool choice_fits = p.wide || address_of(p.choice) % width == 0;
    if (p.pixels % width == 0 && aligned(p, width, bytes) && choice_fits) return width;
  }
  return 1;
}

// The team of a plane of `reads`, a warp or less if they are at most `limit`.
int64_t team_of(int64_t reads, int64_t limit) {
  if (reads > limit) return kThreads;
  int64_t team = 1;
  while (team < 32 && team < reads) team *= 2;
  return team;
}

void plan_planes(Params* params, int64_t bytes, bool sums) {
  Params& p = *params;
  p.width = plane_width(p, bytes);
  const int64_t reads = p.pixels / p.width, planes = int64_t{p.batch} * p.outputs;
  if (p.width == 1 && p.pixels <= kMaxPacked && p.pixels > 1 && !sums) {
    p.pieces = 1;
    p.span = kPackedPixels / p.pixels;  // planes
    return;
  }
  p.team = team_of(reads, planes >= kBlocksWanted * kWarps ? kMaxOneWarp : kMaxAlone);
  p.pieces = p.team < kThreads ? 1 : pieces_of(planes, reads, kThreads, sums);
  p.span = ceil_ratio(reads, p.pieces);
}

int64_t plane_blocks(const Params& p, int64_t channels) {
  if (p.team == 0) return ceil_ratio(int64_t{p.batch} * channels, p.span);
  return ceil_ratio(p.batch * channels * static_cast<int64_t>(p.pieces), kThreads / p.team);
}

// Subsets of an item, the same as kSubsets in device code.
int64_t subsets_of(int64_t zeta, int64_t bytes) { return zeta > 0 && zeta * bytes < 16 ? 16 / (zeta * bytes) : 1; }

int64_t column_blocks(const Params& p, int64_t items) {
  return ceil_ratio(items, p.columns) * p.batch * static_cast<int64_t>(p.pieces);
}

int64_t summed_channels(const Params& p) { return p.product ? p.outputs : p.channels; }

// Items of a pixel in `pick` and `scatter`.
int64_t subset_items(const Params& p, int64_t bytes) { return p.outputs / subsets_of(p.width, bytes); }

void plan_subsets(Params* params, DType dtype, bool last, bool sums) {
  Params& p = *params;
  const int64_t bytes = bytes_of(dtype), zeta = p.zeta, subsets = subsets_of(zeta, bytes);
  if (!last) return plan_planes(params, bytes, sums);
  const bool fits = (zeta == 1 || zeta == 2 || zeta == 4 || zeta == 8) && p.channels % (zeta * subsets) == 0;
  p.width = fits && aligned(p, zeta * subsets, bytes) && address_of(p.choice) % subsets == 0 ? zeta : 0;
  const int64_t items = subset_items(p, bytes);
  p.columns = even_part(items, kMaxColumns);
  p.pieces = pieces_of(p.batch * ceil_ratio(items, p.columns), p.pixels, kThreads / p.columns, sums);
  p.span = ceil_ratio(p.pixels, p.pieces);
}

// launch_as(width) with the width of the plan, in which `Wide` may be more than 4.
template <int Wide, typename Function>
void with_width(int width, Function function) {
  if (width == Wide) return function(std::integral_constant<int, Wide>());
  if (width == 4) return function(std::integral_constant<int, 4>());
  function(std::integral_constant<int, 1>());
}

template <typename Function>
void with_zeta(int zeta, Function function) {
  switch (zeta) {
    case 1: return function(std::integral_constant<int, 1>());
    case 2: return function(std::integral_constant<int, 2>());
    case 4: return function(std::integral_constant<int, 4>());
    case 8: return function(std::integral_constant<int, 8>());
    default: return function(std::integral_constant<int, 0>());
  }
}

template <typename T>
void pick_as(const Params& p, bool last, void* stream) {
  if (last) {
    const int64_t blocks = column_blocks(p, subset_items(p, sizeof(T)));
    with_zeta(p.width, [&](auto zeta) { launch(pick_pixels<T, zeta>, p, blocks, kThreads, 0, stream, kPackage); });
  } else {
    const int64_t blocks = plane_blocks(p, p.outputs);
    if (p.team == 0) return launch(pick_packed<T>, p, blocks, kThreads, 0, stream, kPackage);
    with_width<kWide<T>>(p.width,
                         [&](auto width) { launch(pick_planes<T, width>, p, blocks, kThreads, 0, stream, kPackage); });
  }
}

template <typename T>
void sums_as(const Params& p, bool last, void* stream) {
  const int64_t channels = summed_channels(p), bytes = sizeof(Accumulator<T>);
  if (last) {
    const int64_t blocks = column_blocks(p, channels / p.width), shared = kThreads * p.width * bytes;
    with_width<kWide<T>>(
        p.width, [&](auto width) { launch(sum_pixels<T, width>, p, blocks, kThreads, shared, stream, kPackage); });
  } else if (p.team == kThreads) {
    const int64_t blocks = plane_blocks(p, channels), shared = kWarps * bytes;
    with_width<kWide<T>>(
        p.width, [&](auto width) { launch(sum_planes<T, width>, p, blocks, kThreads, shared, stream, kPackage); });
  } else {
    const int64_t planes = int64_t{p.batch} * channels;
    with_width<kWide<T>>(p.width, [&](auto width) {
      const int64_t blocks = ceil_ratio(planes, kThreads / p.team * kSummands<width>);
      launch(sum_small_planes<T, width>, p, blocks, kThreads, 0, stream, kPackage);
    });
  }
}

template <typename T>
void scatter_as(const Params& p, bool last, void* stream) {
  const int64_t bytes = sizeof(Accumulator<T>);
  if (last) {
    const int64_t blocks = column_blocks(p, subset_items(p, sizeof(T)));
    const int64_t shared = kThreads * subsets_of(p.width, sizeof(T)) * bytes;
    with_zeta(p.width,
              [&](auto zeta) { launch(scatter_pixels<T, zeta>, p, blocks, kThreads, shared, stream, kPackage); });
  } else {
    const int64_t blocks = plane_blocks(p, p.outputs), shared = kWarps * bytes;
    if (p.team == 0) return launch(scatter_packed<T>, p, blocks, kThreads, 0, stream, kPackage);
    with_width<kWide<T>>(
        p.width, [&](auto width) { launch(scatter_planes<T, width>, p, blocks, kThreads, shared, stream, kPackage); });
  }
  if (p.grad_gates != nullptr && p.pieces > 1)
    launch(finish<T>, p, ceil_ratio(int64_t{p.batch} * p.outputs, kThreads), kThreads, 0, stream, kPackage);
}

}  // namespace

bool representable(int64_t batch, int64_t channels, int64_t pixels) {
  return std::max({batch, channels, pixels}) <= kMaxCount && batch * channels <= kMaxCount;
}

void launch_pick(Params params, DType dtype, bool last, void* stream) {
  plan_subsets(&params, dtype, last, false);
  with_dtype(dtype, [&](auto t) { pick_as<decltype(t)>(params, last, stream); });
}

void plan_sums(Params* params, DType dtype, bool last) {
  Params& p = *params;
  const int64_t channels = summed_channels(p), bytes = bytes_of(dtype), wide = bytes == 2 ? 8 : 4;
  if (last) {
    p.width = channels % wide == 0 && aligned(p, wide, bytes) ? wide : 1;
    p.columns = even_part(channels / p.width, kMaxSumColumns);
    p.pieces = sum_pieces(p.pixels, 2 * kThreads / p.columns);
    p.span = ceil_ratio(p.pixels, p.pieces);
  } else {
    p.width = plane_width(p, bytes);
    const int64_t reads = p.pixels / p.width;
    p.team = team_of(reads, kMaxSummed);
    p.pieces = p.team < kThreads ? 1 : sum_pieces(reads, kThreads);
    p.span = ceil_ratio(reads, p.pieces);
  }
}

void launch_sums(const Params& params, DType dtype, bool last, void* stream) {
  with_dtype(dtype, [&](auto t) { sums_as<decltype(t)>(params, last, stream); });
}

void plan_scatter(Params* params, DType dtype, bool last) {
  plan_subsets(params, dtype, last, params->grad_gates != nullptr);
}

void launch_scatter(const Params& params, DType dtype, bool last, void* stream) {
  with_dtype(dtype, [&](auto t) { scatter_as<decltype(t)>(params, last, stream); });
}

}  // namespace pix::maps

std::string pix::compiled_archs() { return leanconv::compiled_archs(); }
