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

// Turns a whole square from memory to memory, where a level has a quicker way than `turn`; false where it has none.
template <class T>
inline bool turn_square(const T*, int64_t, T*, int64_t) {
  return false;
}
#if LEVEL_BYTES == 64
// Quarters of rows are loaded into their places, which leaves half of the shuffles: there is one port for these.
inline bool turn_square(const float* in, int64_t step, float* out, int64_t out_step) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    __m512 part[4];  // lane l of part i: quarter q of row i + 4 l
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* at = in + i * step + 4 * q;
      part[i] = _mm512_castps128_ps512(_mm_loadu_ps(at));
      part[i] = _mm512_insertf32x4(part[i], _mm_loadu_ps(at + 4 * step), 1);
      part[i] = _mm512_insertf32x4(part[i], _mm_loadu_ps(at + 8 * step), 2);
      part[i] = _mm512_insertf32x4(part[i], _mm_loadu_ps(at + 12 * step), 3);
    }
    const __m512d low = (__m512d)_mm512_unpacklo_ps(part[0], part[1]);
    const __m512d high = (__m512d)_mm512_unpackhi_ps(part[0], part[1]);
    const __m512d low2 = (__m512d)_mm512_unpacklo_ps(part[2], part[3]);
    const __m512d high2 = (__m512d)_mm512_unpackhi_ps(part[2], part[3]);
    float* to = out + 4 * q * out_step;
    _mm512_storeu_ps(to, (__m512)_mm512_unpacklo_pd(low, low2));
    _mm512_storeu_ps(to + out_step, (__m512)_mm512_unpackhi_pd(low, low2));
    _mm512_storeu_ps(to + 2 * out_step, (__m512)_mm512_unpacklo_pd(high, high2));
    _mm512_storeu_ps(to + 3 * out_step, (__m512)_mm512_unpackhi_pd(high, high2));
  }
  return true;
}
#endif

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
    if constexpr (sizeof(T) == sizeof(A)) {
      if (channels == lanes && n == lanes && turn_square(in + i, channel_step, out + i * lanes, lanes)) continue;
    }
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
    if constexpr (sizeof(T) == sizeof(A)) {
      if (channels == lanes && n == lanes && turn_square(in + i * lanes, lanes, out + i, channel_step)) continue;
    }
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
