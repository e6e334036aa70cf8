// Correlation of rows of pixels, one channel per lane: the one loop in which depthwise convolution and both of its
// gradients spend their time.
//
//   sums[b] += sum over r, m of weight[r][m] * in[r][at + b + m],   0 <= at + b + m < width
//
// A block of sums and a segment of weights are kept in registers, and every number read from `in` meets all weights of
// the segment. What lies outside of a row is neither read nor multiplied.
#pragma once

#include "cpu/pack.h"

namespace smpconv {
namespace {

#define SMPCONV_INLINE inline __attribute__((always_inline))

// 32 registers hold longer blocks and segments than 16.
#if LEVEL_BYTES == 64
constexpr int kMostTaps = 8;
#else
constexpr int kMostTaps = 4;
#endif

// Rows of a correlation in vectors of A: `taps` weights each, cut into `segments` of nearly one length.
template <class A>
struct Rows {
  const A* in;
  int64_t in_row;  // elements from one row to the next
  const A* weight;
  int64_t weight_row;
  int64_t count, width, taps;
};

// Recursion instead of loops: arrays of vectors stay in registers only when every index is a constant from the start.
template <int B, int M, int J, int T, class V>
SMPCONV_INLINE void multiply(V* sums, const V* weight, V in) {
  if constexpr (T < M) {
    if constexpr (J >= T && J - T < B) sums[J - T] += weight[T] * in;
    multiply<B, M, J, T + 1>(sums, weight, in);
  }
}

template <int B, int M, bool cut, int J, class A>
SMPCONV_INLINE void take(Vector<A>* sums, const Vector<A>* weight, const A* in, int64_t begin, int64_t end) {
  if constexpr (J < B + M - 1) {
    if (!cut || (J >= begin && J < end)) multiply<B, M, J, 0>(sums, weight, load(in + J * kLanes<A>));
    take<B, M, cut, J + 1>(sums, weight, in, begin, end);
  }
}

template <int M, int T, class A>
SMPCONV_INLINE void load_weights(Vector<A>* weight, const A* from) {
  if constexpr (T < M) {
    weight[T] = load(from + T * kLanes<A>);
    load_weights<M, T + 1>(weight, from);
  }
}

// One segment, which reads in[at .. at + B + M - 1) of a row.
template <int B, int M, class A>
SMPCONV_INLINE void segment(Vector<A>* sums, const A* in, int64_t at, int64_t width, const A* weights) {
  if (at + B + M - 1 <= 0 || at >= width) return;
  Vector<A> weight[M];
  load_weights<M, 0>(weight, weights);
  if (at >= 0 && at + B + M - 1 <= width) {
    take<B, M, false, 0>(sums, weight, in + at * kLanes<A>, 0, 0);
  } else {
    take<B, M, true, 0>(sums, weight, in + at * kLanes<A>, -at, width - at);
  }
}

template <int B, int J, class A>
SMPCONV_INLINE void load_sums(Vector<A>* sums, const A* from) {
  if constexpr (J < B) {
    sums[J] = load(from + J * kLanes<A>);
    load_sums<B, J + 1>(sums, from);
  }
}
template <int B, int J, class A>
SMPCONV_INLINE void store_sums(const Vector<A>* sums, A* to) {
  if constexpr (J < B) {
    store(to + J * kLanes<A>, sums[J]);
    store_sums<B, J + 1>(sums, to);
  }
}

// One block. Segments have M taps, the last `shorter` of them one less.
template <int B, int M, class A>
__attribute__((noinline)) void correlate_block(const Rows<A>& rows, int64_t at, int64_t longer, int64_t shorter,
                                               A* out) {
  Vector<A> sums[B];
  load_sums<B, 0>(sums, out);
  const A *in = rows.in, *weight_row = rows.weight;
  const int64_t width = rows.width;
  for (int64_t r = 0; r < rows.count; ++r, in += rows.in_row, weight_row += rows.weight_row) {
    const A* weight = weight_row;
    int64_t from = at;
    for (int64_t s = 0; s < longer; ++s, from += M, weight += M * kLanes<A>)
      segment<B, M>(sums, in, from, width, weight);
    if constexpr (M > 1) {
      for (int64_t s = 0; s < shorter; ++s, from += M - 1, weight += (M - 1) * kLanes<A>)
        segment<B, M - 1>(sums, in, from, width, weight);
    }
  }
  store_sums<B, 0>(sums, out);
}

// The widths of blocks, and for each the segments' lengths.
template <class A>
using CorrelateBlock = void (*)(const Rows<A>&, int64_t at, int64_t longer, int64_t shorter, A* out);
#if LEVEL_BYTES == 64
constexpr int64_t kBlocks[] = {16, 14, 8, 4};
#define SMPCONV_SEGMENTS(B)                                                                                \
  {correlate_block<B, 1, A>, correlate_block<B, 2, A>, correlate_block<B, 3, A>, correlate_block<B, 4, A>, \
   correlate_block<B, 5, A>, correlate_block<B, 6, A>, correlate_block<B, 7, A>, correlate_block<B, 8, A>}
#else
constexpr int64_t kBlocks[] = {10, 8, 7, 4};
#define SMPCONV_SEGMENTS(B) \
  {correlate_block<B, 1, A>, correlate_block<B, 2, A>, correlate_block<B, 3, A>, correlate_block<B, 4, A>}
#endif
template <class A>
constexpr CorrelateBlock<A> kCorrelate[4][kMostTaps] = {
#if LEVEL_BYTES == 64
    SMPCONV_SEGMENTS(16), SMPCONV_SEGMENTS(14), SMPCONV_SEGMENTS(8), SMPCONV_SEGMENTS(4)
#else
    SMPCONV_SEGMENTS(10), SMPCONV_SEGMENTS(8), SMPCONV_SEGMENTS(7), SMPCONV_SEGMENTS(4)
#endif
};

// The blocks that cover `count` sums; the last may reach beyond.
struct Cover {
  int choice;
  int64_t block, sums;  // in a block, and in all of them

  explicit Cover(int64_t count) : choice(0), block(0), sums(0) {
    int64_t least = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t blocks = (count + kBlocks[i] - 1) / kBlocks[i], cost = blocks * (kBlocks[i] + 1);
      if (block > 0 && cost >= least) continue;
      least = cost;
      choice = i;
      block = kBlocks[i];
      sums = blocks * block;
    }
  }
};

// All blocks of one row of sums, whose first reads in[at] first. `out` has room for cover.sums.
template <class A>
inline void correlate(const Rows<A>& rows, int64_t at, const Cover& cover, A* out) {
  const int64_t segments = (rows.taps + kMostTaps - 1) / kMostTaps, taps = (rows.taps + segments - 1) / segments;
  const int64_t shorter = segments * taps - rows.taps;
  const CorrelateBlock<A> run = kCorrelate<A>[cover.choice][taps - 1];
  for (int64_t b = 0; b < cover.sums; b += cover.block)
    run(rows, at + b, segments - shorter, shorter, out + b * kLanes<A>);
}

}  // namespace
}  // namespace smpconv
