// Device code of the forward pass. A block takes neighbouring taps of one group and a slice of its channels. It
// collects the points that may touch its taps, in order, then their tents and weights in shared memory, a few points at
// a time; every thread adds up some taps of some channels in registers, so a kernel is written once and nothing is
// added in memory. Of 32 neighbouring taps that a point does not touch no thread takes note.
//
// Where every point touches every tap this is a dense product of weights and tents in tiles of shared memory: one
// multiplication for each point, tap and channel, tents computed once for each slice of up to 64 channels. So nothing
// is switched when radii grow.
#pragma once

#include "cuda/points.cuh"

namespace smpconv::points {

constexpr int kChannels = 8;          // of a thread
constexpr int kMaxSegments = 8;       // of a block, 32 taps each
constexpr int kPadding = 4;           // of a point's weights, so that writing them meets few bank conflicts
constexpr unsigned kLost = 1u << 16;  // beside a warp's number of points

// In shared memory at once: points, and tents of theirs over the block's taps.
template <typename T>
constexpr int kPoints = 256 / sizeof(Accumulator<T>);
template <typename T>
constexpr int kTents = 64 * kPoints<T>;

// What a block has in shared memory.
template <typename T>
struct Stage {
  using A = Accumulator<T>;
  Point points[kThreads];  // that may touch the block's taps
  int numbers[kThreads];   // theirs in the group
  unsigned counts[kWarps];
  unsigned masks[kPoints<T>][kMaxSegments];  // which taps of a segment a point touches
  A tents[kTents<T>];                        // point by point
  alignas(16) A weights[kPoints<T>][kWarps * kChannels + kPadding];
};

// The taps and channels of a block, and what is this thread's of them.
struct Share {
  int group, first_tap, first_channel, channels;  // channels of the block
  int segments, segment, row;                     // segment: the first one of this warp; row: of warps, by channels
  int lane, warp, taps;
  Box box;

  __device__ explicit Share(const Params& p) : taps(p.height * p.width) {
    warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    segments = p.across * p.depth;
    row = warp / p.across;
    segment = (warp - row * p.across) * p.depth;
    const int slice = kWarps / p.across * kChannels, slices = (p.channels + slice - 1) / slice;
    const int tiles = (taps + segments * 32 - 1) / (segments * 32);
    const int unit = static_cast<int>(blockIdx.x) / slices;  // slices of the same taps follow each other
    first_channel = (static_cast<int>(blockIdx.x) - unit * slices) * slice;
    channels = minimum(p.channels - first_channel, slice);
    group = unit / tiles;
    first_tap = (unit - group * tiles) * segments * 32;
    const int last_tap = minimum(first_tap + segments * 32, taps) - 1;
    box.row = first_tap / p.width, box.last_row = last_tap / p.width;
    const bool one_row = box.row == box.last_row;
    box.column = one_row ? first_tap - box.row * p.width : 0;
    box.last_column = one_row ? last_tap - box.row * p.width : p.width - 1;
  }
};

// Collects those of the kThreads points from `first` on that may touch the block's taps; returns how many they are and
// adds to `lost` whether one is not finite.
template <typename T>
__device__ int collect(const Params& p, const Share& s, int first, Stage<T>* stage, bool* lost) {
  const int number = first + static_cast<int>(threadIdx.x);
  const bool exists = number < p.points;
  const Point point = load_point<T>(p, static_cast<long long>(s.group) * p.points + (exists ? number : first));
  const bool touches = exists && may_touch(p, point, s.box);
  const unsigned found = __ballot_sync(kWarpMask, touches);
  const bool spoilt = __ballot_sync(kWarpMask, !is_finite(point)) != 0;
  if (s.lane == 0) stage->counts[s.warp] = static_cast<unsigned>(__popc(found)) + (spoilt ? kLost : 0);
  __syncthreads();
  int before = 0, total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    const unsigned count = stage->counts[warp];
    *lost = *lost || count >= kLost;
    if (warp < s.warp) before += static_cast<int>(count % kLost);
    total += static_cast<int>(count % kLost);
  }
  if (touches) {
    const int at = before + __popc(found & ((1u << s.lane) - 1));
    stage->points[at] = point;
    stage->numbers[at] = number;
  }
  __syncthreads();
  return total;
}

