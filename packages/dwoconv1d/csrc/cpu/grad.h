// Weight-gradient tasks: a tile of R rows x V vectors of the upstream gradient stays in registers while the taps pass
// by.
#pragma once

#include "cpu/pack.h"

namespace dwoconv1d {
namespace {

template <class A>
struct GradTile {
  const A* source;   // of the first gradient vector at tap distance zero
  int64_t row_step;  // between the source rows of neighbouring output rows
  const int64_t* distances;
  Live live;
  const A* grad;  // (R, V) vectors
  A *sums, *bias;
};

template <int R, int V, class A>
void run_grad_tile(const GradTile<A>& t) {
  Vector<A> grad[R * V], bias = load(t.bias);
  for (int i = 0; i < R * V; ++i) grad[i] = load(t.grad + i * kLanes<A>);
  for (int i = 0; i < R * V; ++i) bias += grad[i];
  store(t.bias, bias);
  for (int64_t s = t.live.begin; s < t.live.end; ++s) {
    const A* in = t.source + t.distances[s];
    // Two chains per tap: one alone would wait for each addition.
    Vector<A> sums[2] = {load(t.sums + s * kLanes<A>), Vector<A>{}};
    for (int i = 0; i < R * V; ++i) sums[i % 2] += grad[i] * load(in + i / V * t.row_step + i % V * kLanes<A>);
    store(t.sums + s * kLanes<A>, sums[0] + sums[1]);
  }
}

template <int V, class A>
constexpr void (*kOneGradRow)(const GradTile<A>&) = run_grad_tile<1, V, A>;
template <int V, class A>
constexpr void (*kManyGradRows)(const GradTile<A>&) = run_grad_tile<rows_at_once(V), V, A>;

template <class T, class A>
void grad_packed(const Geometry& g, const GradTask& task, const Packed<A>& packed) {
  static constexpr void (*kOne[])(const GradTile<A>&) = {DWOCONV1D_TILES(kOneGradRow, A)};
  static constexpr void (*kMany[])(const GradTile<A>&) = {DWOCONV1D_TILES(kManyGradRows, A)};
  const bool pixels = g.lanes == Lanes::pixels;
  A buffer[kMaxAccumulators * kLanes<A>] __attribute__((aligned(64)));
  const Area& area = task.area;

  Strips strips(area.q0, area.q1, pixels ? kLanes<A> : 1);
  const int64_t turns = strips.count * ((area.p1 - area.p0) / rows_at_once(strips.vectors) + 1);
  Prefetcher reads(task.reads, turns), grad_reads(task.grad_reads, turns);
  for (; strips.more(); strips.next()) {
    GradTile<A> tile = {nullptr, g.stride_h * packed.row_size, packed.distances, Live(g),
                        buffer,  static_cast<A*>(task.sums),   nullptr};
    tile.bias = tile.sums + g.taps.count * kLanes<A>;
    const int64_t many = rows_at_once(strips.vectors);
    for (int64_t p = area.p0, rows; p < area.p1; p += rows) {
      rows = p + many <= area.p1 ? many : 1;
      for (int64_t r = 0; r < rows; ++r) {
        const T* in = static_cast<const T*>(task.grad.data) + (p + r) * task.grad.h + strips.q * task.grad.w;
        A* out = buffer + r * strips.vectors * kLanes<A>;
        if (pixels) {
          pack_pixels(in, task.grad.w, strips.pixels, out);
          fill_zero(out + strips.pixels, strips.vectors * kLanes<A> - strips.pixels);
        } else {
          pack_channels(in, task.grad.w, task.grad.c, task.channels, strips.pixels, out);
        }
      }
      reads.turn();
      grad_reads.turn();
      tile.source = packed.at(p * g.stride_h, strips.q - area.q0 - g.window.first_dx);
      tile.live.move(g, task.source.height, p, rows);
      (rows > 1 ? kMany : kOne)[strips.vectors - 1](tile);
    }
  }
}

template <class T>
void grad_as(const Geometry* const* geometries, const GradTask* tasks, int64_t count) {
  using A = typename AccumulatorOf<T>::type;
  Packed<A> packed[kMaxBatch];
  pack_tasks<T>(geometries, tasks, count, packed);
  for (int64_t i = 0; i < count; ++i) grad_packed<T>(*geometries[i], tasks[i], packed[i]);
}

void grad(DType dtype, const Geometry* const* geometries, const GradTask* tasks, int64_t count) {
  switch (dtype) {
    case DType::float32: return grad_as<float>(geometries, tasks, count);
    case DType::float64: return grad_as<double>(geometries, tasks, count);
    case DType::float16: return grad_as<Half>(geometries, tasks, count);
    case DType::bfloat16: return grad_as<BFloat16>(geometries, tasks, count);
  }
}

}  // namespace
}  // namespace dwoconv1d
