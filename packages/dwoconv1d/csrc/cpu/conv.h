// Forward tasks: each output is a bias plus its taps' products, accumulated in registers over a tile of R rows x V vectors.
#pragma once

#include "cpu/pack.h"

namespace dwoconv1d {
namespace {

// One register tile, described once so that a function pointer can run any size of it.
template <class A>
struct Tile {
  const A* source;           // of the first accumulator at tap distance zero
  int64_t row_step;          // between the source rows of neighbouring output rows
  const int64_t* distances;  // of the live taps
  const A* weight;           // of the live taps
  int64_t taps;
  const A* bias;
  A* out;
  int64_t out_row, out_step;  // between accumulators' outputs
  int64_t lanes, last_lanes;  // live lanes of all but the last, and of the last accumulator in a row
};

template <int R, int V, Lanes L, class A>
void run_tile(const Tile<A>& t) {
  constexpr bool kSplat = L == Lanes::pixels;
  Vector<A> sums[R][V];
  const Vector<A> bias = kSplat ? splat(*t.bias) : load(t.bias);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = bias;
  for (int64_t s = 0; s < t.taps; ++s) {
    const Vector<A> weight = kSplat ? splat(t.weight[s]) : load(t.weight + s * kLanes<A>);
    const A* in = t.source + t.distances[s];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] += weight * load(in + r * t.row_step + v * kLanes<A>);
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      store_up_to(t.out + r * t.out_row + v * t.out_step, sums[r][v], v + 1 < V ? t.lanes : t.last_lanes);
}

template <class A>
using TileFunction = void (*)(const Tile<A>&);

template <int V, Lanes L, class A>
constexpr TileFunction<A> kOneRow = run_tile<1, V, L, A>;
template <int V, Lanes L, class A>
constexpr TileFunction<A> kManyRows = run_tile<rows_at_once(V), V, L, A>;

template <Lanes L, class A>
TileFunction<A> tile_function(bool many_rows, int64_t vectors) {
  static constexpr TileFunction<A> kOne[] = {DWOCONV1D_TILES(kOneRow, L, A)}, kMany[] = {DWOCONV1D_TILES(kManyRows, L, A)};
  return (many_rows ? kMany : kOne)[vectors - 1];
}

// Writes a buffered register tile to an output of any dtype and strides.
template <class T, class A>
void write_out(const Geometry& g, const ConvTask& task, const A* in, int64_t row, int64_t column, int64_t pixels) {
  T* out = static_cast<T*>(task.out) + row * task.out_h + column * task.out_w;
  if (g.lanes == Lanes::channels && task.out_c == 1) {
    for (int64_t i = 0; i < pixels; ++i) store_up_to(out + i * task.out_w, load(in + i * kLanes<A>), task.channels);
  } else if (g.lanes == Lanes::channels) {
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t c = 0; c < task.channels; ++c) narrow(in[i * kLanes<A> + c], out + i * task.out_w + c * task.out_c);
  } else if (task.out_w == 1) {
    for (int64_t i = 0; i < pixels; i += kLanes<A>) store_up_to(out + i, load(in + i), pixels - i);
  } else {
    for (int64_t i = 0; i < pixels; ++i) narrow(in[i], out + i * task.out_w);
  }
}

template <class T, class A, Lanes L>
void conv_lanes(const Geometry& g, const ConvTask& task) {
  const bool pixels = L == Lanes::pixels;
  const Window window = window_of(g, kLanes<A>);
  int64_t* distances = static_cast<int64_t*>(task.scratch);
  A* scratch = reinterpret_cast<A*>(distances + (g.taps.count + 7) / 8 * 8);
  A buffer[kMaxAccumulators * kLanes<A>] __attribute__((aligned(64)));
  const bool direct = __is_same(T, A) && (pixels ? task.out_w == 1 : task.out_c == 1);
  const A* weight = static_cast<const A*>(task.weight);


  for (int64_t q0 = 0; q0 < g.out_width; q0 += g.tile_cols) {
    const int64_t q1 = min(q0 + g.tile_cols, g.out_width);
    for (int64_t p0 = 0; p0 < g.out_height; p0 += g.tile_rows) {
      const int64_t p1 = min(p0 + g.tile_rows, g.out_height);
      const Packed<A> packed = pack_tile<T>(g, task.source, task.channels, window, p0, p1, q0, scratch, distances);
      for (Strips strip(q0, q1, pixels ? kLanes<A> : 1); strip.more(); strip.next()) {
        for (int64_t p = p0; p < p1;) {
          const int64_t many = rows_at_once(strip.vectors), rows = p + many <= p1 ? many : 1;
          const Range live = live_taps(g, task.source.height, p, rows);
          Tile<A> tile;
          tile.source = packed.at(p * g.stride_h, strip.q - q0 - window.first_dx);
          tile.row_step = g.stride_h * packed.row_size;
          tile.distances = distances + live.begin;
          tile.weight = weight + live.begin * (pixels ? 1 : kLanes<A>);
          tile.taps = live.end - live.begin;
          tile.bias = static_cast<const A*>(task.bias);
          tile.out = direct ? static_cast<A*>(task.out) + p * task.out_h + strip.q * task.out_w : buffer;
          tile.out_row = direct ? task.out_h : strip.vectors * kLanes<A>;
          tile.out_step = direct && !pixels ? task.out_w : kLanes<A>;
          tile.lanes = direct && !pixels ? task.channels : kLanes<A>;
          tile.last_lanes = direct && pixels ? strip.pixels - (strip.vectors - 1) * kLanes<A> : tile.lanes;
          tile_function<L, A>(rows > 1, strip.vectors)(tile);
          if (!direct)
            for (int64_t r = 0; r < rows; ++r)
              write_out<T>(g, task, buffer + r * tile.out_row, p + r, strip.q, strip.pixels);
          p += rows;
        }
      }
    }
  }
}

template <class T>
void conv_as(const Geometry& g, const ConvTask& task) {
  using A = typename AccumulatorOf<T>::type;
  if (g.lanes == Lanes::channels) {
    conv_lanes<T, A, Lanes::channels>(g, task);
  } else {
    conv_lanes<T, A, Lanes::pixels>(g, task);
  }
}

void conv(DType dtype, const Geometry& g, const ConvTask& task) {
  switch (dtype) {
    case DType::float32: return conv_as<float>(g, task);
    case DType::float64: return conv_as<double>(g, task);
    case DType::float16: return conv_as<Half>(g, task);
    case DType::bfloat16: return conv_as<BFloat16>(g, task);
  }
}

}  // namespace
}  // namespace dwoconv1d
