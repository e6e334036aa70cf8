// Plans and launches the kernels of the depthwise convolution. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/depthwise_conv1d_kernel.cuh"
#include "cuda/depthwise_conv1d_kernel.h"

namespace pathconv::depthwise {
namespace {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::with_dtype;

constexpr int64_t kBlocksWanted = 2048;  // of the weight gradient; the same on every GPU
constexpr int64_t kMaxSplits = 256;
constexpr int64_t kMaxShared = 48 * 1024;  // several blocks per multiprocessor, on any GPU
constexpr int64_t kMaxListed = 64;         // taps
constexpr int64_t kMaxCount = 1 << 30;

bool is_channels_last(const Strides& stride, int64_t channels) {
  return stride.c == 1 && stride.l != 1 && channels > 1;
}

int64_t groups_of(const Params& p) { return ceil_ratio(p.channels, p.group); }

int64_t phases_of(const Params& p) { return p.grad_input ? p.stride : 1; }

// Taps of the longest phase.
int64_t most_taps(const Params& p) { return ceil_ratio(p.taps, p.stride); }

bool reads_vectors(const void* data, const Strides& stride, int64_t bytes) {
  return stride.c == 1 && (stride.l | stride.n) % 4 == 0 && reinterpret_cast<int64_t>(data) % (4 * bytes) == 0;
}

// Whether a block's channels are the same neighbours in all tensors.
bool fits_vectors(const Params& p) {
  return is_channels_last(p.target_stride, p.channels) && p.multiplier == 1 && p.channels % 4 == 0;
}

// Channels and runs of a block: whole sectors of channels, and no run without work.
void plan_tile(Params* p, int64_t outputs, int64_t run) {
  p->group = std::min<int64_t>(p->channels, 16 * even_part(ceil_ratio(p->channels, 16), 4));
  p->runs = even_part(ceil_ratio(outputs, run), kThreads / p->group);
}

void plan_correlate(Params* params, DType dtype) {
  Params& p = *params;
  plan_tile(&p, ceil_ratio(p.target_length, phases_of(p)), kRun);
  p.vectors = fits_vectors(p) && reads_vectors(p.source, p.source_stride, bytes_of(dtype));
  const int64_t pitch = pitch_of(p), before = (p.runs * kRun + kWindow - 1) * pitch;
  const int64_t fitting = (kMaxShared / sum_bytes_of(dtype) - before) / (p.group + pitch);
  p.list_taps = std::max<int64_t>(std::min({fitting, most_taps(p), kMaxListed}), 1);
  p.shared_bytes = (before + p.list_taps * (p.group + pitch)) * sum_bytes_of(dtype);
}

template <typename T>
void correlate_as(const Params& p, void* stream) {
  const int64_t tiles = ceil_ratio(ceil_ratio(p.target_length, phases_of(p)), p.runs * kRun);
  const int64_t blocks = tiles * groups_of(p) * phases_of(p) * p.batch;
  const auto kernel = is_channels_last(p.target_stride, p.channels) ? correlate<T, true> : correlate<T, false>;
  leanconv::launch(kernel, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
}

// Blocks of the weight gradient that share nothing.
int64_t sum_tiles(const Params& p) {
  return groups_of(p) * std::min(p.stride, p.taps) * ceil_ratio(most_taps(p), kSumTaps) * p.samples;
}

template <typename T>
void weight_sums_as(const Params& p, void* stream) {
  const auto kernel = is_channels_last(p.target_stride, p.channels) ? reduce<T, true> : reduce<T, false>;
  const int64_t blocks = sum_tiles(p) * p.splits;
  if (blocks > 0) leanconv::launch(kernel, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
  const int64_t sums = p.channels * (static_cast<int64_t>(p.samples) * p.taps + 1);
  leanconv::launch(finish<T>, p, ceil_ratio(sums, kWarps), kThreads, 0, stream, kPackage);
}

}  // namespace

bool representable(int64_t batch, int64_t channels, int64_t positions) {
  return std::max({batch, channels, positions}) <= kMaxCount;
}

void launch_correlate(Params params, DType dtype, void* stream) {
  plan_correlate(&params, dtype);
  with_dtype(dtype, [&](auto t) { correlate_as<decltype(t)>(params, stream); });
}

void plan_weight_sums(Params* params, DType dtype) {
  Params& p = *params;
  plan_tile(&p, p.target_length, kSumRun);
  const int64_t tile = p.runs * kSumRun;
  p.list_taps = kSumTaps;
  p.vectors = fits_vectors(p) && reads_vectors(p.source, p.source_stride, bytes_of(dtype)) &&
              reads_vectors(p.target, p.target_stride, bytes_of(dtype));
  p.shared_bytes = std::max<int64_t>((2 * tile + kSumTaps - 1) * pitch_of(p), p.runs * (kSumTaps + 1) * p.group) *
                   sum_bytes_of(dtype);
  const int64_t units = (p.samples > 0 ? p.batch / p.samples : 0) * ceil_ratio(p.target_length, tile);
  const int64_t wanted = kBlocksWanted / std::max<int64_t>(sum_tiles(p), 1);
  p.splits = std::max<int64_t>(std::min({wanted, units, kMaxSplits}), 1);
}

void launch_weight_sums(const Params& params, DType dtype, void* stream) {
  with_dtype(dtype, [&](auto t) { weight_sums_as<decltype(t)>(params, stream); });
}

}  // namespace pathconv::depthwise
