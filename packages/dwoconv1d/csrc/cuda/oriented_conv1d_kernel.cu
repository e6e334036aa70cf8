// Plans and launches the kernels. No torch header: compiles in seconds per architecture.
#include "cuda/oriented_conv1d_kernel.h"

#include <algorithm>

#include "common/launch.cuh"
#include "cuda/oriented_conv1d_kernel.cuh"

namespace dwoconv1d {
namespace {

constexpr const char* kPackage = "dwoconv1d";
constexpr long long kMaxShared = 96 * 1024;  // two blocks per multiprocessor on every GPU since sm_80, but sm_86 and sm_89
constexpr long long kBlocksWanted = 2048;    // of the weight gradient; a constant, so that sums do not depend on the GPU
constexpr long long kMaxGrid = 0x7fffffff;
constexpr long long kMaxSide = 1 << 30;

// channels_last wherever pixels of one image row are not neighbours, but channels are.
bool reads_channels(const Params& p) { return p.source_stride.w != 1 && p.source_stride.c == 1 && p.channels > 1; }

int taps_at_once(long long taps) { return taps <= 8 ? 8 : taps <= 16 ? 16 : 32; }

long long groups(const Params& p, int bytes) {
  const long long channels = reads_channels(p) ? 32 / bytes : 1;
  return (p.channels + channels - 1) / channels;
}

// The length of equal tiles that cover `cells`, none longer than `limit`.
long long even_tile(long long cells, long long limit) {
  const long long tiles = std::max((cells + limit - 1) / limit, 1LL);
  return std::max((cells + tiles - 1) / tiles, 1LL);
}

// Source pixels under a tile if the taps lie on a line of neighbours; a longer halo is met by smaller pieces of the tile.
long long extent(long long tile, long long cells, long long step, long long size, long long taps) {
  const long long halo = std::min(taps - 1, size - 1 + (cells - 1) * step);
  return (tile - 1) * std::min(step, size) + 1 + std::max(halo, 0LL);
}

long long units(const Params& p) {
  return (p.batch + p.tile_n - 1) / p.tile_n * ((p.cells_h + p.tile_h - 1) / p.tile_h) * ((p.cells_w + p.tile_w - 1) / p.tile_w);
}

template <typename T>
void gather_as(const Params& p, void* stream) {
  const long long blocks = std::min(units(p) * groups(p, sizeof(T)), kMaxGrid);
  const auto kernel = reads_channels(p) ? gather<T, true> : gather<T, false>;
  leanconv::launch(kernel, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
}

template <typename T, bool ChannelsLast>
auto reduce_kernel(long long taps) {
  const int at_once = taps_at_once(taps);
  return at_once == 8 ? reduce<T, ChannelsLast, 8> : at_once == 16 ? reduce<T, ChannelsLast, 16> : reduce<T, ChannelsLast, 32>;
}

template <typename T>
void grad_weight_as(const Params& p, void* stream) {
  const auto kernel = reads_channels(p) ? reduce_kernel<T, true>(p.taps) : reduce_kernel<T, false>(p.taps);
  leanconv::launch(kernel, p, groups(p, sizeof(T)) * p.splits, kThreads, p.shared_bytes, stream, kPackage);
  const long long blocks = std::min((p.channels * (p.taps + 1) + kThreads - 1) / kThreads, kMaxGrid);
  leanconv::launch(finish<T>, p, blocks, kThreads, 0, stream, kPackage);
}

}  // namespace

void make_plan(Params* params, DType dtype, bool weight_sums, int device) {
  Params& p = *params;
  const int bytes = dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
  const bool channels_last = reads_channels(p);
  const long long channels = channels_last ? 32 / bytes : 1;
  const long long images = !channels_last && bytes == 2 ? 2 : 1;  // per slot of the tile
  const long long step_h = p.grad_input ? 1 : p.stride_h, step_w = p.grad_input ? 1 : p.stride_w;
  const long long side = channels_last ? 32 : 64;
  p.tile_h = even_tile(p.cells_h, std::max(side / step_h, 8LL));
  p.tile_w = even_tile(p.cells_w, std::max(side / step_w, 8LL));
  const long long wanted = 1024 / (p.tile_h * p.tile_w * channels);  // small planes share a block
  p.tile_n = images * std::max(std::min(wanted, (p.batch + images - 1) / images), 1LL);

  const long long sum_bytes = bytes == 8 ? 8 : 4;
  const long long pixels = extent(p.tile_h, p.cells_h, step_h, p.source_h, p.taps) *
                           extent(p.tile_w, p.cells_w, step_w, p.source_w, p.taps);
  const long long tile = (p.tile_n * pixels + (channels_last ? 256 : 0)) * channels * bytes;
  long long head = 64 + p.taps * channels * 2 * sum_bytes + 16, least = 0;
  if (weight_sums) {
    const long long at_once = taps_at_once(p.taps);
    head = 64 + at_once * channels * 16 + 16;
    least = head + kWarps * (at_once + 1) * channels * sum_bytes;
  }
  const long long limit = std::min(leanconv::shared_limit(device, kPackage), kMaxShared);
  p.shared_bytes = std::max(std::min(head + tile, limit), least);
  p.splits = std::max(std::min({kBlocksWanted / std::max(groups(p, bytes), 1LL), units(p), 256LL}), 1LL);
  if (std::max({p.source_h, p.source_w, p.target_h, p.target_w}) > kMaxSide) {
    throw std::runtime_error("dwoconv1d: an image has more than 2^30 rows or columns.");
  }
}

void launch_gather(const Params& params, DType dtype, void* stream) {
  switch (dtype) {
    case DType::float64: return gather_as<double>(params, stream);
    case DType::float16: return gather_as<leanconv::Half>(params, stream);
    case DType::bfloat16: return gather_as<leanconv::BFloat16>(params, stream);
    default: return gather_as<float>(params, stream);
  }
}

void launch_grad_weight(const Params& params, DType dtype, void* stream) {
  switch (dtype) {
    case DType::float64: return grad_weight_as<double>(params, stream);
    case DType::float16: return grad_weight_as<leanconv::Half>(params, stream);
    case DType::bfloat16: return grad_weight_as<leanconv::BFloat16>(params, stream);
    default: return grad_weight_as<float>(params, stream);
  }
}

const char* compiled_archs() {
  static const std::string names = leanconv::compiled_archs();
  return names.c_str();
}

}  // namespace dwoconv1d