// Tents of `count` collected points from `first` on over the block's taps: a warp has one segment.
template <typename T>
__device__ void raise_tents(const Params& p, const Share& s, int first, int count, Stage<T>* stage) {
  const int segment = s.warp % s.segments, at = segment * 32 + s.lane, tap = s.first_tap + at;
  const bool exists = tap < s.taps;
  const int row = exists ? tap / p.width : 0;
  const Place place = tap_place(p, row, exists ? tap - row * p.width : 0);
  for (int i = s.warp / s.segments; i < count; i += kWarps / s.segments) {
    const Point point = stage->points[first + i];
    const double length = distance(point.place, place);
    const bool touches = exists && length < point.radius;
    stage->tents[i * s.segments * 32 + at] =
        touches ? static_cast<Accumulator<T>>(1 - length / point.radius) : Accumulator<T>(0);
    const unsigned mask = __ballot_sync(kWarpMask, touches);
    if (s.lane == 0) stage->masks[i][segment] = mask;
  }
}

// Weights of the same points for the block's channels. A thread has one point.
template <typename T>
__device__ void load_weights(const Params& p, const Share& s, int first, int count, Stage<T>* stage) {
  constexpr int kRows = kThreads / kPoints<T>;
  const int i = static_cast<int>(threadIdx.x) % kPoints<T>, row = static_cast<int>(threadIdx.x) / kPoints<T>;
  if (i >= count) return;
  const long long channel = static_cast<long long>(s.group) * p.channels + s.first_channel;
  const T* weight = static_cast<const T*>(p.weight) + channel * p.points + stage->numbers[first + i];
#pragma unroll 4
  for (int c = row; c < s.channels; c += kRows)
    stage->weights[i][c] = widen(weight[static_cast<long long>(c) * p.points]);
}

// Adds what the same points give to this thread's taps and channels.
template <typename T, int Depth>
__device__ void add_points(const Share& s, int count, const Stage<T>& stage, Accumulator<T> (&sum)[Depth][kChannels],
                           int (&touching)[Depth]) {
  using A = Accumulator<T>;
  constexpr int kWide = 16 / sizeof(A);
  for (int i = 0; i < count; ++i) {
    unsigned masks[Depth], any = 0;
#pragma unroll
    for (int d = 0; d < Depth; ++d) any |= masks[d] = stage.masks[i][s.segment + d];
    if (any == 0) continue;
    A weight[kChannels];
#pragma unroll
    for (int c = 0; c < kChannels; c += kWide) {
      const auto read = *reinterpret_cast<const Vector<A, kWide>*>(&stage.weights[i][s.row * kChannels + c]);
#pragma unroll
      for (int w = 0; w < kWide; ++w) weight[c + w] = read.value[w];
    }
#pragma unroll
    for (int d = 0; d < Depth; ++d) {
      if (masks[d] == 0) continue;
      const A tent = stage.tents[(i * s.segments + s.segment + d) * 32 + s.lane];
      touching[d] += masks[d] >> s.lane & 1;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sum[d][c] += weight[c] * tent;
    }
  }
}

template <typename T, int Depth>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) spread(const Params p) {
  using A = Accumulator<T>;
  Stage<T>* stage = reinterpret_cast<Stage<T>*>(leanconv::dynamic_shared());
  const Share s(p);
  A sum[Depth][kChannels] = {};
  int touching[Depth] = {};
  bool lost = false;
  const int most = minimum(kPoints<T>, kTents<T> / (s.segments * 32));
  for (int chunk = 0; chunk < p.points; chunk += kThreads) {
    const int found = collect(p, s, chunk, stage, &lost);
    for (int first = 0; first < found; first += most) {
      const int count = minimum(found - first, most);
      raise_tents(p, s, first, count, stage);
      load_weights(p, s, first, count, stage);
      __syncthreads();
      add_points<T, Depth>(s, count, *stage, sum, touching);
      __syncthreads();  // before the next points take their place
    }
  }
#pragma unroll
  for (int d = 0; d < Depth; ++d) {
    const int tap = s.first_tap + (s.segment + d) * 32 + s.lane;
    if (tap >= s.taps) continue;
    const A divisor = p.average ? static_cast<A>(touching[d] + 1e-6) : A(1);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int channel = s.row * kChannels + c;
      if (channel >= s.channels) continue;
      const long long at = (static_cast<long long>(s.group) * p.channels + s.first_channel + channel) * s.taps + tap;
      const A value = lost ? not_a_number<A>() : p.average ? sum[d][c] / divisor : sum[d][c];
      static_cast<T*>(p.kernel)[at] = narrow<T>(value);
    }
  }
}

}  // namespace smpconv::points
