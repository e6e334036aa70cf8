// Weight-gradient tasks: a tile of R rows x V vectors of the upstream gradient stays in registers while the taps pass by.
#pragma once

#include "cpu/pack.h"

namespace dwoconv1d {
namespace {

template <class A>
struct GradTile {
  const A* source;           // of the first gradient vector at tap distance zero
  int64_t row_step;          // between the source rows of neighbouring output rows
  const int64_t* distances;  // of the live taps
  int64_t taps;
  const A* grad;   // (R, V) vectors
  A* sums;         // of the live taps
  A* bias;         // one vector
};

template <int R, int V, class A>
void run_grad_tile(const GradTile<A>& t) {
  Vector<A> grad[R * V], bias = load(t.bias);
  for (int i = 0; i < R * V; ++i) grad[i] = load(t.grad + i * kLanes<A>);
  for (int i = 0; i < R * V; ++i) bias += grad[i];
  store(t.bias, bias);
  for (int64_t s = 0; s < t.taps; ++s) {
    const A* in = t.source + t.distances[s];
    // Two chains per tap: one alone would wait for each addition.
    Vector<A> sums[2] = {load(t.sums + s * kLanes<A>), Vector<A>{}};
    for (int i = 0; i < R * V; ++i) sums[i % 2] += grad[i] * load(in + i / V * t.row_step + i % V * kLanes<A>);
    store(t.sums + s * kLanes<A>, sums[0] + sums[1]);
  }
}

template <class A>
using GradTileFunction = void (*)(const GradTile<A>&);

template <int V, class A>
constexpr GradTileFunction<A> kOneGradRow = run_grad_tile<1, V, A>;
template <int V, class A>
constexpr GradTileFunction<A> kManyGradRows = run_grad_tile<rows_at_once(V), V, A>;

template <class A>
GradTileFunction<A> grad_tile_function(bool many_rows, int64_t vectors) {
  static constexpr GradTileFunction<A> kOne[] = {DWOCONV1D_TILES(kOneGradRow, A)}, kMany[] = {DWOCONV1D_TILES(kManyGradRows, A)};
  return (many_rows ? kMany : kOne)[vectors - 1];
}

template <class T, class A>
void grad_as(const Geometry& g, const GradTask& task) {
  const bool pixels = g.lanes == Lanes::pixels;
  const Window window = window_of(g, kLanes<A>);
  int64_t* distances = static_cast<int64_t*>(task.scratch);
  A* scratch = reinterpret_cast<A*>(distances + (g.taps.count + 7) / 8 * 8);
  A* sums = static_cast<A*>(task.sums);
  A buffer[kMaxAccumulators * kLanes<A>] __attribute__((aligned(64)));

  for (int64_t q0 = 0; q0 < g.out_width; q0 += g.tile_cols) {
    const int64_t q1 = min(q0 + g.tile_cols, g.out_width);
    for (int64_t p0 = 0; p0 < g.out_height; p0 += g.tile_rows) {
      const int64_t p1 = min(p0 + g.tile_rows, g.out_height);
      const Packed<A> packed = pack_tile<T>(g, task.source, task.channels, window, p0, p1, q0, scratch, distances);
      for (Strips strip(q0, q1, pixels ? kLanes<A> : 1); strip.more(); strip.next()) {
        for (int64_t p = p0; p < p1;) {
          const int64_t many = rows_at_once(strip.vectors), rows = p + many <= p1 ? many : 1;
          for (int64_t r = 0; r < rows; ++r) {
            const T* in = static_cast<const T*>(task.grad.data) + (p + r) * task.grad.h + strip.q * task.grad.w;
            A* out = buffer + r * strip.vectors * kLanes<A>;
            if (pixels) {
              pack_pixels(in, task.grad.w, strip.pixels, out);
              fill_zero(out + strip.pixels, strip.vectors * kLanes<A> - strip.pixels);
            } else {
              pack_channels(in, task.grad.w, task.channels, strip.pixels, out);
            }
          }
          const Range live = live_taps(g, task.source.height, p, rows);
          GradTile<A> tile;
          tile.source = packed.at(p * g.stride_h, strip.q - q0 - window.first_dx);
          tile.row_step = g.stride_h * packed.row_size;
          tile.distances = distances + live.begin;
          tile.taps = live.end - live.begin;
          tile.grad = buffer;
          tile.sums = sums + live.begin * kLanes<A>;
          tile.bias = sums + g.taps.count * kLanes<A>;
          grad_tile_function<A>(rows > 1, strip.vectors)(tile);
          p += rows;
        }
      }
    }
  }
}

void grad(DType dtype, const Geometry& g, const GradTask& task) {
  switch (dtype) {
    case DType::float32: return grad_as<float, float>(g, task);
    case DType::float64: return grad_as<double, double>(g, task);
    case DType::float16: return grad_as<Half, float>(g, task);
    case DType::bfloat16: return grad_as<BFloat16, float>(g, task);
  }
}

}  // namespace
}  // namespace dwoconv1d
