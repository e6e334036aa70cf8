// edit in shared/common/native/vector.h
// Vectors of one level: LEVEL_BYTES wide, loaded from and stored to every dtype. Included once by each unit of a level,
// after its target pragma; everything here is local to that unit.
#pragma once

#if LEVEL_BYTES > 16
#if defined(__GNUC__) && !defined(__clang__)
// GCC's AVX-512 header makes its "undefined" vectors by reading uninitialised ones, and warns about itself.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#include "common/half.h"

namespace leanconv::cpu {
namespace {

typedef float FloatVector __attribute__((vector_size(LEVEL_BYTES)));
typedef double DoubleVector __attribute__((vector_size(LEVEL_BYTES)));
typedef uint32_t BitsVector __attribute__((vector_size(LEVEL_BYTES)));
typedef uint16_t ShortVector __attribute__((vector_size(LEVEL_BYTES / 2)));

template <class A>
struct VectorOf {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int64_t kLanes = LEVEL_BYTES / sizeof(A);

template <class V, class T>
inline V load_bytes(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class A>
inline Vector<A> load(const A* p) {
  return load_bytes<Vector<A>>(p);
}
template <class A>
inline void store(A* p, Vector<A> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

template <class A>
inline Vector<A> splat(A value) {
  return value - Vector<A>{};
}

inline FloatVector load(const BFloat16* p) {
  const BitsVector bits = __builtin_convertvector(load_bytes<ShortVector>(p), BitsVector) << 16;
  return (FloatVector)bits;
}

inline void store(BFloat16* p, FloatVector v) {
  const BitsVector bits = (BitsVector)v, nan = (BitsVector)(v != v);
  const BitsVector rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  const ShortVector out = __builtin_convertvector((nan & quiet) | (~nan & rounded), ShortVector);
  __builtin_memcpy(p, &out, sizeof(out));
}

#if LEVEL_BYTES == 64
inline FloatVector load(const Half* p) { return (FloatVector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(Half* p, FloatVector v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif LEVEL_BYTES == 32
inline FloatVector load(const Half* p) { return (FloatVector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store(Half* p, FloatVector v) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
inline FloatVector load(const Half* p) {
  FloatVector v;
  for (int64_t i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
  return v;
}
inline void store(Half* p, FloatVector v) {
  for (int64_t i = 0; i < kLanes<float>; ++i) narrow(v[i], p + i);
}
#endif

// The first n < kLanes elements; the other lanes are zero, and the other elements are neither read nor written.
template <class T>
inline auto load_part(const T* p, int64_t n) {
  T lanes[LEVEL_BYTES / sizeof(typename AccumulatorOf<T>::type)] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T, class V>
inline void store_part(T* p, V v, int64_t n) {
  T lanes[LEVEL_BYTES / sizeof(typename AccumulatorOf<T>::type)];
  store(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

#if LEVEL_BYTES == 64
inline auto load_part(const float* p, int64_t n) { return (FloatVector)_mm512_maskz_loadu_ps((1u << n) - 1, p); }
inline void store_part(float* p, FloatVector v, int64_t n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v); }
inline auto load_part(const double* p, int64_t n) { return (DoubleVector)_mm512_maskz_loadu_pd((1u << n) - 1, p); }
inline void store_part(double* p, DoubleVector v, int64_t n) { _mm512_mask_storeu_pd(p, (1u << n) - 1, (__m512d)v); }
#endif

template <class T>
inline auto load_up_to(const T* p, int64_t n) {
  return n >= kLanes<typename AccumulatorOf<T>::type> ? load(p) : load_part(p, n);
}
template <class T, class V>
inline void store_up_to(T* p, V v, int64_t n) {
  if (n >= kLanes<typename AccumulatorOf<T>::type>) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

// v with zeros in all but the first n lanes.
template <class V>
inline V keep_lanes(V v, int64_t n) {
  static constexpr struct Ones {
    uint32_t bits[2 * LEVEL_BYTES / sizeof(uint32_t)];
    constexpr Ones() : bits() {
      for (int i = 0; i < static_cast<int>(LEVEL_BYTES / sizeof(uint32_t)); ++i) bits[i] = ~uint32_t{0};
    }
  } ones;
  const int64_t bytes = n * static_cast<int64_t>(sizeof(v[0]));
  return (V)((BitsVector)v & load_bytes<BitsVector>(reinterpret_cast<const char*>(ones.bits) + LEVEL_BYTES - bytes));
}

// Fixed orders of two vectors' lanes: a0 a2 .. b0 b2 .., a1 a3 .. b1 b3 .., a0 b0 a1 b1 .., and the rest of the latter.
enum class Order { even, odd, weave_low, weave_high };

template <Order order, class Index, int n>
struct LaneTable {
  Index at[n];
  constexpr LaneTable() : at() {
    for (int i = 0; i < n; ++i) {
      const bool weave = order == Order::weave_low || order == Order::weave_high;
      at[i] = weave ? i / 2 + i % 2 * n + (order == Order::weave_high) * n / 2 : 2 * i + (order == Order::odd);
    }
  }
};
template <class V>
struct LaneIndexOf {
  using type = int32_t;
};
template <>
struct LaneIndexOf<DoubleVector> {
  using type = int64_t;
};

template <Order order, class V>
inline V rearrange(V a, V b) {
  using Index = typename LaneIndexOf<V>::type;
  constexpr int n = sizeof(V) / sizeof(Index);
  static constexpr LaneTable<order, Index, n> table;
#if defined(__GNUC__) && !defined(__clang__)
  typedef Index Mask __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, load_bytes<Mask>(table.at));
#else
  V out;
  for (int i = 0; i < n; ++i) out[i] = table.at[i] < n ? a[table.at[i]] : b[table.at[i] - n];
  return out;
#endif
}

// Turns a square of numbers, one row per vector, about its diagonal.
#if LEVEL_BYTES == 64
inline void transpose(FloatVector* rows) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = (__m512)_mm512_unpacklo_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
      b[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd((__m512d)a[i + j], (__m512d)a[i + j + 2]);
    }
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 even = _mm512_shuffle_f32x4(b[j], b[j + 4], 0x88), odd = _mm512_shuffle_f32x4(b[j], b[j + 4], 0xdd);
    const __m512 even2 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0x88);
    const __m512 odd2 = _mm512_shuffle_f32x4(b[j + 8], b[j + 12], 0xdd);
    rows[j] = (FloatVector)_mm512_shuffle_f32x4(even, even2, 0x88);
    rows[j + 4] = (FloatVector)_mm512_shuffle_f32x4(odd, odd2, 0x88);
    rows[j + 8] = (FloatVector)_mm512_shuffle_f32x4(even, even2, 0xdd);
    rows[j + 12] = (FloatVector)_mm512_shuffle_f32x4(odd, odd2, 0xdd);
  }
}
#endif

template <class V>
inline void transpose(V* rows) {
  constexpr int n = sizeof(V) / sizeof((*rows)[0]);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) {
      const auto kept = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = kept;
    }
  }
}

}  // namespace
}  // namespace leanconv::cpu
