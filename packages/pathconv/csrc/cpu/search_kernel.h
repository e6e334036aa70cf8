// The path search on plain memory: what each window of a curve preserves, bit matrices, and covers of the image.
// A bit matrix has one row per item, padded with zeros to whole blocks of 512 bits.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pathconv {

constexpr int64_t kBlock = 8;  // words of 64 bits

// Calls body(context, i) for every i < count, in any order and on any thread.
using ForEach = void (*)(int64_t count, void (*body)(const void* context, int64_t i), const void* context);

// A curve over a grid with `width` columns, and the size of the images cut out of it.
struct Curve {
  const int32_t* order;  // the pixels, numbered row by row, in the order of the curve
  int64_t length, width;
  int64_t image_height, image_width;
};

struct Window {
  int32_t row, column;  // its first pixel
  int32_t turns;        // quarter turns, counter-clockwise
};

// cost[i]: the summed distances D of window i; better[i]: bits of the pixels whose D lies below `limit`.
void evaluate(const Curve& curve, const Window* windows, int64_t count, const int32_t* limit, int64_t* cost,
              uint64_t* better, leanconv::Isa isa, ForEach for_each);

// out (columns, out_words) = the transposed of bits (rows, words); padding included.
void transpose(const uint64_t* bits, int64_t rows, int64_t words, int64_t columns, uint64_t* out, int64_t out_words,
               ForEach for_each);

// out[i]: the bits that row i has in common with `mask`.
void count_common(const uint64_t* bits, int64_t rows, int64_t words, const uint64_t* mask, int64_t* out,
                  ForEach for_each);

// Candidates in the order of their costs; pixels in any order, best a random one (see search/sorted.py).
struct Candidates {
  const uint64_t* columns;  // (count, words): pixels of a candidate
  const uint64_t* table;    // (blocks of candidates, pixels, kBlock): candidates of a pixel, 512 at a time
  const int64_t* cost;
  int64_t count, words, pixels;
};

// dominated[i]: whether an earlier candidate covers all that candidate i covers.
void find_dominated(const Candidates& candidates, bool* dominated, leanconv::Isa isa, ForEach for_each);

// For each i the cheapest cover below `limit` of exactly `members` candidates, the earliest of which is firsts[i]:
// best[i] = (its cost or -1, its members).
void find_covers(const Candidates& candidates, const int64_t* firsts, int64_t count, int64_t members, int64_t limit,
                 int64_t* best, leanconv::Isa isa, ForEach for_each);

// The inner loops, compiled once per instruction set.
struct SearchLevel {
  // d (height, width), zeroed before: sum of |t - t of a neighbour| over the up to eight neighbours. Returns its sum.
  // `t` has `stride` columns; `edge` is scratch of `width`.
  int64_t (*distances)(const int32_t* t, int64_t stride, int64_t height, int64_t width, int32_t* d, int32_t* edge);
  // The first candidate in [begin, end) that covers all of `pixels`, or end.
  int64_t (*find)(const Candidates& candidates, const int32_t* pixels, int64_t count, int64_t begin, int64_t end);
};
extern const SearchLevel search_baseline, search_avx2, search_avx512;

}  // namespace pathconv
