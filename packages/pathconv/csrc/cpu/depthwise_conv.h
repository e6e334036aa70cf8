// Convolution tasks: each output is a bias plus its taps' products, accumulated in registers over V vectors of
// neighbouring outputs.
#pragma once

#include "cpu/depthwise_pack.h"

namespace pathconv::depthwise {
namespace {

// A tile of accumulators, repeated along the channels.
template <class T, class A>
struct Tile {
  const A* source;  // of the first output at distance zero
  int64_t step;     // between neighbouring accumulators
  const int64_t* distances;
  int64_t taps;
  const A *weight, *bias;
  T* out;
  int64_t out_step;           // between neighbouring accumulators
  int64_t lanes, last_lanes;  // live lanes of all but the last, and of the last accumulator
  int64_t repeats, source_next, weight_next, bias_next, out_next;
  Ahead *reads, *writes;
};

template <int V, Lanes L, class T, class A>
void run_tile(const Tile<T, A>& t) {
  constexpr bool kSplat = L == Lanes::positions;
  const A *source = t.source, *weights = t.weight, *bias = t.bias;
  T* out = t.out;
  for (int64_t i = 0; i < t.repeats; ++i) {
    t.reads->ask(V);
    t.writes->ask(V);
    Vector<A> sums[V];
    const Vector<A> start = kSplat ? splat(*bias) : load(bias);
    for (int v = 0; v < V; ++v) sums[v] = start;
    for (int64_t j = 0; j < t.taps; ++j) {
      const Vector<A> weight = kSplat ? splat(weights[j]) : load(weights + j * kLanes<A>);
      const A* in = source + t.distances[j];
      for (int v = 0; v < V; ++v) sums[v] += weight * load(in + v * t.step);
    }
    if (t.lanes == kLanes<A>) {
      for (int v = 0; v + 1 < V; ++v) store(out + v * t.out_step, sums[v]);
    } else {
      for (int v = 0; v + 1 < V; ++v) store_part(out + v * t.out_step, sums[v], t.lanes);
    }
    store_up_to(out + (V - 1) * t.out_step, sums[V - 1], t.last_lanes);
    source += t.source_next;
    weights += t.weight_next;
    bias += t.bias_next;
    out += t.out_next;
  }
}

// `count` accumulators: tiles of 8, 4, 2 and 1.
template <Lanes L, class T, class A>
inline void run_tiles(Tile<T, A> t, int64_t count) {
  const int64_t last_lanes = t.last_lanes;
  while (count > 0) {
    const int64_t width = count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
    t.last_lanes = width == count ? last_lanes : t.lanes;
    switch (width) {
      case 8: run_tile<8, L>(t); break;
      case 4: run_tile<4, L>(t); break;
      case 2: run_tile<2, L>(t); break;
      default: run_tile<1, L>(t);
    }
    t.source += width * t.step;
    t.out += width * t.out_step;
    count -= width;
  }
}

// Bytes of the source for every vector of outputs, if outputs read all of it.
template <class T>
inline int64_t read_bytes(const Geometry& g) {
  if (g.stride > g.span) return 0;
  return kLanes<typename AccumulatorOf<T>::type> * sizeof(T) * g.stride * g.planes / (g.share * g.line_count);
}

template <class T>
void conv_channels(const Geometry& g, const ConvTask& task) {
  using A = typename AccumulatorOf<T>::type;
  const T* source = static_cast<const T*>(task.source);
  const A *weight = static_cast<const A*>(task.weight), *bias = static_cast<const A*>(task.bias);
  A* packed = static_cast<A*>(task.scratch);
  const int64_t channels = g.out_channels, lanes = min(channels, kLanes<A>), blocks = blocks_of(channels, kLanes<A>);
  const int64_t whole = channels / kLanes<A>;

  const int64_t line = g.strip * g.source.l * int64_t(sizeof(T));
  Ahead reads(source + (task.q0 * g.stride + g.first) * g.source.l, read_bytes<T>(g), line * g.stride);
  Ahead writes(static_cast<T*>(task.out) + task.q0 * g.out_step * g.out.l, kLanes<A> * sizeof(T), line * g.out_step);
  // Outputs [q, q + count) of every line, for `repeats` blocks from `block` on.
  const auto run = [&](const A* in, int64_t unit, const int64_t* distances, int64_t q, int64_t count, int64_t block,
                       int64_t repeats) {
    const int64_t first = block_start(block, channels, kLanes<A>);
    for (int64_t i = 0; i < g.line_count; ++i) {
      const Line& line = g.lines[i];
      T* out = static_cast<T*>(task.out) + (line.out + q * g.out_step) * g.out.l + first;
      Tile<T, A> tile = {in + line.shift * unit,
                         g.stride * unit,
                         distances + line.weights,
                         line.taps * g.planes,
                         weight + (block * g.weights + line.weights) * kLanes<A>,
                         bias + first,
                         out,
                         g.out_step * g.out.l,
                         lanes,
                         lanes,
                         repeats,
                         kLanes<A>,
                         g.weights * kLanes<A>,
                         kLanes<A>,
                         kLanes<A>,
                         &reads,
                         &writes};
      run_tiles<Lanes::channels>(tile, min(count, line.length - q));
    }
  };
  for (int64_t q = task.q0; q < task.q1; q += g.strip) {
    const int64_t count = min(g.strip, task.q1 - q), at = q * g.stride + g.first;
    if constexpr (__is_same(T, A)) {
      if (g.direct && at >= 0 && at + (count - 1) * g.stride + g.span <= g.source_length) {
        const A* in = source + at * g.source.l;
        run(in, g.source.l, g.plain, q, count, 0, whole);
        if (whole < blocks) run(in + channels - kLanes<A>, g.source.l, g.plain, q, count, whole, 1);
        continue;
      }
    }
    for (int64_t b = 0; b < blocks; ++b) {
      pack(g, source, block_start(b, channels, kLanes<A>), q, count, packed);
      run(packed, kLanes<A>, g.packed, q, count, b, 1);
    }
  }
}

// Lines of every second position, in turn, to their places.
template <class T, class A>
void weave(const Geometry& g, const A* in, int64_t pitch, int64_t q, int64_t count, T* out) {
  int64_t i = 0;
  if (g.out_step == 2 && g.line_count == 2) {
    const int64_t pairs = min(count, g.lines[1].length - q);
    for (T* at = out + 2 * q; i + kLanes<A> <= pairs; i += kLanes<A>) {
      const Vector<A> even = load(in + i), odd = load(in + pitch + i);
      store(at + 2 * i, rearrange<Order::weave_low>(even, odd));
      store(at + 2 * i + kLanes<A>, rearrange<Order::weave_high>(even, odd));
    }
  }
  for (; i < count; ++i)
    for (int64_t j = 0; j < g.line_count; ++j)
      if (q + i < g.lines[j].length) narrow(in[j * pitch + i], out + g.lines[j].out + (q + i) * g.out_step);
}

// `count` outputs of one line for the channels that share a source, side by side.
template <class T, class A>
inline void run_row(const Geometry& g, const Line& line, const A* packed, const A* weight, const A* bias, int64_t count,
                    T* out, Ahead* reads, Ahead* writes) {
  const int64_t last = (count + kLanes<A> - 1) % kLanes<A> + 1;
  Tile<T, A> tile = {packed + line.shift,
                     kLanes<A>,
                     g.packed + line.weights,
                     line.taps * g.planes,
                     weight + line.weights,
                     bias,
                     out,
                     kLanes<A>,
                     kLanes<A>,
                     last,
                     g.share,
                     0,
                     g.weights,
                     1,
                     g.out.c,
                     reads,
                     writes};
  run_tiles<Lanes::positions>(tile, (count + kLanes<A> - 1) / kLanes<A>);
}

template <class T>
void conv_positions(const Geometry& g, const ConvTask& task) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t pitch = (g.strip + kLanes<A> - 1) / kLanes<A> * kLanes<A>, tops = task.g0 * g.share;
  const T* source = static_cast<const T*>(task.source);
  const A *weight = static_cast<const A*>(task.weight) + tops * g.weights,
          *bias = static_cast<const A*>(task.bias) + tops;
  A *packed = static_cast<A*>(task.scratch), *woven = packed + g.planes * g.phases * g.columns;
  T* out = static_cast<T*>(task.out) + tops * g.out.c;
  Ahead reads(source + task.g0 * g.planes * g.source.c + task.q0 * g.stride, read_bytes<T>(g), 0);
  Ahead writes(out + task.q0 * g.out_step, kLanes<A> * sizeof(T), 0);
  for (int64_t group = task.g0; group < task.g1; ++group) {
    for (int64_t q = task.q0; q < task.q1; q += g.strip) {
      const int64_t count = min(g.strip, task.q1 - q);
      pack(g, source, group, q, count, packed);
      if (g.out_step == 1) {
        run_row(g, g.lines[0], packed, weight, bias, count, out + q, &reads, &writes);
        continue;
      }
      for (int64_t i = 0; i < g.line_count; ++i)
        run_row(g, g.lines[i], packed, weight, bias, min(count, g.lines[i].length - q), woven + i * pitch, &reads,
                &writes);
      weave(g, woven, pitch, q, count, out);
    }
    weight += g.share * g.weights;
    bias += g.share;
    out += g.share * g.out.c;
  }
}

void conv(DType dtype, const Geometry& g, const ConvTask& task) {
  const bool channels = g.lanes == Lanes::channels;
  switch (dtype) {
    case DType::float32: return channels ? conv_channels<float>(g, task) : conv_positions<float>(g, task);
    case DType::float64: return channels ? conv_channels<double>(g, task) : conv_positions<double>(g, task);
    case DType::float16: return channels ? conv_channels<Half>(g, task) : conv_positions<Half>(g, task);
    case DType::bfloat16: return channels ? conv_channels<BFloat16>(g, task) : conv_positions<BFloat16>(g, task);
  }
}

}  // namespace
}  // namespace pathconv::depthwise
