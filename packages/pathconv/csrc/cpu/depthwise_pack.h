// Copies what a strip of outputs reads into zero-margined scratch, in the accumulator's type.
#pragma once

#include "common/vector.h"
#include "cpu/depthwise_job.h"

namespace pathconv::depthwise {
namespace {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

template <class A>
inline void fill_zero(A* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(out + i, Vector<A>{});
  for (; i < count; ++i) out[i] = 0;
}

// `count` positions, `step` elements apart, as one vector each: what output channels `first` and on read of `plane`.
template <class T, class A>
inline void pack_channels(const Geometry& g, const T* in, int64_t step, int64_t count, int64_t first, int64_t plane,
                          A* out) {
  const int64_t lanes = min(g.out_channels - first, kLanes<A>);
  if (g.planes == 1 && g.share == 1 && lanes == kLanes<A>) {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load(in + i * step + first));
  } else if (g.planes == 1 && g.share == 1) {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load_part(in + i * step + first, lanes));
  } else if (g.planes == 1 && g.share == 2 && lanes == kLanes<A> && first / 2 + kLanes<A> <= g.out_channels / 2) {
    for (int64_t i = 0; i < count; ++i) {
      const Vector<A> v = load(in + i * step + first / 2);
      store(out + i * kLanes<A>, rearrange<Order::weave_low>(v, v));
    }
  } else if (g.planes == 1 && g.share == 2 && lanes == kLanes<A> && first + kLanes<A> == g.out_channels &&
             first >= kLanes<A>) {
    for (int64_t i = 0; i < count; ++i) {  // the same from the upper half, for nothing lies behind the last channel
      const Vector<A> v = load(in + i * step + (first - kLanes<A>) / 2);
      store(out + i * kLanes<A>, rearrange<Order::weave_high>(v, v));
    }
  } else if (g.planes == 2 && g.share == 1 && lanes == kLanes<A>) {
    for (int64_t i = 0; i < count; ++i) {
      const T* at = in + i * step + 2 * first;
      const Vector<A> low = load(at), high = load(at + kLanes<A>);
      store(out + i * kLanes<A>, plane ? rearrange<Order::odd>(low, high) : rearrange<Order::even>(low, high));
    }
  } else {
    int64_t channel[kLanes<A>];
    for (int64_t j = 0; j < lanes; ++j) channel[j] = ((first + j) * g.planes + plane) / g.share;
    for (int64_t i = 0; i < count; ++i, in += step, out += kLanes<A>) {
      A values[kLanes<A>] = {};
      for (int64_t j = 0; j < lanes; ++j) values[j] = widen(in[channel[j]]);
      store(out, load(values));
    }
  }
}

// `count` positions of one channel, `step` elements apart: one number each.
template <class T, class A>
inline void pack_positions(const T* in, int64_t step, int64_t count, A* out) {
  int64_t i = 0;
  if (step == 1) {
    for (; i + kLanes<A> <= count; i += kLanes<A>) store(out + i, load(in + i));
    if (i < count) store(out + i, load_part(in + i, count - i));  // scratch has room for a whole vector
    return;
  }
  if (step == 2)  // the second vector ends one element behind the last that is wanted
    for (; i + kLanes<A> < count; i += kLanes<A>)
      store(out + i, rearrange<Order::even>(load(in + 2 * i), load(in + 2 * i + kLanes<A>)));
  for (; i < count; ++i) out[i] = widen(in[i * step]);
}

// What outputs [q, q + count) of every line read, of output channels `first` and on or of the group `first`.
template <class T, class A>
inline void pack(const Geometry& g, const T* source, int64_t first, int64_t q, int64_t count, A* out) {
  const bool channels = g.lanes == Lanes::channels;
  const int64_t unit = channels ? kLanes<A> : 1, step = channels ? 1 : g.stride;
  const int64_t outputs = channels ? count : (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
  const int64_t columns = channels ? (count - 1) * g.stride + g.span : outputs + (g.span - 1) / g.stride;
  for (int64_t row = 0; row < g.planes * g.phases; ++row, out += g.columns * unit) {
    const int64_t plane = row / g.phases, at = q * g.stride + g.first + row % g.phases;
    const int64_t begin = at < 0 ? min((step - 1 - at) / step, columns) : 0;
    const int64_t end = max(begin, min((g.source_length - at + step - 1) / step, columns));
    const T* in = source + (at + begin * step) * g.source.l;
    fill_zero(out, begin * unit);
    if (channels) {
      pack_channels(g, in, g.source.l, end - begin, first, plane, out + begin * unit);
    } else {
      pack_positions(in + (first * g.planes + plane) * g.source.c, step, end - begin, out + begin);
    }
    fill_zero(out + end * unit, (columns - end) * unit);
  }
}

// Asks for memory a little ahead of what is read or written, in its order, whatever the order of the work: the
// processor's own prefetching stops at pages and loses count of many rows.
class Ahead {
 public:
  // `per_vector`: bytes of memory for every vector of outputs. `strip`: bytes that are worked on out of order.
  Ahead(const void* start, int64_t per_vector, int64_t strip)
      : at_(static_cast<const char*>(start) + strip + 8192), per_vector_(per_vector) {}
  void ask(int64_t vectors) {
    const char* end = at_ + vectors * per_vector_;
    for (; at_ < end; at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  const char* at_;
  int64_t per_vector_;
};

}  // namespace
}  // namespace pathconv::depthwise
