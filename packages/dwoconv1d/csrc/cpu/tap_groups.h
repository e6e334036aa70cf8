// The products of a tile of outputs in registers with a group of taps, whose pixels are read where they lie: one column
// of an image per lane. What lies outside the image is a zero of a lane mask (such lanes are neither read nor able to
// fault) or a row left out.
#pragma once

#include "cpu/pack.h"

#if LEVEL_BYTES == 64
namespace dwoconv1d {
namespace {

// Everything that has to stay in registers is unrolled by recursion: loops over arrays of vectors, with jumps into the
// middle, are left in memory by compilers.
#define DWOCONV1D_INLINE inline __attribute__((always_inline))

typedef float UnalignedVector __attribute__((vector_size(64), aligned(4), may_alias));

// Written out since compilers split it into a masked load, a blend, and an addition.
DWOCONV1D_INLINE void add_product(FloatVector& sum, FloatVector weight, const float* in, uint64_t lanes) {
  asm("vfmadd231ps %2, %1, %0 %{%3%}" : "+v"(sum) : "v"(weight), "m"(*(const UnalignedVector*)in), "Yk"(lanes));
}

DWOCONV1D_INLINE FloatVector load_lanes(const float* in, uint64_t lanes) {
  FloatVector v;
  asm("vmovups %1, %0 %{%2%} %{z%}" : "=v"(v) : "m"(*(const UnalignedVector*)in), "Yk"(lanes));
  return v;
}

// A tile is R rows of V vectors. Of a group of D taps one below the other, tap s of output row r reads row r + s below
// the first: I is one of these R + D - 1 rows, which serves up to D rows of outputs.
template <int R, int V, int D, int I, int B, int S = 0>
DWOCONV1D_INLINE void use_vector(FloatVector* sums, FloatVector in, const FloatVector* weight) {
  if constexpr (S < D) {
    if constexpr (I >= S && I - S < R) sums[(I - S) * V + B] += weight[S] * in;
    use_vector<R, V, D, I, B, S + 1>(sums, in, weight);
  }
}

template <int R, int V, int D, int I, int B = 0>
DWOCONV1D_INLINE void use_row(FloatVector* sums, const float* in, const FloatVector* weight, const uint64_t* lanes) {
  if constexpr (B < V) {
    if constexpr (D == 1 || I == 0 || I == R + D - 2) {
      constexpr int s = I < R ? 0 : D - 1;
      add_product(sums[(I - s) * V + B], weight[s], in + B * kLanes<float>, lanes[B]);
    } else {
      use_vector<R, V, D, I, B>(sums, load_lanes(in + B * kLanes<float>, lanes[B]), weight);
    }
    use_row<R, V, D, I, B + 1>(sums, in, weight, lanes);
  }
}

// Of A taps side by side, all but the first take what they read from registers: loads across cache lines are slow. The
// last vector lacks its right neighbour, of which a single vector, never full, has no need.
template <int V, int A, int B, int S = 1>
DWOCONV1D_INLINE void use_neighbours(FloatVector& sum, const FloatVector* row, const float* in,
                                     const FloatVector* weight, const uint64_t* lanes) {
  if constexpr (S < A) {
    if constexpr (V == 1 || B < V - 1) {
      const __m512i left = (__m512i)row[B], right = (__m512i)row[V == 1 ? B : B + 1];
      sum += weight[S] * (FloatVector)_mm512_alignr_epi32(right, left, S);
    } else {
      add_product(sum, weight[S], in + B * kLanes<float> + S, lanes[B + S]);
    }
    use_neighbours<V, A, B, S + 1>(sum, row, in, weight, lanes);
  }
}

template <int V, int A, int B = V - 1>
DWOCONV1D_INLINE void use_row_across(FloatVector* sums, FloatVector* row, const float* in, const FloatVector* weight,
                                     const uint64_t* lanes) {
  if constexpr (B >= 0) {
    row[B] = load_lanes(in + B * kLanes<float>, lanes[B]);
    sums[B] += weight[0] * row[B];
    use_neighbours<V, A, B>(sums[B], row, in, weight, lanes);
    use_row_across<V, A, B - 1>(sums, row, in, weight, lanes);
  }
}

template <int R, int V, int D, int A, int I>
DWOCONV1D_INLINE void use(FloatVector* sums, const float* in, const FloatVector* weight, const uint64_t* lanes) {
  if constexpr (A == 1) {
    use_row<R, V, D, I>(sums, in, weight, lanes);
  } else {
    FloatVector row[V];
    use_row_across<V, A>(sums + I * V, row, in, weight, lanes);
  }
}

// The lanes of each vector, then those of the last one for the taps to the right.
template <int V, int A, int B = 0>
DWOCONV1D_INLINE void split_lanes(const uint64_t* live, uint64_t* lanes) {
  if constexpr (B < V + A - 1) {
    lanes[B] = _kshiftri_mask64(live[B < V ? 0 : B - V + 1], (B < V ? B : V - 1) * kLanes<float>);
    split_lanes<V, A, B + 1>(live, lanes);
  }
}

template <int M, int S = 0>
DWOCONV1D_INLINE void splat_weights(const float* weight, FloatVector* out) {
  if constexpr (S < M) {
    out[S] = splat(weight[S]);
    splat_weights<M, S + 1>(weight, out);
  }
}

// One row that a group of taps reads, then the next below, or above.
#define DWOCONV1D_ROW_DOWN(I)                                                            \
  case I:                                                                                \
    if constexpr (I < R + D - 1) use<R, V, D, A, I>(sums, in, weight, lanes), in += row; \
    [[fallthrough]];
#define DWOCONV1D_ROW_UP(I)                                                              \
  case I:                                                                                \
    if constexpr (I < R + D - 1) use<R, V, D, A, I>(sums, in, weight, lanes), in -= row; \
    [[fallthrough]];

// Adds a group of taps, D down and A across, whose first reads, for the first row of the tile, row `top` of a plane of
// `height` rows, at `in`. The plane may end on one side only.
template <int R, int V, int D, int A>
DWOCONV1D_INLINE void add_group(FloatVector* sums, const float* in, int64_t row, int64_t top, int64_t height,
                                const float* weights, const uint64_t* live) {
  const int64_t first = top < 0 ? -top : 0, end = height - top;
  if (first >= R + D - 1 || end <= 0) return;
  FloatVector weight[D * A];
  uint64_t lanes[V + A - 1];
  splat_weights<D * A>(weights, weight);
  split_lanes<V, A>(live, lanes);
  if (end >= R + D - 1) {
    in += first * row;
    switch (first) {
      DWOCONV1D_ROW_DOWN(0)
      DWOCONV1D_ROW_DOWN(1)
      DWOCONV1D_ROW_DOWN(2)
      DWOCONV1D_ROW_DOWN(3)
      DWOCONV1D_ROW_DOWN(4)
      DWOCONV1D_ROW_DOWN(5)
      DWOCONV1D_ROW_DOWN(6)
      DWOCONV1D_ROW_DOWN(7)
      DWOCONV1D_ROW_DOWN(8)
      DWOCONV1D_ROW_DOWN(9)
      DWOCONV1D_ROW_DOWN(10)
      DWOCONV1D_ROW_DOWN(11)
      DWOCONV1D_ROW_DOWN(12)
      DWOCONV1D_ROW_DOWN(13)
      DWOCONV1D_ROW_DOWN(14)
      DWOCONV1D_ROW_DOWN(15)
      default: break;
    }
  } else {
    in += (end - 1) * row;
    switch (end - 1) {
      DWOCONV1D_ROW_UP(14)
      DWOCONV1D_ROW_UP(13)
      DWOCONV1D_ROW_UP(12)
      DWOCONV1D_ROW_UP(11)
      DWOCONV1D_ROW_UP(10)
      DWOCONV1D_ROW_UP(9)
      DWOCONV1D_ROW_UP(8)
      DWOCONV1D_ROW_UP(7)
      DWOCONV1D_ROW_UP(6)
      DWOCONV1D_ROW_UP(5)
      DWOCONV1D_ROW_UP(4)
      DWOCONV1D_ROW_UP(3)
      DWOCONV1D_ROW_UP(2)
      DWOCONV1D_ROW_UP(1)
      DWOCONV1D_ROW_UP(0)
      default: break;
    }
  }
}

}  // namespace
}  // namespace dwoconv1d
#endif
