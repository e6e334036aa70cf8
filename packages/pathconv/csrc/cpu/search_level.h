// The inner loops of the search for one instruction set. Included once by each search_<level>.cpp, after its target
// pragma; everything here is local to that unit.
#pragma once

#include "cpu/search_kernel.h"

#if LEVEL_BYTES > 16
#if defined(__GNUC__) && !defined(__clang__)
// GCC's AVX-512 header makes its "undefined" vectors by reading uninitialised ones, and warns about itself.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace pathconv {
namespace {

// Differences along one direction: each belongs to both of its pixels.
inline int64_t add_edges(const int32_t* a, const int32_t* b, int64_t count, int32_t* da, int32_t* db, int32_t* edge) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t step = a[i] - b[i];
    edge[i] = step < 0 ? -step : step;
    sum += edge[i];
  }
  for (int64_t i = 0; i < count; ++i) da[i] += edge[i];
  for (int64_t i = 0; i < count; ++i) db[i] += edge[i];
  return sum;
}

int64_t distances(const int32_t* t, int64_t stride, int64_t height, int64_t width, int32_t* d, int32_t* edge) {
  int64_t sum = 0;
  for (int64_t r = 0; r < height; ++r, t += stride, d += width) {
    sum += add_edges(t, t + 1, width - 1, d, d + 1, edge);
    if (r + 1 == height) break;
    const int32_t* below = t + stride;
    sum += add_edges(t, below, width, d, d + width, edge);
    sum += add_edges(t, below + 1, width - 1, d, d + width + 1, edge);
    sum += add_edges(t + 1, below, width - 1, d + 1, d + width, edge);
  }
  return 2 * sum;
}

// 512 candidates.
struct Bits {
#if LEVEL_BYTES == 64
  __m512i v;
  static Bits load(const uint64_t* p) { return {_mm512_loadu_si512(p)}; }
  Bits operator&(Bits o) const { return {_mm512_and_si512(v, o.v)}; }
  bool any() const { return _mm512_test_epi64_mask(v, v) != 0; }
  void store(uint64_t* p) const { _mm512_storeu_si512(p, v); }
#elif LEVEL_BYTES == 32
  __m256i a, b;
  static Bits load(const uint64_t* p) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  Bits operator&(Bits o) const { return {_mm256_and_si256(a, o.a), _mm256_and_si256(b, o.b)}; }
  bool any() const {
    const __m256i both = _mm256_or_si256(a, b);
    return !_mm256_testz_si256(both, both);
  }
  void store(uint64_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, b);
  }
#else
  typedef uint64_t Pair __attribute__((vector_size(16)));
  Pair v[4];
  static Bits load(const uint64_t* p) {
    Bits bits;
    __builtin_memcpy(bits.v, p, sizeof(bits.v));
    return bits;
  }
  Bits operator&(Bits o) const { return {{v[0] & o.v[0], v[1] & o.v[1], v[2] & o.v[2], v[3] & o.v[3]}}; }
  bool any() const {
    const Pair all = (v[0] | v[1]) | (v[2] | v[3]);
    return (all[0] | all[1]) != 0;
  }
  void store(uint64_t* p) const { __builtin_memcpy(p, v, sizeof(v)); }
#endif
};

// Few candidates survive the first pixels.
int64_t find(const Candidates& candidates, const int32_t* pixels, int64_t count, int64_t begin, int64_t end) {
  const int64_t lanes = 64 * kBlock;
  for (int64_t block = begin / lanes; block * lanes < end; ++block) {
    const uint64_t* rows = candidates.table + block * candidates.pixels * kBlock;
    uint64_t words[kBlock];
    for (int64_t i = 0; i < kBlock; ++i) {
      const int64_t skip = begin - block * lanes - 64 * i;
      words[i] = skip <= 0 ? ~uint64_t{0} : skip >= 64 ? 0 : ~uint64_t{0} << skip;
    }
    Bits bits = Bits::load(words);
    int64_t i = 0;
    for (; i + 4 <= count && bits.any(); i += 4) {
      const Bits a = Bits::load(rows + pixels[i] * kBlock) & Bits::load(rows + pixels[i + 1] * kBlock);
      const Bits b = Bits::load(rows + pixels[i + 2] * kBlock) & Bits::load(rows + pixels[i + 3] * kBlock);
      bits = bits & a & b;
    }
    if (!bits.any()) continue;
    for (; i < count; ++i) bits = bits & Bits::load(rows + pixels[i] * kBlock);
    bits.store(words);
    for (i = 0; i < kBlock; ++i) {
      if (words[i] == 0) continue;
      const int64_t found = block * lanes + 64 * i + __builtin_ctzll(words[i]);
      return found < end ? found : end;
    }
  }
  return end;
}

}  // namespace
}  // namespace pathconv
