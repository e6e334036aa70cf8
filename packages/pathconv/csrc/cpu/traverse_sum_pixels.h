// The sums of pixels with their channels side by side, for one level. Included once by each traverse_level_*.cpp, after
// its target pragma.
#pragma once

#include "cpu/traverse_gather_pixels.h"
#include "cpu/traverse_sum.h"

namespace pathconv::traversal {
namespace {

// A run of pixels with few channels: the parts of each path one behind the other, then their sum.
template <class Pieces, class T, class O>
void sum_small_pixels_by(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  constexpr int64_t kNumbers = kTurn * kLanes<A>;
  T part[kNumbers + kLanes<A>];
  A sums[kNumbers + kLanes<A>];
  O* out = static_cast<O*>(job.out);
  const int64_t bytes = job.channels * sizeof(T);
  for (int64_t q = 0; q < job.length; q += kTurn, out += kTurn * job.channels) {
    const int64_t pixels = job.length - q < kTurn ? job.length - q : kTurn, count = pixels * job.channels;
    for (int64_t p = 0; p < job.paths; ++p) {
      const T* positions = static_cast<const T*>(job.positions) + p * job.path;
      const int32_t* inverse = job.inverse + p * job.length + q;
      char* copy = reinterpret_cast<char*>(part);
      for (int64_t i = 0; i < pixels; ++i, copy += bytes)
        Pieces::copy(reinterpret_cast<const char*>(positions + inverse[i] * job.position), copy, bytes);
      for (int64_t i = 0; i < count; i += kLanes<A>)
        store(sums + i, p == 0 ? load(part + i) : load(sums + i) + load(part + i));
    }
    for (int64_t i = 0; i < count; i += kLanes<A>) store_up_to(out + i, load(sums + i), count - i);
    const int64_t run = kTurn * job.position * sizeof(T);
    ask_for_piece(static_cast<const char*>(job.positions) + job.next, q / kTurn, run);
  }
}

// Pixels of B / 2 to B bytes, which are read and written with what follows them where something does (`whole`), or of B
// to 2 B bytes, which are two pieces that may overlap. P dense paths of C channels where these are known, else 0.
template <int P, int C, class A, int B, bool whole>
struct PiecesSum {
  typedef A Piece __attribute__((vector_size(B)));

  const A* const positions;
  const int64_t length, paths, channels, position, path, tail = channels - B / static_cast<int64_t>(sizeof(A));

  explicit PiecesSum(const PixelSum& job)
      : positions(static_cast<const A*>(job.positions)), length(job.length), paths(P > 0 ? P : job.paths),
        channels(C > 0 ? C : job.channels), position(P * C > 0 ? P * C : job.position), path(C > 0 ? C : job.path) {}

  inline void sum(const int32_t* places, int64_t first, A* out) const {
    Piece sum = {};
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      const int64_t at = places[p * length];
      const A* part = positions + at * position + p * path + first;
      Piece more = {};
      if (whole && p == paths - 1 && __builtin_expect(at == length - 1, false)) {  // nothing may follow
        copy_exactly(reinterpret_cast<const char*>(part), reinterpret_cast<char*>(&more), channels * sizeof(A));
      } else {
        __builtin_memcpy(&more, part, B);
      }
      sum = p == 0 ? more : sum + more;
    }
    __builtin_memcpy(out, &sum, B);
  }

  // The sums of some pixels, where `ask(i)` asks for something that is read later; `out` is writable beyond by a piece.
  template <class Ask>
  inline void pixel(const int32_t* places, int64_t i, A* out, const Ask& ask) const {
    ask(i);
    sum(places + i, 0, out + i * channels);
    if constexpr (!whole) sum(places + i, tail, out + i * channels + tail);
  }
  template <class Ask>
  inline void pixels(const int32_t* places, int64_t count, A* out, const Ask& ask) const {
    if (P * C > 0 && count == kTile) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < kTile; ++i) pixel(places, i, out, ask);
    } else {
      for (int64_t i = 0; i < count; ++i) pixel(places, i, out, ask);
    }
  }
};

// While one sample is read, the one `job.next` bytes further on is asked for.
template <int P, int C, class A, int B, bool whole>
void sum_pieces(const PixelSum& job) {
  const PiecesSum<P, C, A, B, whole> part(job);
  A* out = static_cast<A*>(job.out);
  A lines[(kTile + 1) * 2 * B / sizeof(A)];
  const int64_t length = part.length, channels = part.channels, size = part.position * sizeof(A);
  const char* next = reinterpret_cast<const char*>(part.positions) + job.next;
  const int32_t* places = job.inverse;
  int64_t q = 0;
  for (; q + kTile < length; q += kTile, places += kTile, out += kTile * channels, next += kTile * size)
    part.pixels(places, kTile, out, [=](int64_t i) ALWAYS_INLINE {
      ask_for_piece(next, i, size);
      ask_to_write_piece(reinterpret_cast<const char*>(out), i, channels * sizeof(A));
    });
  part.pixels(places, length - q, lines, [](int64_t) {});
  __builtin_memcpy(out, lines, (length - q) * channels * sizeof(A));
}

