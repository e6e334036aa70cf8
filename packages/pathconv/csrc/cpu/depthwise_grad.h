// Weight-gradient tasks: the sums of a few taps stay in registers while the positions of a strip pass by.
#pragma once

#include "cpu/depthwise_pack.h"

namespace pathconv::depthwise {
namespace {

constexpr int64_t kMostTaps = 12;  // sums that leave room for the bias', a gradient and an input among 16 registers

// One strip of one block or row: `count` vectors of the upstream gradient and the sources of its taps.
template <class T, class A>
struct Strip {
  const T* grad;
  int64_t grad_step, count;
  int64_t lanes, last_lanes;  // live lanes of all but the last, and of the last gradient
  const A* source;            // of the first gradient at the first tap
  int64_t step, tap_step;
  Ahead *reads, *grad_reads;
};

template <int K, class T, class A>
void sum_taps(const Strip<T, A>& t, Vector<A>* sums, Vector<A>* bias) {
  Vector<A> taps[K], total = *bias;
  for (int k = 0; k < K; ++k) taps[k] = sums[k];
  const T* grad = t.grad;
  const A* in = t.source;
  Ahead reads = *t.reads, grad_reads = *t.grad_reads;
  for (int64_t i = 1; i < t.count; ++i, grad += t.grad_step, in += t.step) {
    const Vector<A> g = load_up_to(grad, t.lanes);
    for (int k = 0; k < K; ++k) taps[k] += g * load(in + k * t.tap_step);
    total += g;
    reads.ask(1);
    grad_reads.ask(1);
  }
  const Vector<A> g = load_up_to(grad, t.last_lanes);
  for (int k = 0; k < K; ++k) taps[k] += g * keep_lanes(load(in + k * t.tap_step), t.last_lanes);  // not 0 * infinity
  total += g;
  reads.ask(1);
  grad_reads.ask(1);
  *t.reads = reads;
  *t.grad_reads = grad_reads;
  for (int k = 0; k < K; ++k) sums[k] = taps[k];
  *bias = total;
}

// Adds a strip's sums of `count` taps to sums[0], sums[every], ...; the gradient itself is summed once.
template <class T, class A>
void sum_strip(Strip<T, A> t, int64_t count, Vector<A>* sums, Vector<A>* bias) {
  static constexpr void (*kSum[])(const Strip<T, A>&, Vector<A>*, Vector<A>*) = {
      sum_taps<1, T, A>, sum_taps<2, T, A>,  sum_taps<3, T, A>,  sum_taps<4, T, A>,
      sum_taps<5, T, A>, sum_taps<6, T, A>,  sum_taps<7, T, A>,  sum_taps<8, T, A>,
      sum_taps<9, T, A>, sum_taps<10, T, A>, sum_taps<11, T, A>, sum_taps<12, T, A>};
  Vector<A> again = {};
  Ahead idle(t.source, 0, 0);
  for (int64_t k = 0, taps; k < count; k += taps) {
    taps = min(count - k, kMostTaps);
    kSum[taps - 1](t, sums + k, k == 0 ? bias : &again);
    t.source += taps * t.tap_step;
    t.reads = t.grad_reads = &idle;
  }
}

template <class T>
void grad_channels(const Geometry& g, const GradTask& task) {
  using A = typename AccumulatorOf<T>::type;
  const T *source = static_cast<const T*>(task.source), *grad = static_cast<const T*>(task.grad);
  Vector<A>* sums = static_cast<Vector<A>*>(task.sums);
  A* packed = static_cast<A*>(task.scratch);
  const int64_t channels = g.out_channels, lanes = min(channels, kLanes<A>), taps = g.weights;
  const int64_t line = g.strip * int64_t(sizeof(T)), at_once = kLanes<A> * sizeof(T);
  Ahead reads(source + (task.q0 * g.stride + g.first) * g.source.l,
              g.stride > g.span ? 0 : at_once * g.stride / g.share, line * g.stride * g.source.l);
  Ahead grad_reads(grad + task.q0 * g.out.l, at_once, line * g.out.l);
  for (int64_t q = task.q0; q < task.q1; q += g.strip) {
    const int64_t count = min(g.strip, task.q1 - q), at = q * g.stride + g.first;
    const bool inside = g.direct && at >= 0 && at + (count - 1) * g.stride + g.span <= g.source_length;
    for (int64_t b = 0; b < blocks_of(channels, kLanes<A>); ++b) {
      const int64_t first = block_start(b, channels, kLanes<A>);
      Strip<T, A> strip = {grad + q * g.out.l + first, g.out.l,   count,  lanes,      lanes, packed,
                           g.stride * kLanes<A>,       kLanes<A>, &reads, &grad_reads};
      if constexpr (__is_same(T, A)) {
        if (inside) {
          strip.source = source + at * g.source.l + first;
          strip.step = g.stride * g.source.l;
          strip.tap_step = g.source.l;
        }
      }
      if (strip.source == packed) pack(g, source, first, q, count, packed);
      Vector<A>* of_block = sums + b * (taps + 1);
      sum_strip(strip, taps, of_block, of_block + taps);
    }
  }
}

// The sum of the lanes of each of as many vectors as a vector has lanes.
template <class V>
inline V sum_lanes(V* vectors) {
  for (int count = sizeof(V) / sizeof((*vectors)[0]) / 2; count > 0; count /= 2)
    for (int i = 0; i < count; ++i)
      vectors[i] = rearrange<Order::even>(vectors[2 * i], vectors[2 * i + 1]) +
                   rearrange<Order::odd>(vectors[2 * i], vectors[2 * i + 1]);
  return vectors[0];
}

// Every phase of taps has its own packed row, in which neighbouring taps are neighbours.
template <class T>
void grad_positions(const Geometry& g, const GradTask& task) {
  using A = typename AccumulatorOf<T>::type;
  const T *source = static_cast<const T*>(task.source), *grads = static_cast<const T*>(task.grad);
  const int64_t taps = g.weights, room = (taps + kLanes<A>) / kLanes<A> * kLanes<A>;
  Vector<A>* vectors = static_cast<Vector<A>*>(task.scratch);  // sums, and a place for those of the gradient again
  A* totals = reinterpret_cast<A*>(vectors + room + 1);
  A* packed = totals + room;
  const int64_t strips = (task.q1 - task.q0 + g.strip - 1) / g.strip, at_once = kLanes<A> * sizeof(T);
  Ahead reads(source + task.g0 * g.source.c + task.q0 * g.stride, g.stride > g.span ? 0 : at_once * g.stride / g.share,
              0);
  Ahead grad_reads(grads + task.g0 * g.share * g.out.c + task.q0, at_once, 0);
  Ahead idle(source, 0, 0);
  for (int64_t i = task.g0 * strips; i < task.g1 * strips; ++i) {
    const int64_t group = i / strips, q = task.q0 + i % strips * g.strip;
    const int64_t count = min(g.strip, task.q1 - q), number = (count + kLanes<A> - 1) / kLanes<A>;
    pack(g, source, group, q, count, packed);
    for (int64_t c = group * g.share; c < (group + 1) * g.share; ++c) {
      const T* grad = grads + c * g.out.c + q;
      Strip<T, A> strip = {grad,   kLanes<A>, number, kLanes<A>, count - (number - 1) * kLanes<A>,
                           packed, kLanes<A>, 1,      &reads,    &grad_reads};
      for (int64_t k = 0; k < room; ++k) vectors[k] = Vector<A>{};
      Vector<A>* of_phase = vectors + 1;  // the bias comes first
      for (int64_t phase = 0; phase < g.phases; ++phase, strip.source += g.columns) {
        const int64_t number_of = (taps - phase + g.phases - 1) / g.phases;
        sum_strip(strip, number_of, of_phase, phase == 0 ? vectors : vectors + room);
        of_phase += number_of;
        strip.reads = strip.grad_reads = &idle;
      }
      for (int64_t k = 0; k <= taps; k += kLanes<A>) store(totals + k, sum_lanes(vectors + k));
      A* sums = static_cast<A*>(task.sums) + c * (taps + 1);
      const A* total = totals;
      sums[taps] += *total++;
      for (int64_t phase = 0; phase < g.phases; ++phase)
        for (int64_t k = phase; k < taps; k += g.phases) sums[k] += *total++;
    }
  }
}

void grad(DType dtype, const Geometry& g, const GradTask& task) {
  const bool channels = g.lanes == Lanes::channels;
  switch (dtype) {
    case DType::float32: return channels ? grad_channels<float>(g, task) : grad_positions<float>(g, task);
    case DType::float64: return channels ? grad_channels<double>(g, task) : grad_positions<double>(g, task);
    case DType::float16: return channels ? grad_channels<Half>(g, task) : grad_positions<Half>(g, task);
    case DType::bfloat16: return channels ? grad_channels<BFloat16>(g, task) : grad_positions<BFloat16>(g, task);
  }
}

}  // namespace
}  // namespace pathconv::depthwise
