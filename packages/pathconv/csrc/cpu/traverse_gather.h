// Gathers along paths, for one level. Included once by each traverse_level_*.cpp, after its target pragma.
#pragma once

#include "common/vector.h"
#include "cpu/traverse_job.h"

#define ALWAYS_INLINE __attribute__((always_inline))

namespace pathconv::traversal {
namespace {

// One cache line of elements source[index[0]], source[index[1]], ... to `out`.
template <class T>
inline void copy_line(const T* source, const int32_t* index, T* out, bool) {
  for (int64_t i = 0; i < static_cast<int64_t>(64 / sizeof(T)); ++i) out[i] = source[index[i]];
}

// Numbers source[index[0]], ..., widened, one per lane.
template <class T>
inline auto read(const T* source, const int32_t* index) {
  using A = typename AccumulatorOf<T>::type;
  Vector<A> v;
  for (int64_t i = 0; i < kLanes<A>; ++i) v[i] = widen(source[index[i]]);
  return v;
}

#if LEVEL_BYTES == 64
inline __m512i read_bits(const float* source, const int32_t* index) {
  return _mm512_i32gather_epi32(_mm512_loadu_si512(index), source, 4);
}
inline __m512i read_bits(const double* source, const int32_t* index) {
  return _mm512_i32gather_epi64(_mm256_loadu_si256((const __m256i*)index), source, 8);
}
// Two bytes and the two behind them, which the conversion drops.
inline __m256i read_bits(const uint16_t* source, const int32_t* index) {
  return _mm512_cvtepi32_epi16(_mm512_i32gather_epi32(_mm512_loadu_si512(index), source, 2));
}

inline void put_line(void* out, __m512i line, bool stream) {
  if (stream) {
    _mm512_stream_si512((__m512i*)out, line);
  } else {
    _mm512_storeu_si512(out, line);
  }
}
inline void copy_line(const float* source, const int32_t* index, float* out, bool stream) {
  put_line(out, read_bits(source, index), stream);
}
inline void copy_line(const double* source, const int32_t* index, double* out, bool stream) {
  put_line(out, read_bits(source, index), stream);
}
inline void copy_line(const uint16_t* source, const int32_t* index, uint16_t* out, bool stream) {
  const __m512i low = _mm512_castsi256_si512(read_bits(source, index));
  put_line(out, _mm512_inserti64x4(low, read_bits(source, index + 16), 1), stream);
}

inline FloatVector read(const float* source, const int32_t* index) { return (FloatVector)read_bits(source, index); }
inline DoubleVector read(const double* source, const int32_t* index) { return (DoubleVector)read_bits(source, index); }
inline FloatVector read(const Half* source, const int32_t* index) {
  return (FloatVector)_mm512_cvtph_ps(read_bits((const uint16_t*)source, index));
}
inline FloatVector read(const BFloat16* source, const int32_t* index) {
  return (FloatVector)_mm512_slli_epi32(_mm512_i32gather_epi32(_mm512_loadu_si512(index), source, 2), 16);
}

inline void put(float* out, FloatVector v, bool stream) { put_line(out, (__m512i)v, stream); }
inline void put(double* out, DoubleVector v, bool stream) { put_line(out, (__m512i)v, stream); }

// From N pieces, of which the first two begin at `first`.
template <int N>
inline FloatVector pick_from(const float* plane, uint64_t first, const Picks& picks) {
  const __m512i lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)picks.lanes));
  const __mmask16 second = _mm512_test_epi32_mask(lanes, _mm512_set1_epi32(2 * kPicked));
  const uint64_t some = picks.at[1], others = N > 4 ? picks.at[2] : 0;
  const auto two = [=](int64_t low, int64_t high) ALWAYS_INLINE {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(plane + low), lanes, _mm512_loadu_ps(plane + high));
  };
  __m512 v = two(place_of(first, 0), place_of(first, 1));
  v = _mm512_mask_blend_ps(second, v, two(place_of(some, 0), place_of(some, 1)));
  if (N > 4) {
    __m512 w = two(place_of(some, 2), place_of(others, 0));
    if (N > 6) w = _mm512_mask_blend_ps(second, w, two(place_of(others, 1), place_of(others, 2)));
    v = _mm512_mask_blend_ps(_mm512_test_epi32_mask(lanes, _mm512_set1_epi32(4 * kPicked)), v, w);
  }
  return (FloatVector)v;
}
inline FloatVector pick(const float* plane, const Picks& picks, const int32_t* index) {
  const uint64_t first = picks.at[0];
  const int64_t pieces = place_of(first, 2);
  if (pieces == 4) return pick_from<4>(plane, first, picks);
  if (pieces == 6) return pick_from<6>(plane, first, picks);
  if (pieces == 8) return pick_from<8>(plane, first, picks);
  return read(plane, index);
}
#elif LEVEL_BYTES == 32
inline void put_part(void* out, __m256i part, bool stream) {
  if (stream) {
    _mm256_stream_si256((__m256i*)out, part);
  } else {
    _mm256_storeu_si256((__m256i*)out, part);
  }
}
inline FloatVector read(const float* source, const int32_t* index) {
  return (FloatVector)_mm256_i32gather_ps(source, _mm256_loadu_si256((const __m256i*)index), 4);
}
inline DoubleVector read(const double* source, const int32_t* index) {
  return (DoubleVector)_mm256_i32gather_pd(source, _mm_loadu_si128((const __m128i*)index), 8);
}
inline void put(float* out, FloatVector v, bool stream) { put_part(out, (__m256i)v, stream); }
inline void put(double* out, DoubleVector v, bool stream) { put_part(out, (__m256i)v, stream); }

