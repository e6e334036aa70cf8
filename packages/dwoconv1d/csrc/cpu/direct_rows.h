// Forward tasks on planes read where they lie: one column of an image per lane, no copy. What lies outside the image is
// a zero of a lane mask (such lanes are neither read nor able to fault) or a row left out.
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

// A tile is R rows of V vectors. Of a column of M taps, tap t of output row r reads row r + t below the first: I is
// one of these R + M - 1 rows, which serves up to M rows of outputs.
template <int R, int V, int M, int I, int B, int S = 0>
DWOCONV1D_INLINE void use_vector(FloatVector* sums, FloatVector in, const FloatVector* weight) {
  if constexpr (S < M) {
    if constexpr (I >= S && I - S < R) sums[(I - S) * V + B] += weight[S] * in;
    use_vector<R, V, M, I, B, S + 1>(sums, in, weight);
  }
}

template <int R, int V, int M, int I, int B = 0>
DWOCONV1D_INLINE void use_row(FloatVector* sums, const float* in, const FloatVector* weight, const uint64_t* lanes) {
  if constexpr (B < V) {
    if constexpr (M == 1 || I == 0 || I == R + M - 2) {
      constexpr int s = I < R ? 0 : M - 1;
      add_product(sums[(I - s) * V + B], weight[s], in + B * kLanes<float>, lanes[B]);
    } else {
      use_vector<R, V, M, I, B>(sums, load_lanes(in + B * kLanes<float>, lanes[B]), weight);
    }
    use_row<R, V, M, I, B + 1>(sums, in, weight, lanes);
  }
}

template <int V, int B = 0>
DWOCONV1D_INLINE void split_lanes(uint64_t live, uint64_t* lanes) {
  if constexpr (B < V) {
    lanes[B] = _kshiftri_mask64(live, B * kLanes<float>);
    split_lanes<V, B + 1>(live, lanes);
  }
}

template <int M, int S = 0>
DWOCONV1D_INLINE void splat_weights(const float* weight, FloatVector* out) {
  if constexpr (S < M) {
    out[S] = splat(weight[S]);
    splat_weights<M, S + 1>(weight, out);
  }
}

// One row of a column of taps, then the next below, or above.
#define DWOCONV1D_ROW_DOWN(I)                                                             \
  case I:                                                                                 \
    if constexpr (I < R + M - 1) use_row<R, V, M, I>(sums, in, weight, lanes), in += row; \
    [[fallthrough]];
#define DWOCONV1D_ROW_UP(I)                                                               \
  case I:                                                                                 \
    if constexpr (I < R + M - 1) use_row<R, V, M, I>(sums, in, weight, lanes), in -= row; \
    [[fallthrough]];

