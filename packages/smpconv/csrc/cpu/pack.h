// Numbers of neighbouring channels to and from vectors, one lane per channel.
#pragma once

#include "common/vector.h"

namespace smpconv {
namespace {

using namespace leanconv::cpu;

template <class T>
using Sum = typename AccumulatorOf<T>::type;

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Turns a square of numbers about its diagonal: weaving the halves of the rows log2(n) times.
template <class A>
inline void turn(Vector<A>* rows) {
#if LEVEL_BYTES == 64
  if constexpr (sizeof(A) == 4) return transpose(rows);
#endif
  constexpr int n = kLanes<A>;
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    Vector<A> woven[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      woven[2 * i] = rearrange<Order::weave_low>(rows[i], rows[i + n / 2]);
      woven[2 * i + 1] = rearrange<Order::weave_high>(rows[i], rows[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = woven[i];
  }
}

// `count` pixels, `step` apart, each of `channels` channels, `channel_step` apart, to one vector per pixel. One of the
// steps is 1.
template <class T>
inline void pack_pixels(const T* in, int64_t step, int64_t channel_step, int64_t channels, int64_t count, Sum<T>* out) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (channel_step == 1) {
    for (int64_t i = 0; i < count; ++i) store(out + i * lanes, load_up_to(in + i * step, channels));
    return;
  }
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t n = min(lanes, count - i);
    Vector<A> block[lanes];
    for (int64_t c = 0; c < lanes; ++c)
      block[c] = c < channels ? load_up_to(in + i + c * channel_step, n) : Vector<A>{};
    turn<A>(block);
    for (int64_t j = 0; j < n; ++j) store(out + (i + j) * lanes, block[j]);
  }
}

// The way back.
template <class T>
inline void unpack_pixels(const Sum<T>* in, int64_t step, int64_t channel_step, int64_t channels, int64_t count,
                          T* out) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  if (channel_step == 1) {
    for (int64_t i = 0; i < count; ++i) store_up_to(out + i * step, load(in + i * lanes), channels);
    return;
  }
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t n = min(lanes, count - i);
    Vector<A> block[lanes];
    for (int64_t j = 0; j < lanes; ++j) block[j] = j < n ? load(in + (i + j) * lanes) : Vector<A>{};
    turn<A>(block);
    for (int64_t c = 0; c < channels; ++c) store_up_to(out + i + c * channel_step, block[c], n);
  }
}

template <class A>
inline void fill_zero(A* out, int64_t vectors) {
  for (int64_t i = 0; i < vectors; ++i) store(out + i * kLanes<A>, Vector<A>{});
}

}  // namespace
}  // namespace smpconv