template <class T>
inline void copy_line_by_vectors(const T* source, const int32_t* index, T* out, bool stream) {
  put(out, read(source, index), stream);
  put(out + kLanes<T>, read(source, index + kLanes<T>), stream);
}
inline void copy_line(const float* source, const int32_t* index, float* out, bool stream) {
  copy_line_by_vectors(source, index, out, stream);
}
inline void copy_line(const double* source, const int32_t* index, double* out, bool stream) {
  copy_line_by_vectors(source, index, out, stream);
}
#endif

template <class T, class V>
inline void put(T* out, V v, bool) {
  store(out, v);
}

inline void ask_for(const void* memory) { __builtin_prefetch(memory, 0, 3); }

// A line that is written so many bytes later: a write to a line that is not at hand waits for it as a read does.
constexpr int64_t kWriteAhead = 4096;
inline void ask_to_write(const void* memory) {
  __builtin_prefetch(static_cast<const char*>(memory) + kWriteAhead, 1, 3);
}

// What goes past the cache still needs the address of its page, which may take as long to find as a line of memory:
// with the first `bytes` of a page the one behind it is asked for.
ALWAYS_INLINE inline void ask_for_page(const void* out, uintptr_t bytes) {
  constexpr uintptr_t kPage = 4096;
  if (reinterpret_cast<uintptr_t>(out) % kPage < bytes) ask_for(static_cast<const char*>(out) + kPage);
}

// Into the second-level cache the lines that begin in the i-th piece of `size` bytes: each once, evenly among the work,
// so that what is asked for does not keep what is needed now waiting. (GCC drops calls that do nothing but ask, hence
// the attribute.)
ALWAYS_INLINE inline void ask_for_piece(const char* memory, int64_t i, int64_t size) {
  for (int64_t line = (i * size + 63) / 64 * 64; line < (i + 1) * size; line += 64)
    __builtin_prefetch(memory + line, 0, 2);
}
ALWAYS_INLINE inline void ask_to_write_piece(const char* memory, int64_t i, int64_t size) {
  for (int64_t line = (i * size + 63) / 64 * 64; line < (i + 1) * size; line += 64) ask_to_write(memory + line);
}

// The i-th of kLines lines of a later sample that one of so many turns asks for: a third of them each from three places
// of the sample, which memory brings sooner than as many in a row.
template <int64_t kLines>
ALWAYS_INLINE inline void ask_for_line(const char* sample, int64_t turns, int64_t turn, int64_t i) {
  ask_for(sample + (i % 3 * turns + turn) * (kLines / 3 * 64) + i / 3 * 64);
}

inline void stream_line(const void* in, void* out) {
#if LEVEL_BYTES == 64
  _mm512_stream_si512((__m512i*)out, _mm512_load_si512(in));
#elif LEVEL_BYTES == 32
  put_part(out, _mm256_load_si256((const __m256i*)in), true);
  put_part((char*)out + 32, _mm256_load_si256((const __m256i*)in + 1), true);
#else
  __builtin_memcpy(out, in, 64);
#endif
}

