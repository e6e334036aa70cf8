// The loops in which the depthwise convolution's kernels spend their time. They keep sums in registers and read rows in
// shared memory four numbers at a time: a processor multiplies 128 pairs while it reads 32 numbers.
#pragma once

#include "cuda/block.cuh"

namespace smpconv::depthwise {

// Numbers of a window that `sums` sums read while four factors pass, in whole vectors.
__host__ __device__ constexpr int ring_of(int sums) { return (sums + 6) / 4 * 4; }

// Places before the first of `steps` factors, 1 to 4, so that they end with a whole vector.
__host__ __device__ constexpr int pad_of(int steps) { return 4 - steps % 4; }

template <typename A>
__device__ __forceinline__ void load_four(const A* from, A* to) {
  const Vector<A, 4> read = *reinterpret_cast<const Vector<A, 4>*>(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = read.value[i];
}

// sum[k][s] += sum over t of factor[t] * window[t + s], pad <= t < pad + steps. Each of the `Copies` sums has a window
// of its own in `own` and shares the factors; crossed, it has factors of its own and shares the window. The window
// stays in registers, which take turns: four of them are read anew for every four factors. All rows begin at whole
// vectors.
template <int Sums, int Copies, bool Crossed, typename A>
__device__ __forceinline__ void slide(const A* const (&own)[Copies], const A* shared, int steps,
                                      A (&sum)[Copies][Sums]) {
  constexpr int kRing = ring_of(Sums), kTurns = kRing / 4;
  constexpr int kWindows = Crossed ? 1 : Copies, kFactors = Crossed ? Copies : 1;
  A ring[kWindows][kRing];
#pragma unroll
  for (int w = 0; w < kWindows; ++w) {
#pragma unroll
    for (int i = 0; i < kRing - 4; i += 4) load_four((Crossed ? shared : own[w]) + i, &ring[w][i]);
  }
  const auto take = [&](int at, int turn, int first) {
    A factor[kFactors][4];
#pragma unroll
    for (int w = 0; w < kWindows; ++w)
      load_four((Crossed ? shared : own[w]) + at + kRing - 4, &ring[w][(4 * turn + kRing - 4) % kRing]);
#pragma unroll
    for (int f = 0; f < kFactors; ++f) load_four((Crossed ? own[f] : shared) + at, factor[f]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < first) continue;
#pragma unroll
      for (int k = 0; k < Copies; ++k) {
#pragma unroll
        for (int s = 0; s < Sums; ++s)
          sum[k][s] += factor[Crossed ? k : 0][j] * ring[Crossed ? 0 : k][(4 * turn + j + s) % kRing];
      }
    }
  };
  const int first = pad_of(steps), end = steps + first;
  take(0, 0, first);
  for (int at = 4; at < end;) {
#pragma unroll
    for (int turn = 1; turn <= kTurns; ++turn) {
      if (at >= end) break;
      take(at, turn % kTurns, 0);
      at += 4;
    }
  }
}

// sum[Width - 1 + j - i] += factor[i] * value[j]: all numbers of two rows meet.
template <int Width, typename A>
__device__ __forceinline__ void meet(const A* factors, const A* values, A (&sum)[2 * Width - 1]) {
  constexpr int kVectors = (Width + 3) / 4;
  A factor[kVectors * 4], value[kVectors * 4];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    load_four(factors + 4 * v, &factor[4 * v]);
    load_four(values + 4 * v, &value[4 * v]);
  }
#pragma unroll
  for (int i = 0; i < Width; ++i) {
#pragma unroll
    for (int j = 0; j < Width; ++j) sum[Width - 1 + j - i] += factor[i] * value[j];
  }
}

// Halves `Half` * 2 sums and the lanes that have to add them up, until a lane has one.
template <int Half, typename A>
__device__ __forceinline__ void fold(A (&value)[32]) {
  const bool upper = (threadIdx.x & Half) != 0;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const A sent = upper ? value[i] : value[i + Half], kept = upper ? value[i + Half] : value[i];
    value[i] = kept + __shfl_xor_sync(kWarpMask, sent, Half);
  }
  if constexpr (Half > 1) fold<Half / 2>(value);
}

// Adds up sums over the lanes of a warp; lane s has the total of sum s. The same order every time.
template <int Count, typename A>
__device__ __forceinline__ A total_of_lane(const A (&sum)[Count]) {
  static_assert(Count <= 32, "a lane has one total");
  A value[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) value[i] = i < Count ? sum[i < Count ? i : 0] : A(0);
  fold<16>(value);
  return value[0];
}

}  // namespace smpconv::depthwise