// The other way round: positions in their order, as memory likes them best, each part added to the slot of its pixel.
// Along a path neighbours follow each other, so slots are in the cache. At the end they are written out, and are zero.
template <int P, int C, class A, int B>
void scatter_pieces(const PixelSum& job) {
  typedef A Piece __attribute__((vector_size(B)));
  const int64_t length = job.length, paths = P > 0 ? P : job.paths, channels = C > 0 ? C : job.channels;
  const int64_t position = P * C > 0 ? P * C : job.position, path = C > 0 ? C : job.path;
  const A* row = static_cast<const A*>(job.positions);
  Piece* const slots = static_cast<Piece*>(job.slots);
  const int32_t* index = job.index;
  for (int64_t l = 0; l + 1 < length; ++l, row += position, ++index) {
    __builtin_prefetch(reinterpret_cast<const char*>(row) + kScatterAhead, 0, 3);
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      Piece part;  // and what follows it, into numbers of the slot that nobody reads
      __builtin_memcpy(&part, row + p * path, B);
      slots[index[p * length]] += part;
    }
  }
  for (int64_t p = 0; p < paths; ++p) {  // nothing may follow the last
    Piece part = {};
    copy_exactly(reinterpret_cast<const char*>(row + p * path), reinterpret_cast<char*>(&part), channels * sizeof(A));
    slots[index[p * length]] += part;
  }
  // (So many at once that the lines are read long after they were written: sooner, a read waits for the writes.)
  constexpr int64_t kPixels = 256;
  A lines[(kPixels + 1) * B / sizeof(A)] __attribute__((aligned(64)));
  A* out = static_cast<A*>(job.out);
  for (int64_t q = 0; q < length; q += kPixels, out += kPixels * channels) {
    const int64_t count = length - q < kPixels ? length - q : kPixels;
    for (int64_t i = 0; i < count; ++i) {
      __builtin_memcpy(lines + i * channels, slots + q + i, B);
      slots[q + i] = Piece{};
    }
    if (job.stream) {
      stream_lines(reinterpret_cast<const char*>(lines), reinterpret_cast<char*>(out), count * channels * sizeof(A));
    } else {
      __builtin_memcpy(out, lines, count * channels * sizeof(A));
    }
  }
  if (job.stream) finish_streaming();
}

template <int P, int C, class A, int B>
void sum_or_scatter(const PixelSum& job) {
  job.slots != nullptr ? scatter_pieces<P, C, A, B>(job) : sum_pieces<P, C, A, B, true>(job);
}

#if LEVEL_BYTES == 64
// Run by run, so that positions are read once from one end to the other, as memory likes them best.
template <bool stream, int lead>
void sum_runs_by(const PixelSum& job) {
  const int64_t length = job.length, runs = length / kPicked * 3;
  const float* const positions = static_cast<const float*>(job.positions);
  float *const sums = static_cast<float*>(job.sums), *const previous = static_cast<float*>(job.previous);
  float* const out = static_cast<float*>(job.out);
  const auto sum_run = [=](const RunBlock& block, const char* soon, int64_t k, const auto& add) ALWAYS_INLINE {
    __m512 slots[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i < 3) ask_for(soon + k * kRunBytes + 64 * i);
      slots[i] = four_pixels<lead>(positions, [&](int64_t j) ALWAYS_INLINE { return block.from[k][4 * i + j]; });
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) add(block.to[k] + 16 * i, line_of_threes<lead>(slots, i));
  };
  const char* const sample = static_cast<const char*>(job.positions);
  for (int64_t first = 0; first < runs; first += kRuns) {
    const RunBlock& block = job.runs[first / kRuns];
    const char* const soon = sample + block.ask + (block.ask < runs * kRunBytes ? 0 : job.next - runs * kRunBytes);
    // (The pages of this sample, one by one, which the next one writes.)
    if (stream) ask_for(out + first * kPicked);
    int64_t k = 0;
    for (; k < block.firsts; ++k)
      sum_run(block, soon, k, [=](int64_t i, __m512 part) ALWAYS_INLINE {
        if (previous != nullptr) put_line(previous + i, (__m512i)_mm512_load_ps(sums + i), stream);
        _mm512_store_ps(sums + i, part);
      });
    for (; k < block.count; ++k)
      sum_run(block, soon, k, [=](int64_t i, __m512 part) ALWAYS_INLINE {
        _mm512_store_ps(sums + i, _mm512_add_ps(_mm512_load_ps(sums + i), part));
      });
    if (!stream)
      for (int64_t line = first; line < first + kRuns; ++line) __builtin_prefetch(out + line * 16, 1, 3);
  }
  for (int64_t q = length / kPicked * kPicked; q < length; ++q)
    for (int64_t c = 0; c < 3; ++c) {
      const auto part = [=](int64_t p) { return positions[job.inverse[p * length + q] * 9 + 3 * p + c]; };
      out[3 * q + c] = part(0) + part(1) + part(2);
    }
  if (stream) finish_streaming();
}