// What was written past the cache becomes visible to other threads.
inline void finish_streaming() {
#if LEVEL_BYTES > 16
  _mm_sfence();
#endif
}

// P paths where their number is known, else 0. (What the loops need lies in variables: the numbers that are written
// could, for all that the compiler knows, be `job`, which it then reads again.)
template <class T, int P, bool stream>
void gather_planes_by(const PlaneGather& job) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t paths = P > 0 ? P : job.paths, length = job.length, out_path = job.out_path;
  const T* const plane = static_cast<const T*>(job.plane);
  const T* const next = static_cast<const T*>(job.next != nullptr ? job.next : job.plane);
  const int32_t* const index = job.index;
  T* const out = static_cast<T*>(job.out);
  int64_t l = 0;
  for (; l + kLine <= length; l += kLine) {
    ask_for(next + l);
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      T* const to = out + p * out_path + l;
      stream ? ask_for_page(to, 64) : ask_to_write(to);
      copy_line(plane, index + p * length + l, to, stream);
    }
  }
  for (int64_t p = 0; p < paths; ++p)
    for (int64_t i = l; i < length; ++i) out[p * out_path + i] = plane[index[p * length + i]];
  if (stream) finish_streaming();
}

#if LEVEL_BYTES == 64
template <int P, bool stream>
void pick_planes_by(const PlaneGather& job) {
  const int64_t paths = P > 0 ? P : job.paths, length = job.length, out_path = job.out_path;
  const int64_t lines = length / kPicked;
  const float* const plane = static_cast<const float*>(job.plane);
  const float* const next = static_cast<const float*>(job.next != nullptr ? job.next : job.plane);
  const int32_t* const index = job.index;
  const Picks* const picks = job.picks;
  float* const out = static_cast<float*>(job.out);
  for (int64_t i = 0, l = 0; i < lines; ++i, l += kPicked) {
    ask_for(next + l);
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      float* const to = out + p * out_path + l;
      stream ? ask_for_page(to, 64) : ask_to_write(to);
      put(to, pick(plane, picks[p * lines + i], index + p * length + l), stream);
    }
  }
  for (int64_t p = 0; p < paths; ++p)
    for (int64_t l = lines * kPicked; l < length; ++l) out[p * out_path + l] = plane[index[p * length + l]];
  if (stream) finish_streaming();
}

void pick_planes(const PlaneGather& job) {
  if (job.stream) return job.paths == 3 ? pick_planes_by<3, true>(job) : pick_planes_by<0, true>(job);
  return job.paths == 3 ? pick_planes_by<3, false>(job) : pick_planes_by<0, false>(job);
}
#endif

template <class T>
void gather_planes_of(const PlaneGather& job) {
  if (job.stream) return job.paths == 3 ? gather_planes_by<T, 3, true>(job) : gather_planes_by<T, 0, true>(job);
  return job.paths == 3 ? gather_planes_by<T, 3, false>(job) : gather_planes_by<T, 0, false>(job);
}

void gather_planes(int64_t element, const PlaneGather& job) {
#if LEVEL_BYTES == 64
  if (job.picks != nullptr) return pick_planes(job);
#endif
  if (element == 8) return gather_planes_of<double>(job);
  if (element == 4) return gather_planes_of<float>(job);
  return gather_planes_of<uint16_t>(job);
}

void stream_bytes(const void* in, void* out, int64_t bytes) {
  int64_t i = 0;
  if (reinterpret_cast<uintptr_t>(out) % 64 == 0)
    for (; i + 64 <= bytes; i += 64) stream_line(static_cast<const char*>(in) + i, static_cast<char*>(out) + i);
  __builtin_memcpy(static_cast<char*>(out) + i, static_cast<const char*>(in) + i, bytes - i);
  finish_streaming();
}

bool inside(const int32_t* index, int64_t count, int64_t length) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t value = static_cast<uint32_t>(index[i]);  // a negative one becomes too large
    largest = value > largest ? value : largest;
  }
  return count == 0 || static_cast<int64_t>(largest) < length;
}

}  // namespace
}  // namespace pathconv::traversal
