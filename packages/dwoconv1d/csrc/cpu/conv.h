// Forward tasks: each output is a bias plus its taps' products, accumulated in registers over a tile of R rows x V
// vectors.
#pragma once

#include "cpu/pack.h"

namespace dwoconv1d {
namespace {

// A strip of register tiles, one below the other, described once so that a function pointer can run any width of it.
template <class A>
struct Strip {
  const Geometry* geometry;
  int64_t height;    // of the source
  const A* source;   // of the first output at tap distance zero
  int64_t row_step;  // between the source rows of neighbouring output rows
  const int64_t* distances;
  const A *weight, *bias;
  int64_t p0, p1;
  A* out;
  int64_t out_row, out_step;  // between accumulators' outputs
  int64_t lanes, last_lanes;  // live lanes of all but the last, and of the last accumulator in a row
  Prefetcher *reads, *writes;
};

template <int R, int V, Lanes L, class A>
inline __attribute__((always_inline)) void run_tile(const Strip<A>& t, const A* source, const Live& live, A* out) {
  constexpr bool kSplat = L == Lanes::pixels;
  Vector<A> sums[R][V];
  const Vector<A> bias = kSplat ? splat(*t.bias) : load(t.bias);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = bias;
  for (int64_t s = live.begin; s < live.end; ++s) {
    const Vector<A> weight = kSplat ? splat(t.weight[s]) : load(t.weight + s * kLanes<A>);
    const A* in = source + t.distances[s];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] += weight * load(in + r * t.row_step + v * kLanes<A>);
  }
  for (int r = 0; r < R; ++r) {
    A* row = out + r * t.out_row;
    if (t.lanes >= kLanes<A>) {
      for (int v = 0; v + 1 < V; ++v) store(row + v * t.out_step, sums[r][v]);
    } else {
      for (int v = 0; v + 1 < V; ++v) store_part(row + v * t.out_step, sums[r][v], t.lanes);
    }
    store_up_to(row + (V - 1) * t.out_step, sums[r][V - 1], t.last_lanes);
  }
}

template <int V, Lanes L, class A>
void run_strip(const Strip<A>& t) {
  constexpr int kRows = rows_at_once(V);
  Live live(*t.geometry);
  const A* source = t.source;
  A* out = t.out;
  int64_t p = t.p0;
  for (; p + kRows <= t.p1; p += kRows, source += kRows * t.row_step, out += kRows * t.out_row) {
    live.move(*t.geometry, t.height, p, kRows);
    t.reads->turn();
    t.writes->turn();
    run_tile<kRows, V, L>(t, source, live, out);
  }
  if (kRows == 1) return;
  for (; p < t.p1; ++p, source += t.row_step, out += t.out_row) {
    live.move(*t.geometry, t.height, p, 1);
    run_tile<1, V, L>(t, source, live, out);
  }
}

template <int V, Lanes L, class A>
constexpr void (*kRunStrip)(const Strip<A>&) = run_strip<V, L, A>;

// Writes a buffered register tile to an output of any dtype and strides.
template <class T, class A>
void write_out(const Geometry& g, const ConvTask& task, const A* in, int64_t row, int64_t column, int64_t pixels) {
  T* out = static_cast<T*>(task.out) + row * task.out_h + column * task.out_w;
  if (g.lanes == Lanes::channels && task.out_c == 1) {
    for (int64_t i = 0; i < pixels; ++i) store_up_to(out + i * task.out_w, load(in + i * kLanes<A>), task.channels);
  } else if (g.lanes == Lanes::channels && task.out_w == 1) {
    for (int64_t i = 0; i < pixels; i += kLanes<A>) {
      const int64_t n = min(kLanes<A>, pixels - i);
      Vector<A> block[kLanes<A>];
      for (int64_t j = 0; j < kLanes<A>; ++j) block[j] = j < n ? load(in + (i + j) * kLanes<A>) : Vector<A>{};
      transpose(block);
      for (int64_t c = 0; c < kLanes<A>; ++c)
        if (c < task.channels) store_up_to(out + i + c * task.out_c, block[c], n);
    }
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
void conv_packed(const Geometry& g, const ConvTask& task, const Packed<A>& packed) {
  static constexpr void (*kWidths[])(const Strip<A>&) = {DWOCONV1D_TILES(kRunStrip, L, A)};
  const bool pixels = L == Lanes::pixels;
  A buffer[kMaxAccumulators * kLanes<A>] __attribute__((aligned(64)));
  const bool direct = __is_same(T, A) && (pixels ? task.out_w == 1 : task.out_c == 1);
  const Area& area = task.area;

  Strips strips(area.q0, area.q1, pixels ? kLanes<A> : 1);
  const int64_t turns = strips.count * ((area.p1 - area.p0) / rows_at_once(strips.vectors) + 1);
  Prefetcher reads(task.reads, turns), writes(task.writes, turns);
  Strip<A> strip;
  strip.geometry = &g;
  strip.height = task.source.height;
  strip.row_step = g.stride_h * packed.row_size;
  strip.distances = packed.distances;
  strip.weight = static_cast<const A*>(task.weight);
  strip.bias = static_cast<const A*>(task.bias);
  strip.reads = &reads;
  strip.writes = &writes;
  for (; strips.more(); strips.next()) {
    const auto run = kWidths[strips.vectors - 1];
    const int64_t last = strips.pixels - (strips.vectors - 1) * kLanes<A>;
    if (direct) {
      strip.out_row = task.out_h;
      strip.out_step = pixels ? kLanes<A> : task.out_w;
      strip.lanes = pixels ? kLanes<A> : task.channels;
      strip.last_lanes = pixels ? last : task.channels;
      strip.source = packed.at(area.p0 * g.stride_h, strips.q - area.q0 - g.window.first_dx);
      strip.out = static_cast<A*>(task.out) + area.p0 * task.out_h + strips.q * task.out_w;
      strip.p0 = area.p0;
      strip.p1 = area.p1;
      run(strip);
      continue;
    }
    strip.out_row = strips.vectors * kLanes<A>;
    strip.out_step = strip.lanes = strip.last_lanes = kLanes<A>;
    strip.out = buffer;
    const int64_t rows = rows_at_once(strips.vectors);
    for (int64_t p = area.p0; p < area.p1; p += rows) {
      strip.source = packed.at(p * g.stride_h, strips.q - area.q0 - g.window.first_dx);
      strip.p0 = p;
      strip.p1 = min(p + rows, area.p1);
      run(strip);
      for (int64_t r = p; r < strip.p1; ++r)
        write_out<T>(g, task, buffer + (r - p) * strip.out_row, r, strips.q, strips.pixels);
    }
  }
}

template <class T>
void conv_as(const Geometry* const* geometries, const ConvTask* tasks, int64_t count) {
  using A = typename AccumulatorOf<T>::type;
  Packed<A> packed[kMaxBatch];
  pack_tasks<T>(geometries, tasks, count, packed);
  for (int64_t i = 0; i < count; ++i) {
    if (geometries[i]->lanes == Lanes::channels) {
      conv_packed<T, A, Lanes::channels>(*geometries[i], tasks[i], packed[i]);
    } else {
      conv_packed<T, A, Lanes::pixels>(*geometries[i], tasks[i], packed[i]);
    }
  }
}

void conv(DType dtype, const Geometry* const* geometries, const ConvTask* tasks, int64_t count) {
  switch (dtype) {
    case DType::float32: return conv_as<float>(geometries, tasks, count);
    case DType::float64: return conv_as<double>(geometries, tasks, count);
    case DType::float16: return conv_as<Half>(geometries, tasks, count);
    case DType::bfloat16: return conv_as<BFloat16>(geometries, tasks, count);
  }
}

}  // namespace
}  // namespace dwoconv1d
