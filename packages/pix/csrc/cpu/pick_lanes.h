// What the passes of one level share: choices in lanes, and vectors whose lanes are subsets.
#pragma once

#include <cfloat>

#include "common/vector.h"
#include "cpu/pick_job.h"

namespace pix {
namespace {

using namespace leanconv::cpu;

template <class T>
using Sum = typename AccumulatorOf<T>::type;

// Integers as wide as A, one per lane, and the choices in memory.
template <class A>
using Integers = decltype(Vector<A>{} < Vector<A>{});
template <class A>
inline Integers<A> integers(int64_t value) {
  Integers<A> v = {};
  return v + static_cast<decltype(v[0] + 0)>(value);
}
typedef uint8_t FloatBytes __attribute__((vector_size(LEVEL_BYTES / 4)));
typedef uint8_t DoubleBytes __attribute__((vector_size(LEVEL_BYTES / 8)));
typedef int32_t FloatInts __attribute__((vector_size(LEVEL_BYTES)));
typedef int32_t DoubleInts __attribute__((vector_size(LEVEL_BYTES / 2)));
template <class A, class Index>
struct ChoicesOf;
template <>
struct ChoicesOf<float, uint8_t> {
  using type = FloatBytes;
};
template <>
struct ChoicesOf<double, uint8_t> {
  using type = DoubleBytes;
};
template <>
struct ChoicesOf<float, int32_t> {
  using type = FloatInts;
};
template <>
struct ChoicesOf<double, int32_t> {
  using type = DoubleInts;
};

// The first maximum of one subset per lane. As published, nothing below -FLT_MAX and no NaN is a maximum; the first
// channel is chosen where nothing is.
template <class A, class Index>
struct Largest {
  Vector<A> value;
  Integers<A> at;

  inline Largest() : value(splat(static_cast<A>(-FLT_MAX))), at{} {}
  inline void take(Vector<A> v, int64_t i) {
    const Integers<A> more = v > value;
    at = more ? integers<A>(i) : at;
    value = more ? v : value;
  }
  inline void keep(Integers<A> mask) { at &= mask; }
  inline void store_choice(Index* out, int64_t lanes) const {
    const auto narrow = __builtin_convertvector(at, typename ChoicesOf<A, Index>::type);
    if (lanes == kLanes<A>) {
      __builtin_memcpy(out, &narrow, sizeof(narrow));
    } else {
      for (int64_t i = 0; i < lanes; ++i) out[i] = narrow[i];
    }
  }
};

// Choices as they lie in memory, to compare with.
template <class A, class Index>
struct Chosen {
  Integers<A> at;

  inline Chosen(const Index* choice, int64_t lanes) {
    typename ChoicesOf<A, Index>::type narrow = {};
    if (lanes == kLanes<A>) {
      __builtin_memcpy(&narrow, choice, sizeof(narrow));
    } else {
      for (int64_t i = 0; i < lanes; ++i) narrow[i] = choice[i];
    }
    at = __builtin_convertvector(narrow, Integers<A>);
  }
  // v where i is chosen, else 0
  inline Vector<A> only(Vector<A> v, int64_t i) const { return at == integers<A>(i) ? v : Vector<A>{}; }
};

#if LEVEL_BYTES == 64
// Masks write bytes directly.
inline uint32_t more(FloatVector a, FloatVector b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
inline uint32_t more(DoubleVector a, DoubleVector b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ); }
inline FloatVector larger(FloatVector a, FloatVector b) { return (FloatVector)_mm512_max_ps((__m512)a, (__m512)b); }
inline DoubleVector larger(DoubleVector a, DoubleVector b) {
  return (DoubleVector)_mm512_max_pd((__m512d)a, (__m512d)b);
}
inline FloatVector masked(uint32_t mask, FloatVector v) { return (FloatVector)_mm512_maskz_mov_ps(mask, (__m512)v); }
inline DoubleVector masked(uint32_t mask, DoubleVector v) {
  return (DoubleVector)_mm512_maskz_mov_pd(mask, (__m512d)v);
}
inline uint32_t bits_of(Integers<float> mask) { return _mm512_movepi32_mask((__m512i)mask); }
inline uint32_t bits_of(Integers<double> mask) { return _mm512_movepi64_mask((__m512i)mask); }

template <class A>
struct Largest<A, uint8_t> {
  Vector<A> value;
  __m128i at;

  inline Largest() : value(splat(static_cast<A>(-FLT_MAX))), at(_mm_setzero_si128()) {}
  inline void take(Vector<A> v, int64_t i) {
    at = _mm_mask_mov_epi8(at, more(v, value), _mm_set1_epi8(static_cast<char>(i)));
    value = larger(v, value);  // value itself where v is NaN
  }
  inline void keep(Integers<A> mask) { at = _mm_maskz_mov_epi8(bits_of(mask), at); }
  inline void store_choice(uint8_t* out, int64_t lanes) const {
    _mm_mask_storeu_epi8(out, (uint32_t{1} << lanes) - 1, at);
  }
};

template <class A>
struct Chosen<A, uint8_t> {
  __m128i at;

