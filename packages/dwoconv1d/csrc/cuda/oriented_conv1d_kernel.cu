// Plans and launches the kernels. No torch header: compiles in seconds per architecture.
#include <algorithm>

#include "common/host.cuh"
#include "cuda/oriented_conv1d_kernel.cuh"
#include "cuda/oriented_conv1d_kernel.h"

namespace dwoconv1d {
namespace {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::with_dtype;

constexpr const char* kPackage = "dwoconv1d";
constexpr int64_t kMaxShared = 96 * 1024;  // two blocks per multiprocessor of an H100 or H200
constexpr int64_t kBlocksWanted = 2048;    // of the weight gradient; the same on every GPU
constexpr int64_t kMaxListed = 128;        // taps
constexpr int64_t kMaxSide = 1 << 29;      // keeps coordinates and offsets far from the ends of int

// channels_last wherever channels are neighbours in memory and the pixels of a row are not.
bool reads_channels(const Params& p) { return p.source_stride.w != 1 && p.source_stride.c == 1 && p.channels > 1; }

int64_t channels_per_block(const Params& p, int64_t bytes) { return reads_channels(p) ? 32 / bytes : 1; }

int64_t units_of(const Params& p) {
  return ceil_ratio(p.cells_h, p.tile_h) * ceil_ratio(p.cells_w, p.tile_w) * ceil_ratio(p.batch, p.tile_n);
}

int taps_at_once(int taps) { return taps <= 8 ? 8 : 32; }

// Source pixels along one side of a tile whose taps lie on a line of neighbours. A longer halo is met with a smaller
// part of it.
int64_t extent(int64_t tile, int64_t cells, int64_t step, int64_t size, int64_t taps) {
  const int64_t halo = std::min(taps - 1, size - 1 + (cells - 1) * step);
  return (tile - 1) * step + 1 + std::max<int64_t>(halo, 0);
}

template <typename T>
void gather_as(const Params& p, void* stream) {
  const int64_t blocks = units_of(p) * ceil_ratio(p.channels, channels_per_block(p, sizeof(T)));
  const auto kernel = reads_channels(p) ? gather<T, true> : gather<T, false>;
  leanconv::launch(kernel, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
}

template <typename T, bool ChannelsLast>
auto reduce_kernel(int taps) {
  return taps_at_once(taps) == 8 ? reduce<T, ChannelsLast, 8> : reduce<T, ChannelsLast, 32>;
}

template <typename T>
void grad_weight_as(const Params& p, void* stream) {
  const auto kernel = reads_channels(p) ? reduce_kernel<T, true>(p.taps) : reduce_kernel<T, false>(p.taps);
  const int64_t blocks = p.splits * ceil_ratio(p.channels, channels_per_block(p, sizeof(T)));
  leanconv::launch(kernel, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
  const int64_t sums = static_cast<int64_t>(p.channels) * (p.taps + 1);
  leanconv::launch(finish<T>, p, ceil_ratio(sums, kThreads), kThreads, 0, stream, kPackage);
}

}  // namespace

bool representable(const int64_t (&sizes)[3], const int64_t (&sides)[4]) {
  return *std::max_element(sizes, sizes + 3) < 0x7fffffff && *std::max_element(sides, sides + 4) <= kMaxSide;
}

void make_plan(Params* params, DType dtype, bool weight_sums, int device) {
  Params& p = *params;
  const int64_t bytes = leanconv::bytes_of(dtype), sum_bytes = leanconv::sum_bytes_of(dtype);
  const int64_t channels = channels_per_block(p, bytes), side = channels > 1 ? 32 : 64;
  const int64_t images = channels == 1 && bytes == 2 ? 2 : 1;  // per slot of the tile
  const int64_t step_h = p.grad_input ? 1 : p.stride_h, step_w = p.grad_input ? 1 : p.stride_w;
  p.tile_h = even_part(p.cells_h, std::max<int64_t>(side / step_h, 1));
  p.tile_w = even_part(p.cells_w, std::max<int64_t>(side / step_w, 1));
  const int64_t wanted = 1024 / (p.tile_h * p.tile_w * channels);  // small planes share a block
  p.tile_n = images * std::max<int64_t>(std::min(wanted, ceil_ratio(p.batch, images)), 1);

  p.list_taps = weight_sums ? taps_at_once(p.taps) : std::min<int64_t>(p.taps, kMaxListed);
  const int64_t entry_bytes = weight_sums ? 8 : 2 * sum_bytes;
  const int64_t before_tile = kHeadBytes + p.list_taps * channels * entry_bytes + 16;
  const int64_t pixels =
      extent(p.tile_h, p.cells_h, step_h, p.source_h, p.taps) * extent(p.tile_w, p.cells_w, step_w, p.source_w, p.taps);
  const int64_t tile = p.tile_n * (pixels + (channels > 1 ? 128 : 0)) * channels * bytes;
  const int64_t limit = std::min(leanconv::shared_limit(device, kPackage), kMaxShared);
  const int64_t warp_sums = weight_sums ? kWarps * (p.list_taps + 1) * channels * sum_bytes : 0;
  p.shared_bytes = before_tile + std::max(std::min(tile, limit - before_tile), warp_sums);
  const int64_t groups = std::max<int64_t>(ceil_ratio(p.channels, channels), 1);
  p.splits = std::max<int64_t>(std::min({kBlocksWanted / groups, units_of(p), int64_t{256}}), 1);
}

void launch_gather(const Params& params, DType dtype, void* stream) {
  with_dtype(dtype, [&](auto t) { gather_as<decltype(t)>(params, stream); });
}

void launch_grad_weight(const Params& params, DType dtype, void* stream) {
  with_dtype(dtype, [&](auto t) { grad_weight_as<decltype(t)>(params, stream); });
}

std::string compiled_archs() { return leanconv::compiled_archs(); }

}  // namespace dwoconv1d