void sum_runs(const PixelSum& job) {
  if (job.last) return job.stream ? sum_runs_by<true, 1>(job) : sum_runs_by<false, 1>(job);
  return job.stream ? sum_runs_by<true, 0>(job) : sum_runs_by<false, 0>(job);
}
#else
// Three paths of three channels whose places come three in a number, pixel by pixel.
void sum_threes(const PixelSum& job) {
  typedef float Piece __attribute__((vector_size(16)));
  constexpr int64_t kNumbers = 3 * kTile;  // of a tile: whole cache lines
  const float* const positions = static_cast<const float*>(job.positions);
  const uint64_t* const places = job.places;
  const int64_t length = job.length, tiles = length / kTile;
  const char* const next = static_cast<const char*>(job.positions) + job.next;
  const auto sum = [=](int64_t q) ALWAYS_INLINE {
    const uint64_t at = places[q];
    Piece parts[3];
#pragma GCC unroll 3
    for (int64_t p = 0; p < 3; ++p) __builtin_memcpy(&parts[p], positions + place_of(at, p), 16);
    return parts[0] + parts[1] + parts[2];
  };
  // The sums of one tile, and a number behind them, which those of the next tile replace.
  const auto sum_tile = [=](int64_t turn, float* to) ALWAYS_INLINE {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kTile; ++i) {
      if (i < 9) ask_for_line<9>(next, tiles, turn, i);
      const Piece pixel = sum(turn * kTile + i);
      __builtin_memcpy(to + 3 * i, &pixel, 16);
    }
  };
  float* out = static_cast<float*>(job.out);
  int64_t turn = 0;
  if (job.stream) {
    float lines[kNumbers + 1] __attribute__((aligned(64)));
    for (; turn < tiles; ++turn, out += kNumbers) {
      sum_tile(turn, lines);
      stream_lines(reinterpret_cast<const char*>(lines), reinterpret_cast<char*>(out), kNumbers * sizeof(float));
    }
    finish_streaming();
  }
  for (; turn + 1 < tiles; ++turn, out += kNumbers) sum_tile(turn, out);
  for (int64_t q = turn * kTile; q < length; ++q, out += 3) {
    const Piece pixel = sum(q);
    __builtin_memcpy(out, &pixel, 12);
  }
}
#endif

template <class T, class O>
void sum_large_pixels(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t length = job.length, paths = job.paths, channels = job.channels, position = job.position;
  const int64_t path = job.path;
  const int32_t* const inverse = job.inverse;
  const T* const positions = static_cast<const T*>(job.positions);
  O* out = static_cast<O*>(job.out);
  const int64_t next = job.next, size = position * sizeof(T);
  for (int64_t q = 0; q < length; ++q, out += channels) {
    if (next != 0)
      for (int64_t i = 0; i < size; i += 64) ask_for(reinterpret_cast<const char*>(positions) + q * size + next + i);
    for (int64_t c = 0; c < channels; c += kLanes<A>) {
      const int64_t live = channels - c;
      Vector<A> sum = load_up_to(positions + inverse[q] * position + c, live);
      for (int64_t p = 1; p < paths; ++p)
        sum += load_up_to(positions + inverse[p * length + q] * position + p * path + c, live);
      store_up_to(out + c, sum, live);
    }
  }
}

template <class T, class O>
void sum_pixels_of(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t bytes = job.channels * sizeof(T);
  if (job.channels >= kLanes<A>) return sum_large_pixels<T, O>(job);
  if constexpr (__is_same(T, O) && __is_same(T, A)) {
    if (bytes >= 32) return sum_pieces<0, 0, A, 32, false>(job);
    if (bytes > 16) return sum_pieces<0, 0, A, 16, false>(job);
    const bool rgb = job.channels == 3 && job.paths == 3 && job.position == 9 && job.path == 3;
    if (sizeof(A) == 4 && rgb) return sum_or_scatter<3, 3, A, 16>(job);
    const bool apart = job.position >= job.paths * job.channels;  // not so where a gradient is one number, expanded
    if (bytes >= 8 && apart) return sum_or_scatter<0, 0, A, 16>(job);
  }
  if (bytes < 4) return sum_small_pixels_by<TwoPieces<2>, T, O>(job);
  if (bytes < 8) return sum_small_pixels_by<TwoPieces<4>, T, O>(job);
  if (bytes < 16) return sum_small_pixels_by<TwoPieces<8>, T, O>(job);
  if (bytes < 32) return sum_small_pixels_by<TwoPieces<16>, T, O>(job);
  return sum_small_pixels_by<TwoPieces<32>, T, O>(job);
}

void sum_pixels(DType in, DType out, const PixelSum& job) {
#if LEVEL_BYTES == 64
  if (job.runs != nullptr) return sum_runs(job);
#else
  if (job.places != nullptr && !job.last) return sum_threes(job);
#endif
  by_dtypes(in, out, [&](auto from, auto to) { sum_pixels_of<decltype(from), decltype(to)>(job); });
}

}  // namespace
}  // namespace pathconv::traversal
