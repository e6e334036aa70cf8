// edit in shared/common/native/block.cuh
// What the device code of all ops shares: vectors of neighbours, sums of a warp.
#pragma once

#include "common/scalar.cuh"

namespace leanconv {

constexpr unsigned kWarpMask = 0xffffffffu;

// Neighbours in memory, read and written at once; they lie at a multiple of their size, up to the 16 bytes to which
// shared memory is aligned.
template <typename T, int Count>
struct alignas(Count * sizeof(T) < 16 ? Count * sizeof(T) : 16) Vector {
  T value[Count];
};

// The sum of a warp's values, in every lane, in the same order every time.
template <typename A>
__device__ A warp_sum(A value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kWarpMask, value, distance);
  return value;
}

}  // namespace leanconv
