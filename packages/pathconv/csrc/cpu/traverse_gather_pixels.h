// Gathers of pixels with their channels side by side, for one level. Included once by each traverse_level_*.cpp, after
// its target pragma.
#pragma once

#include "cpu/traverse_gather.h"

namespace pathconv::traversal {
namespace {

// Copies up to B bytes with what follows them.
template <int B>
struct OnePiece {
  static constexpr bool exact = false;
  static inline void copy(const char* in, char* out, int64_t) {
    char piece[B];
    __builtin_memcpy(piece, in, B);
    __builtin_memcpy(out, piece, B);
  }
};
// Copies between B and 2 * B bytes by two pieces of B bytes that may overlap.
template <int B>
struct TwoPieces {
  static constexpr bool exact = true;
  static inline void copy(const char* in, char* out, int64_t bytes) {
    char head[B], tail[B];
    __builtin_memcpy(head, in, B);
    __builtin_memcpy(tail, in + bytes - B, B);
    __builtin_memcpy(out, head, B);
    __builtin_memcpy(out + bytes - B, tail, B);
  }
};
struct ManyPieces {
  static constexpr bool exact = true;
  static inline void copy(const char* in, char* out, int64_t bytes) {
    for (int64_t i = 0; i + 64 < bytes; i += 64) __builtin_memcpy(out + i, in + i, 64);
    __builtin_memcpy(out + bytes - 64, in + bytes - 64, 64);
  }
};
__attribute__((noinline)) void copy_exactly(const char* in, char* out, int64_t bytes) {
  __builtin_memcpy(out, in, bytes);
}

inline void stream_lines(const char* in, char* out, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) stream_line(in + i, out + i);
}

// Positions of one turn, whole cache lines in all; results go past the cache in turns of so many bytes.
constexpr int64_t kTurn = 32, kTurnBytes = 8192;

// P paths of dense pixels of `kBytes` where these are known, else 0; whether their places come three in a number.
template <class Pieces, int P, int64_t kBytes, bool packed = false>
void gather_pixels_by(const PixelGather& job) {
  const int64_t paths = P > 0 ? P : job.paths, bytes = kBytes > 0 ? kBytes : job.bytes, length = job.length;
  const int64_t pixel = kBytes > 0 ? kBytes : job.pixel, position = paths * bytes;
  const char* const pixels = static_cast<const char*>(job.pixels);
  const char* const sample = static_cast<const char*>(job.next != nullptr ? job.next : job.pixels);
  const char* next = sample;
  const int32_t* const index = job.index;
  const uint64_t* const places = job.places;
  char lines[kTurnBytes + 64] __attribute__((aligned(64)));
  char* out = static_cast<char*>(job.out);
  const auto gather = [&](int64_t l, char* to) ALWAYS_INLINE {
    if constexpr (packed) {
      const uint64_t at = places[l];
#pragma GCC unroll 4
      for (int64_t p = 0; p < P; ++p, to += bytes) Pieces::copy(pixels + place_of(at, p) * 4, to, bytes);
      return;
    }
    const int32_t* at = index + l;
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p, at += length, to += bytes) {
      if (!Pieces::exact && __builtin_expect(*at == length - 1, false)) {  // nothing may follow
        copy_exactly(pixels + *at * pixel, to, bytes);
      } else {
        Pieces::copy(pixels + *at * pixel, to, bytes);
      }
    }
  };
  const bool stream = job.stream && kTurn * position <= kTurnBytes;
  int64_t l = 0;
  for (; l + kTurn < length; l += kTurn, out += kTurn * position, next += kTurn * pixel) {
    char* const to = stream ? lines : out;
    if constexpr (P > 0) {
#pragma GCC unroll 32
      for (int64_t i = 0; i < kTurn; ++i) {
        if (!packed) ask_for_piece(next, i, pixel);
        if (packed && i % 5 == 0 && i < 30) ask_for_line<6>(sample, length / kTurn, l / kTurn, i / 5);
        if (!stream) ask_to_write_piece(out, i, position);
        gather(l + i, to + i * position);
      }
    } else {
      for (int64_t i = 0; i < kTurn; ++i) {
        ask_for_piece(next, i, pixel);
        if (!stream) ask_to_write_piece(out, i, position);
        gather(l + i, to + i * position);
      }
    }
    if (stream) {
      ask_for_page(out, kTurn * position);
      stream_lines(lines, out, kTurn * position);
    }
  }
  // What is written with the last position must not reach beyond it.
  for (; l + 1 < length; ++l, out += position) gather(l, out);
  for (int64_t p = 0; p < paths; ++p, out += bytes) copy_exactly(pixels + index[p * length + l] * pixel, out, bytes);
  if (stream) finish_streaming();
}

