// Device code of crop and uncrop. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
#pragma once

#include "common/scalar.cuh"
#include "cuda/crop_params.h"

namespace csgconv::copies {

constexpr int kThreads = 256;
constexpr int kMoves = 2;  // of a thread

template <typename T>
constexpr int kLanes = 16 / sizeof(T);

// Neighbours in memory, moved at once.
template <typename T, int Count>
struct alignas(Count * sizeof(T)) Neighbours {
  T value[Count];
};

struct Parts {
  long long quotient;
  int rest;
};

// 64-bit division takes some hundred instructions, and few tensors need it.
__device__ inline Parts divide(long long value, int by) {
  if (value <= 0xffffffffll) {
    const unsigned low = static_cast<unsigned>(value), quotient = low / static_cast<unsigned>(by);
    return {quotient, static_cast<int>(low - quotient * static_cast<unsigned>(by))};
  }
  const long long quotient = value / by;
  return {quotient, static_cast<int>(value - quotient * by)};
}

// Where element `at` of a layer's kernel lies in its slices.
__device__ inline long long place_in_slices(const Part& l, long long at) {
  const Parts row = divide(at, l.row);
  if (l.down == 1 && l.across == 1) return row.quotient * l.width + row.rest;
  const Parts block = divide(row.quotient, l.down), column = divide(row.rest, l.width);
  return ((block.quotient * l.across + column.quotient) * l.down + block.rest) * l.width + column.rest;
}

// Where element `at` of a layer's slices lies in its kernel; -1 if it is not in there.
__device__ inline long long place_in_kernel(const Part& l, long long at) {
  const Parts run = divide(at, l.width);
  long long output = run.quotient, column = run.rest;
  if (l.down != 1 || l.across != 1) {
    const Parts inside = divide(run.quotient, l.down), block = divide(inside.quotient, l.across);
    output = block.quotient * l.down + inside.rest;
    column += static_cast<long long>(block.rest) * l.width;
  }
  return output < l.outputs && column < l.row ? output * l.row + column : -1;
}

// The layer of this block: the last one that begins at or before it.
__device__ inline const Part& own_part(const Params& p) {
  int low = 0, high = p.parts - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (p.part[middle].block <= static_cast<int>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return p.part[low];
}

// This block's share of a layer, by moves of Lanes elements.
template <typename T, int Lanes, bool Crop>
__device__ void move(const Params& p, const Part& l) {
  using V = Neighbours<T, Lanes>;
  const T* from = static_cast<const T*>(p.from) + l.from;
  T* to = static_cast<T*>(p.to) + l.to;
  const long long block = static_cast<int>(blockIdx.x) - l.block;
  const long long first = (block * kMoves * kThreads + static_cast<int>(threadIdx.x)) * Lanes;
  V values[kMoves] = {};
#pragma unroll
  for (int i = 0; i < kMoves; ++i) {
    const long long at = first + i * kThreads * Lanes;
    if (at >= l.count) continue;
    const long long source = Crop ? place_in_slices(l, at) : place_in_kernel(l, at);
    if (source >= 0) values[i] = *reinterpret_cast<const V*>(from + source);
  }
#pragma unroll
  for (int i = 0; i < kMoves; ++i) {
    const long long at = first + i * kThreads * Lanes;
    if (at < l.count) *reinterpret_cast<V*>(to + at) = values[i];
  }
}

template <typename T, bool Crop>
__device__ void copy(const Params& p) {
  const Part& l = own_part(p);
  if (l.vectors) {
    move<T, kLanes<T>, Crop>(p, l);
  } else {
    move<T, 1, Crop>(p, l);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) crop(const Params p) {
  copy<T, true>(p);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) uncrop(const Params p) {
  copy<T, false>(p);
}

}  // namespace csgconv::copies
