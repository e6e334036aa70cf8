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
constexpr int64_t kRun = 32, kRunBytes = 8192;

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
  char lines[kRunBytes + 64] __attribute__((aligned(64)));
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
  const bool stream = job.stream && kRun * position <= kRunBytes;
  int64_t l = 0;
  for (; l + kRun < length; l += kRun, out += kRun * position, next += kRun * pixel) {
    char* const to = stream ? lines : out;
    if constexpr (P > 0) {
#pragma GCC unroll 32
      for (int64_t i = 0; i < kRun; ++i) {
        if (!packed) ask_for_piece(next, i, pixel);
        if (packed && i % 5 == 0 && i < 30) ask_for_line<6>(sample, length / kRun, l / kRun, i / 5);
        if (!stream) ask_to_write_piece(out, i, position);
        gather(l + i, to + i * position);
      }
    } else {
      for (int64_t i = 0; i < kRun; ++i) {
        ask_for_piece(next, i, pixel);
        if (!stream) ask_to_write_piece(out, i, position);
        gather(l + i, to + i * position);
      }
    }
    if (stream) stream_lines(lines, out, kRun * position);
  }
  // What is written with the last position must not reach beyond it.
  for (; l + 1 < length; ++l, out += position) gather(l, out);
  for (int64_t p = 0; p < paths; ++p, out += bytes) copy_exactly(pixels + index[p * length + l] * pixel, out, bytes);
  if (stream) finish_streaming();
}

void gather_pixels(const PixelGather& job) {
  if (job.places != nullptr) return gather_pixels_by<OnePiece<16>, 3, 12, true>(job);
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