#if LEVEL_BYTES == 64
// Four pixels of three channels at `place(0)`, ..., each in a slot of four numbers behind `lead` numbers.
template <int lead, class F>
ALWAYS_INLINE inline __m512 four_pixels(const float* pixels, const F& place) {
  const auto one = [=](int64_t i) ALWAYS_INLINE { return _mm_loadu_ps(pixels + place(i) - lead); };
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(one(0)), one(1), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(one(2)), one(3), 1);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// Line i of the three that 16 pixels fill, which lie in four vectors of slots.
template <int lead>
ALWAYS_INLINE inline __m512 line_of_threes(const __m512* slots, int i) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20);
  const __m512i second = _mm512_setr_epi32(5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25);
  const __m512i third = _mm512_setr_epi32(10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30);
  const __m512i lanes = _mm512_add_epi32(i == 0 ? first : i == 1 ? second : third, _mm512_set1_epi32(lead));
  return _mm512_permutex2var_ps(slots[i], lanes, slots[i + 1]);
}

// Three paths of three channels whose places come three in a number, 16 positions, nine lines, at a time.
template <bool stream, int lead>
void gather_threes_by(const PixelGather& job) {
  const int64_t length = job.length, turns = length / kPicked;
  const float* const pixels = static_cast<const float*>(job.pixels);
  const char* const next = static_cast<const char*>(job.next != nullptr ? job.next : job.pixels);
  const uint64_t* places = job.places;
  float* out = static_cast<float*>(job.out);
  for (int64_t turn = 0; turn < turns; ++turn, places += kPicked) {
#pragma GCC unroll 3
    for (int64_t part = 0; part < 3; ++part, out += 48) {
      ask_for_line<3>(next, turns, turn, part);
      __m512 slots[4];
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k)
        slots[k] = four_pixels<lead>(pixels, [=](int64_t i) ALWAYS_INLINE {
          const int64_t pixel = part * kPicked + k * 4 + i;
          return place_of(places[pixel / 3], pixel % 3);
        });
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        stream ? ask_for_page(out + 16 * i, 64) : ask_to_write(out + 16 * i);
        put_line(out + 16 * i, (__m512i)line_of_threes<lead>(slots, i), stream);
      }
    }
  }
  for (int64_t l = turns * kPicked; l < length; ++l, ++places)
    for (int64_t p = 0; p < 3; ++p, out += 3) __builtin_memcpy(out, pixels + place_of(*places, p), 12);
  if (stream) finish_streaming();
}

void gather_threes(const PixelGather& job) {
  if (job.last) return job.stream ? gather_threes_by<true, 1>(job) : gather_threes_by<false, 1>(job);
  return job.stream ? gather_threes_by<true, 0>(job) : gather_threes_by<false, 0>(job);
}
#endif

void gather_pixels(const PixelGather& job) {
#if LEVEL_BYTES == 64
  if (job.places != nullptr) return gather_threes(job);
#else
  if (job.places != nullptr && !job.last) return gather_pixels_by<OnePiece<16>, 3, 12, true>(job);
#endif
  if (job.pixel >= job.bytes && job.bytes <= 16) {
    if (job.paths == 3 && job.bytes == 12 && job.pixel == 12) return gather_pixels_by<OnePiece<16>, 3, 12>(job);
    if (job.bytes > 8) return gather_pixels_by<OnePiece<16>, 0, 0>(job);
    if (job.bytes > 4) return gather_pixels_by<OnePiece<8>, 0, 0>(job);
    return gather_pixels_by<OnePiece<4>, 0, 0>(job);
  }
  if (job.bytes < 4) return gather_pixels_by<TwoPieces<2>, 0, 0>(job);
  if (job.bytes < 8) return gather_pixels_by<TwoPieces<4>, 0, 0>(job);
  if (job.bytes < 16) return gather_pixels_by<TwoPieces<8>, 0, 0>(job);
  if (job.bytes < 32) return gather_pixels_by<TwoPieces<16>, 0, 0>(job);
  if (job.bytes < 64) return gather_pixels_by<TwoPieces<32>, 0, 0>(job);
  return gather_pixels_by<ManyPieces, 0, 0>(job);
}

}  // namespace
}  // namespace pathconv::traversal