// Adds a column of M taps whose first reads, for the first row of the tile, row `top` of a plane of `height` rows, at
// `in`. The plane may end on one side only.
template <int R, int V, int M>
DWOCONV1D_INLINE void add_column(FloatVector* sums, const float* in, int64_t row, int64_t top, int64_t height,
                                 const float* weights, uint64_t live) {
  const int64_t first = top < 0 ? -top : 0, end = height - top;
  if (first >= R + M - 1 || end <= 0) return;
  FloatVector weight[M];
  uint64_t lanes[V];
  splat_weights<M>(weights, weight);
  split_lanes<V>(live, lanes);
  if (end >= R + M - 1) {
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

struct PlaneTile {
  const Plane* plane;
  const uint64_t* live;  // of this strip
  const float* in;
  float bias;
  int64_t row, height, p;  // `in` is the pixel of the tile's first output
  float* out;
  int64_t out_row, last_lanes;
  int64_t ahead, out_ahead;  // distances to the tile of a later plane, which is asked for meanwhile
};

// The same where every row is in the plane; every other row's address is a sum that the load itself makes.
template <int R, int V, int M, int I = 0>
DWOCONV1D_INLINE void add_whole_column(FloatVector* sums, const float* in, int64_t row, const FloatVector* weight,
                                       const uint64_t* lanes) {
  if constexpr (I < R + M - 1) {
    use_row<R, V, M, I>(sums, in + I % 2 * row, weight, lanes);
    add_whole_column<R, V, M, I + 1>(sums, I % 2 ? in + 2 * row : in, row, weight, lanes);
  }
}

template <int R, int V, int M>
DWOCONV1D_INLINE void add_cut_column(FloatVector* sums, const PlaneTile& t, int64_t i) {
  const TapColumn& c = t.plane->columns[i];
  const float *in = t.in + c.dy * t.row + c.dx, *weight = t.plane->weight + c.first;
  const int64_t top = t.p + c.dy;
  if (M > 1 && top < 0 && top + R + M - 1 > t.height) {
    for (int s = 0; s < M; ++s)
      add_column<R, V, 1>(sums, in + s * t.row, t.row, top + s, t.height, weight + s, t.live[i]);
  } else {
    add_column<R, V, M>(sums, in, t.row, top, t.height, weight, t.live[i]);
  }
}

// Columns are sorted by row: those cut by the plane's upper edge come first, those cut by the lower edge last.
template <int R, int V, int M>
DWOCONV1D_INLINE void add_columns(FloatVector* sums, const PlaneTile& t) {
  const TapColumn* columns = t.plane->columns;
  int64_t i = t.plane->ends[M - 1];
  const int64_t end = t.plane->ends[M], last = t.height - (R + M - 1) - t.p;
  for (; i < end && columns[i].dy < -t.p; ++i) add_cut_column<R, V, M>(sums, t, i);
  for (; i < end && columns[i].dy <= last; ++i) {
    FloatVector weight[M];
    uint64_t lanes[V];
    splat_weights<M>(t.plane->weight + columns[i].first, weight);
    split_lanes<V>(t.live[i], lanes);
    add_whole_column<R, V, M>(sums, t.in + columns[i].dy * t.row + columns[i].dx, t.row, weight, lanes);
  }
  for (; i < end; ++i) add_cut_column<R, V, M>(sums, t, i);
}

template <int R, int V, int I = 0>
DWOCONV1D_INLINE void start_tile(FloatVector* sums, const PlaneTile& t) {
  if constexpr (I < R * V) {
    sums[I] = splat(t.bias);
    const int64_t pixel = I % V * kLanes<float>;
    __builtin_prefetch(t.in + t.ahead + I / V * t.row + pixel, 0, 2);
    __builtin_prefetch(t.out + t.out_ahead + I / V * t.out_row + pixel, 0, 2);
    start_tile<R, V, I + 1>(sums, t);
  }
}

template <int R, int V, int I = 0>
DWOCONV1D_INLINE void store_tile(const FloatVector* sums, const PlaneTile& t, float* out) {
  if constexpr (I < R * V) {
    if constexpr (I % V < V - 1) {
      store(out + I % V * kLanes<float>, sums[I]);
    } else {
      store_up_to(out + I % V * kLanes<float>, sums[I], t.last_lanes);
      out += t.out_row;
    }
    store_tile<R, V, I + 1>(sums, t, out);
  }
}

template <int R, int V>
void run_plane_tile(const PlaneTile& t) {
  FloatVector sums[R * V];
  start_tile<R, V>(sums, t);
  add_columns<R, V, 1>(sums, t);
  add_columns<R, V, 2>(sums, t);
  add_columns<R, V, 3>(sums, t);
  store_tile<R, V>(sums, t, t.out);
}

constexpr int64_t kAhead = 2048;

using RunPlaneTile = void (*)(const PlaneTile&);

// Tiles of `rows` rows, for strips of one to four vectors.
struct TileRows {
  int64_t rows;
  RunPlaneTile run[kStripVectors];
};
constexpr int64_t kTileStrips = kTileColumns / kLanes<float> / kStripVectors;
constexpr TileRows kTileRows[] = {
    {14, {run_plane_tile<14, 1>, nullptr, nullptr, nullptr}},
    {7, {run_plane_tile<7, 1>, run_plane_tile<7, 2>, nullptr, nullptr}},
    {6, {run_plane_tile<6, 1>, run_plane_tile<6, 2>, nullptr, nullptr}},
    {4, {run_plane_tile<4, 1>, run_plane_tile<4, 2>, run_plane_tile<4, 3>, run_plane_tile<4, 4>}},
    {2, {run_plane_tile<2, 1>, run_plane_tile<2, 2>, run_plane_tile<2, 3>, run_plane_tile<2, 4>}},
    {1, {run_plane_tile<1, 1>, run_plane_tile<1, 2>, run_plane_tile<1, 3>, run_plane_tile<1, 4>}},
};

// The tile that computes `rows` rows of strips of `vectors` vectors, of planes of `height` rows, with the least work;
// the last tile overlaps the one before.
inline const TileRows& choose_tile(int64_t vectors, int64_t rows, int64_t height) {
  const TileRows* best = nullptr;
  int64_t least = 0;
  for (const TileRows& tile : kTileRows) {
    if (tile.run[vectors - 1] == nullptr || tile.rows > min(rows, height)) continue;
    const int64_t cost = (rows + tile.rows - 1) / tile.rows * (tile.rows + 1);
    if (best == nullptr || cost < least) best = &tile, least = cost;
  }
  return *best;
}

// Whole planes, and far enough for memory to answer.
inline int64_t ahead(int64_t plane) { return plane > 0 ? (kAhead + plane - 1) / plane * plane : 0; }

void conv_planes(const PlanesTask& task) {
  const Area& area = task.area;
  const int64_t vectors = (area.q1 - area.q0 + kLanes<float> - 1) / kLanes<float>;
  const int64_t strips = strips_of(vectors);
  const TileRows& tile = choose_tile((vectors + strips - 1) / strips, area.p1 - area.p0, task.height);
  const int64_t tiles = (area.p1 - area.p0 + tile.rows - 1) / tile.rows;
  PlaneTile t;
  t.row = task.source_h;
  t.height = task.height;
  t.out_row = task.out_h;
  t.ahead = ahead(task.source_c);
  t.out_ahead = ahead(task.out_c);
  for (int64_t c = 0; c < task.count; ++c) {
    const Plane& plane = task.planes[c];
    t.plane = &plane;
    t.bias = task.bias[c];
    for (int64_t i = 0; i < tiles; ++i) {
      t.p = min(area.p0 + i * tile.rows, area.p1 - tile.rows);
      const uint64_t* live = plane.live + area.q0 / kTileColumns * kTileStrips * plane.ends[kMostTaps];
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t begin = strip_begin(vectors, s), end = strip_begin(vectors, s + 1);
        const int64_t q = area.q0 + begin * kLanes<float>;
        t.live = live + s * plane.ends[kMostTaps];
        t.in = task.source + c * task.source_c + t.p * task.source_h + q;
        t.out = task.out + c * task.out_c + t.p * task.out_h + q;
        t.last_lanes = area.q1 - area.q0 - (end - 1) * kLanes<float>;
        tile.run[end - begin - 1](t);
      }
    }
  }
}

}  // namespace
}  // namespace dwoconv1d
#endif
