// Forward tasks on planes read where they lie, no copy: see tap_groups.h.
#pragma once

#include "cpu/tap_groups.h"

#if LEVEL_BYTES == 64
namespace dwoconv1d {
namespace {

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
template <int R, int V, int D, int A, int I = 0>
DWOCONV1D_INLINE void add_whole_group(FloatVector* sums, const float* in, int64_t row, const FloatVector* weight,
                                      const uint64_t* lanes) {
  if constexpr (I < R + D - 1) {
    use<R, V, D, A, I>(sums, in + I % 2 * row, weight, lanes);
    add_whole_group<R, V, D, A, I + 1>(sums, I % 2 ? in + 2 * row : in, row, weight, lanes);
  }
}

template <int R, int V, int D, int A>
DWOCONV1D_INLINE void add_cut_group(FloatVector* sums, const PlaneTile& t, int64_t i) {
  const TapGroup& g = t.plane->groups[i];
  const float *in = t.in + g.dy * t.row + g.dx, *weight = t.plane->weight + g.first;
  const uint64_t* live = t.live + g.first;
  const int64_t top = t.p + g.dy;
  if (D > 1 && top < 0 && top + R + D - 1 > t.height) {
    for (int s = 0; s < D; ++s)
      add_group<R, V, 1, 1>(sums, in + s * t.row, t.row, top + s, t.height, weight + s, live + s);
  } else {
    add_group<R, V, D, A>(sums, in, t.row, top, t.height, weight, live);
  }
}

// Groups are sorted by row: those cut by the plane's upper edge come first, those cut by the lower edge last.
template <int R, int V, int D, int A>
DWOCONV1D_INLINE void add_groups(FloatVector* sums, const PlaneTile& t) {
  const TapGroup* groups = t.plane->groups;
  constexpr int shape = shape_of(D, A);
  int64_t i = t.plane->ends[shape];
  const int64_t end = t.plane->ends[shape + 1], last = t.height - (R + D - 1) - t.p;
  for (; i < end && groups[i].dy < -t.p; ++i) add_cut_group<R, V, D, A>(sums, t, i);
  for (; i < end && groups[i].dy <= last; ++i) {
    FloatVector weight[D * A];
    uint64_t lanes[V + A - 1];
    splat_weights<D * A>(t.plane->weight + groups[i].first, weight);
    split_lanes<V, A>(t.live + groups[i].first, lanes);
    add_whole_group<R, V, D, A>(sums, t.in + groups[i].dy * t.row + groups[i].dx, t.row, weight, lanes);
  }
  for (; i < end; ++i) add_cut_group<R, V, D, A>(sums, t, i);
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
  add_groups<R, V, 1, 1>(sums, t);
  add_groups<R, V, 2, 1>(sums, t);
  add_groups<R, V, 3, 1>(sums, t);
  add_groups<R, V, 1, 2>(sums, t);
  add_groups<R, V, 1, 3>(sums, t);
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
      const uint64_t* live = plane.live + area.q0 / kTileColumns * kTileStrips * plane.taps;
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t begin = strip_begin(vectors, s), end = strip_begin(vectors, s + 1);
        const int64_t q = area.q0 + begin * kLanes<float>;
        t.live = live + s * plane.taps;
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
