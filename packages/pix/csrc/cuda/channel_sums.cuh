// Device code of the sums over the pixels of an image: of x or |x| for the layer's context, of grad * y for the
// gradient of its gates. Pieces of an image are added up in order by whoever reads them, so no atomics are needed.
#pragma once

#include "cuda/pick_or_mix_kernel.cuh"

namespace pix::maps {

// What a thread adds up, Width channels or neighbours at a time.
template <typename T, int Width>
struct Summand {
  using A = Accumulator<T>;
  Vector<T, Width> first, second;

  __device__ void load(const Params& p, long long at) {
    first = neighbours<T, Width>(p.product ? p.grad : p.x, at);
    if (p.product) second = neighbours<T, Width>(p.y, at);
  }
  __device__ A operator()(const Params& p, int w) const {
    const A value = widen(first.value[w]);
    if (p.product) return value * widen(second.value[w]);
    return p.absolute && value < 0 ? -value : value;
  }
  __device__ A total(const Params& p) const {
    A sum = 0;
#pragma unroll
    for (int w = 0; w < Width; ++w) sum += (*this)(p, w);
    return sum;
  }
};

template <int Width>
constexpr int kSummands = Width == 8 ? 2 : 4;  // under way at once

// A block takes a plane, or a piece of one.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) sum_planes(const Params p) {
  using A = Accumulator<T>;
  constexpr int kCount = kSummands<Width>;
  const int channels = p.product ? p.outputs : p.channels;
  const Team t(p, channels, Width);
  const long long plane = (static_cast<long long>(t.image) * channels + t.channel) * p.pixels;
  A sum[kCount] = {};
  for (int i = t.first; i < t.last; i += kCount * p.team) {
    const int count = left(i, t.last, p.team);
    Summand<T, Width> summand[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j < count) summand[j].load(p, plane + (i + static_cast<long long>(j) * p.team) * Width);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j < count) sum[j] += summand[j].total(p);
    }
  }
#pragma unroll
  for (int j = 1; j < kCount; ++j) sum[0] += sum[j];
  const A total = team_sum(p, sum[0]);
  if (t.works && threadIdx.x == 0)
    static_cast<A*>(p.partial)[partial_at(p, t.image, t.piece, t.channel, channels)] = total;
}

// A team of at most a warp takes several planes at once, whose pixels follow each other in memory.
template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) sum_small_planes(const Params p) {
  using A = Accumulator<T>;
  constexpr int kCount = kSummands<Width>, kRounds = Width == 1 ? 2 : 1;
  const int planes = p.batch * (p.product ? p.outputs : p.channels), reads = p.pixels / Width;
  const int team = static_cast<int>(threadIdx.x) / p.team, lane = static_cast<int>(threadIdx.x) - team * p.team;
  const int first = (static_cast<int>(blockIdx.x) * (kThreads / p.team) + team) * kCount;
  A sum[kCount] = {};
#pragma unroll kRounds
  for (int i = lane; i < reads; i += p.team) {
    Summand<T, Width> summand[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (first + j < planes)
        summand[j].load(p, static_cast<long long>(first + j) * p.pixels + static_cast<long long>(i) * Width);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (first + j < planes) sum[j] += summand[j].total(p);
    }
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const A total = team_sum(p, sum[j]);
    if (lane == 0 && first + j < planes) static_cast<A*>(p.partial)[first + j] = total;
  }
}

template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) sum_pixels(const Params p) {
  using A = Accumulator<T>;
  constexpr int kCount = kSummands<Width>;
  const int channels = p.product ? p.outputs : p.channels;
  const Columns t(p, channels / Width);
  const long long image = static_cast<long long>(t.image) * p.pixels;
  A sum[Width] = {};
  for (int q = t.first; q < t.last; q += kCount * t.rows) {
    const int count = left(q, t.last, t.rows);
    Summand<T, Width> summand[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j < count) summand[j].load(p, (image + q + j * t.rows) * channels + static_cast<long long>(t.item) * Width);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j >= count) continue;
#pragma unroll
      for (int w = 0; w < Width; ++w) sum[w] += summand[j](p, w);
    }
  }
  column_sums<Width>(p, t, sum, [&](int channel, A total) {
    static_cast<A*>(p.partial)[partial_at(p, t.image, t.piece, channel, channels)] = total;
  });
}

}  // namespace pix::maps