  inline Chosen(const uint8_t* choice, int64_t lanes) : at(_mm_maskz_loadu_epi8((uint32_t{1} << lanes) - 1, choice)) {}
  inline Vector<A> only(Vector<A> v, int64_t i) const {
    return masked(_mm_cmpeq_epi8_mask(at, _mm_set1_epi8(static_cast<char>(i))), v);
  }
};
#endif

// From n vectors of neighbours to n vectors, the i-th of which has the i-th of every n neighbours; n is a power of two.
template <int n, class V>
inline void deinterleave(V* v) {
  if constexpr (n > 1) {
    V even[n / 2], odd[n / 2];
    for (int j = 0; j < n / 2; ++j) {
      even[j] = rearrange<Order::even>(v[2 * j], v[2 * j + 1]);
      odd[j] = rearrange<Order::odd>(v[2 * j], v[2 * j + 1]);
    }
    deinterleave<n / 2>(even);
    deinterleave<n / 2>(odd);
    for (int j = 0; j < n / 2; ++j) {
      v[2 * j] = even[j];
      v[2 * j + 1] = odd[j];
    }
  }
}
template <int n, class V>
inline void interleave(V* v) {
  if constexpr (n > 1) {
    V even[n / 2], odd[n / 2];
    for (int j = 0; j < n / 2; ++j) {
      even[j] = v[2 * j];
      odd[j] = v[2 * j + 1];
    }
    interleave<n / 2>(even);
    interleave<n / 2>(odd);
    for (int j = 0; j < n / 2; ++j) {
      v[2 * j] = rearrange<Order::weave_low>(even[j], odd[j]);
      v[2 * j + 1] = rearrange<Order::weave_high>(even[j], odd[j]);
    }
  }
}

// The size of the subset of output c, and what its sum is divided by.
inline int64_t size_of(const Params& a, int64_t c) {
  const int64_t rest = a.channels - c * a.zeta;
  return rest < a.zeta ? rest : a.zeta;
}
inline int64_t divisor_of(const Params& a, int64_t c) { return a.count_short ? size_of(a, c) : a.zeta; }

// Sizes of subsets that loops over planes know: others go round and round.
template <int Z>
constexpr int kUnrolled = Z == 2 || Z == 4 ? Z : 0;

// A NaN mixes.
template <class A>
inline bool picks(A p, float tau) {
  return p < static_cast<A>(tau);
}

// One vector of `lanes` numbers, at most kLanes.
template <class T>
inline auto load_lanes(const T* p, int64_t lanes) {
  return lanes == kLanes<Sum<T>> ? load(p) : load_part(p, lanes);
}
template <class T, class V>
inline void store_lanes(T* p, V v, int64_t lanes) {
  if (lanes == kLanes<Sum<T>>) {
    store(p, v);
  } else {
    store_part(p, v, lanes);
  }
}

// a * b + c, rounded once wherever the level can: left to itself, GCC does so in some copies of a loop and not in
// others.
#if LEVEL_BYTES == 64
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
  return (FloatVector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  return (DoubleVector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif LEVEL_BYTES == 32
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
  return (FloatVector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  return (DoubleVector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#else
template <class V>
inline V multiply_add(V a, V b, V c) {
  return a * b + c;
}
#endif

// The sum of all lanes, in halves.
template <class A>
inline A total(Vector<A> sums) {
  A lanes[kLanes<A>];
  store(lanes, sums);
  for (int64_t n = kLanes<A> / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  return lanes[0];
}

template <class T>
inline const T* at(const void* data, const Strides& strides, int64_t n, int64_t i) {
  return static_cast<const T*>(data) + n * strides.n + i * strides.step;
}

// body<T, Index>(arguments) by dtype and the width of choices
#define PIX_DISPATCH_CHOICE(a, body, ...)                                                                              \
  do {                                                                                                                 \
    const bool wide = (a).zeta > 256;                                                                                  \
    switch ((a).dtype) {                                                                                               \
      case DType::float32: return wide ? body<float, int32_t>(__VA_ARGS__) : body<float, uint8_t>(__VA_ARGS__);        \
      case DType::float64: return wide ? body<double, int32_t>(__VA_ARGS__) : body<double, uint8_t>(__VA_ARGS__);      \
      case DType::float16: return wide ? body<Half, int32_t>(__VA_ARGS__) : body<Half, uint8_t>(__VA_ARGS__);          \
      case DType::bfloat16: return wide ? body<BFloat16, int32_t>(__VA_ARGS__) : body<BFloat16, uint8_t>(__VA_ARGS__); \
    }                                                                                                                  \
  } while (false)

#define PIX_DISPATCH(a, body, ...)                              \
  do {                                                          \
    switch ((a).dtype) {                                        \
      case DType::float32: return body<float>(__VA_ARGS__);     \
      case DType::float64: return body<double>(__VA_ARGS__);    \
      case DType::float16: return body<Half>(__VA_ARGS__);      \
      case DType::bfloat16: return body<BFloat16>(__VA_ARGS__); \
    }                                                           \
  } while (false)

}  // namespace
}  // namespace pix
