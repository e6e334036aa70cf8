// Lines over images whose channels lie side by side, read where they are: one channel per lane. A vector holds up to 16
// neighbouring channels of a pixel, of which only those of the line are written. Blocks walk along their line, so that
// pixels come into the first-level cache about once.
#pragma once

#include "cpu/line.h"
#include "cpu/pack.h"

namespace dwoconv1d {
namespace {

// Multiples of the distance between neighbours of a block, such that any one of 16 is at most one addition away.
struct Steps {
  int64_t s1, s3, s5, s7, s8;

  explicit Steps(int64_t step) : s1(step), s3(3 * step), s5(5 * step), s7(7 * step), s8(8 * step) {}
  // Else each multiple would be computed in advance and kept in memory: arithmetic takes ports from the multipliers.
  void hide() { asm volatile("" : "+r"(s1), "+r"(s3), "+r"(s5), "+r"(s7), "+r"(s8)); }
};

#define DWOCONV1D_INLINE inline __attribute__((always_inline))

template <int J, class P>
DWOCONV1D_INLINE P* step_to(P* p, const Steps& s) {
  P* q = J < 8 ? p : J < 16 ? p + s.s8 : p + 2 * s.s8;
  constexpr int r = J % 8;
  return r == 0   ? q
         : r == 1 ? q + s.s1
         : r == 2 ? q + 2 * s.s1
         : r == 3 ? q + s.s3
         : r == 4 ? q + 4 * s.s1
         : r == 5 ? q + s.s5
         : r == 6 ? q + 2 * s.s3
                  : q + s.s7;
}

// Recursion instead of loops: arrays of vectors stay in registers only when every index is a constant from the start.
template <int B, int M, int J, int T = 0>
DWOCONV1D_INLINE void multiply(FloatVector* sums, const FloatVector* weight, FloatVector in) {
  if constexpr (T < M) {
    if constexpr (J >= T && J - T < B) sums[J - T] += weight[T] * in;
    multiply<B, M, J, T + 1>(sums, weight, in);
  }
}

template <int M, int T = 0>
DWOCONV1D_INLINE void load_weights(FloatVector* weight, const float* from) {
  if constexpr (T < M) {
    weight[T] = load(from + T * kLanes<float>);
    load_weights<M, T + 1>(weight, from);
  }
}

#define DWOCONV1D_UP(X) \
  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20)
#define DWOCONV1D_DOWN(X) \
  X(20) X(19) X(18) X(17) X(16) X(15) X(14) X(13) X(12) X(11) X(10) X(9) X(8) X(7) X(6) X(5) X(4) X(3) X(2) X(1) X(0)

#define DWOCONV1D_USE(J) \
  if constexpr (J < B + M - 1) multiply<B, M, J>(sums, weight, load((const float*)step_to<J>(in, steps)));
#define DWOCONV1D_FROM(J) \
  case J: DWOCONV1D_USE(J) [[fallthrough]];
#define DWOCONV1D_BEFORE(J) \
  case J + 1: DWOCONV1D_USE(J) [[fallthrough]];
#define DWOCONV1D_BETWEEN(J) \
  if (J >= begin && J < end) DWOCONV1D_USE(J)

// A segment of M taps for a block of B outputs; of its B + M - 1 inputs, [begin, end) are in the image.
template <int B, int M>
DWOCONV1D_INLINE void whole_segment(FloatVector* sums, const char* in, const Steps& steps, const float* weights) {
  FloatVector weight[M];
  load_weights<M>(weight, weights);
  DWOCONV1D_UP(DWOCONV1D_USE)
}

template <int B, int M>
DWOCONV1D_INLINE void cut_segment(FloatVector* sums, const char* in, const Steps& steps, const float* weights,
                                  int64_t begin, int64_t end) {
  FloatVector weight[M];
  load_weights<M>(weight, weights);
  if (end >= B + M - 1) {
    switch (begin) {
      DWOCONV1D_UP(DWOCONV1D_FROM)
      default: break;
    }
  } else if (begin <= 0) {
    switch (end) {
      DWOCONV1D_DOWN(DWOCONV1D_BEFORE)
      default: break;
    }
  } else {
    DWOCONV1D_UP(DWOCONV1D_BETWEEN)
  }
}

template <int B, int J = 0>
DWOCONV1D_INLINE void start(FloatVector* sums, FloatVector bias) {
  if constexpr (J < B) {
    sums[J] = bias;
    start<B, J + 1>(sums, bias);
  }
}

template <int B, int J = 0>
DWOCONV1D_INLINE void finish(const FloatVector* sums, char* out, const Steps& steps, uint32_t lanes, int64_t count) {
  if constexpr (J < B) {
    if (J < count) _mm512_mask_storeu_ps(step_to<J>(out, steps), (__mmask16)lanes, (__m512)sums[J]);
    finish<B, J + 1>(sums, out, steps, lanes, count);
  }
}

// Where a block lies: its first output's pixel, and the image's extent along the block, from there.
struct Place {
  const char* in;
  char* out;
  int64_t begin, end;   // begin <= 0 < end
  int64_t first, last;  // segments in the image across
  int64_t count;        // outputs to write
};

template <int B>
__attribute__((noinline)) void run_block(const LineTask& task, const Place& place, int64_t in_step, int64_t out_step) {
  const Line& line = *task.line;
  const int64_t before = min(line.reach, -place.begin), after = min(line.reach, place.end);
  const int64_t first = max(place.first, line.first_live[before]), end = min(place.last, line.end_live[after]);
  FloatVector sums[B];
  start<B>(sums, load(task.bias));
  Steps steps(in_step);
  const Segment* segment = line.segments + first;
  for (int64_t i = first; i < end; ++i, ++segment) {
    const char* in = place.in + segment->distance;
    const float* weights = task.weight + segment->weight * kLanes<float>;
    const int64_t from = max(0, place.begin - segment->along), to = place.end - segment->along;
    steps.hide();
    // One jump per segment: the processor remembers the sequence of a line's segments.
    switch (segment->taps - 1 + (from == 0 && to >= B + segment->taps - 1 ? 0 : kMostSegment)) {
      case 0: whole_segment<B, 1>(sums, in, steps, weights); break;
      case 1: whole_segment<B, 2>(sums, in, steps, weights); break;
      case 2: whole_segment<B, 3>(sums, in, steps, weights); break;
      case 3: whole_segment<B, 4>(sums, in, steps, weights); break;
      case 4: whole_segment<B, 5>(sums, in, steps, weights); break;
      case 5: whole_segment<B, 6>(sums, in, steps, weights); break;
      case 6: whole_segment<B, 7>(sums, in, steps, weights); break;
      case 7: whole_segment<B, 8>(sums, in, steps, weights); break;
      case 8: cut_segment<B, 1>(sums, in, steps, weights, from, to); break;
      case 9: cut_segment<B, 2>(sums, in, steps, weights, from, to); break;
      case 10: cut_segment<B, 3>(sums, in, steps, weights, from, to); break;
      case 11: cut_segment<B, 4>(sums, in, steps, weights, from, to); break;
      case 12: cut_segment<B, 5>(sums, in, steps, weights, from, to); break;
      case 13: cut_segment<B, 6>(sums, in, steps, weights, from, to); break;
      case 14: cut_segment<B, 7>(sums, in, steps, weights, from, to); break;
      case 15: cut_segment<B, 8>(sums, in, steps, weights, from, to); break;
      default: __builtin_unreachable();
    }
  }
  Steps out_steps(out_step);
  out_steps.hide();
  if (place.count >= B) {
    finish<B>(sums, place.out, out_steps, task.lanes, B);
  } else {
    finish<B>(sums, place.out, out_steps, task.lanes, place.count);
  }
}

// The last of several blocks that do not fit exactly begins earlier: it computes some outputs again.
inline int64_t last_fitting(int64_t at, int64_t block, int64_t begin, int64_t end) {
  return at + block > end && end - begin >= block ? end - block : at;
}

template <int B>
void run_line(const LineTask& t) {
  const Line& line = *t.line;
  const bool flat = line.flat;
  const int64_t a0 = flat ? t.area.q0 : t.area.p0, a1 = flat ? t.area.q1 : t.area.p1;
  const int64_t b0 = flat ? t.area.p0 : t.area.q0, b1 = flat ? t.area.p1 : t.area.q1;
  const int64_t length = flat ? t.width : t.height, breadth = flat ? t.height : t.width;
  const int64_t in_along = flat ? t.source_w : t.source_h, in_across = flat ? t.source_h : t.source_w;
  const int64_t out_along = flat ? t.out_w : t.out_h, out_across = flat ? t.out_h : t.out_w;
  const int64_t in_step = in_along + line.slant * in_across, out_step = out_along + line.slant * out_across;
  const int64_t turns = (a1 - a0) * (b1 - b0) / B + 1;
  Prefetcher reads(t.reads, turns), writes(t.writes, turns);
  Place place;
  const auto run = [&](int64_t a, int64_t b, int64_t count) {
    place.in = t.source + a * in_along + b * in_across;
    place.out = t.out + a * out_along + b * out_across;
    place.count = count;
    reads.turn();
    writes.turn();
    run_block<B>(t, place, in_step, out_step);
  };
  if (line.slant == 0) {
    const int64_t blocks = (a1 - a0 + B - 1) / B;
    int64_t lifts[kMostBlocks];
    for (int64_t j = 0; j < blocks; ++j) lifts[j] = line.run == 0 ? 0 : j * B * line.rise / line.run;
    const int64_t total = lifts[blocks - 1];
    for (int64_t r = b0 - max(0, total); r < b1 - min(0, total); ++r) {
      for (int64_t j = 0; j < blocks; ++j) {
        const int64_t a = last_fitting(a0 + j * B, B, a0, a1), b = r + lifts[j];
        if (b < b0 || b >= b1) continue;
        place.begin = -a;
        place.end = length - a;
        place.first = line.first_across[b];
        place.last = line.end_across[b];
        run(a, b, a1 - a);
      }
    }
    return;
  }
  // Diagonals through (a0, c); those that enter the area later begin at another row.
  const int64_t rows = a1 - a0, up = line.slant > 0 ? rows - 1 : 0, down = line.slant > 0 ? 0 : rows - 1;
  place.first = 0;
  place.last = line.count;
  for (int64_t c = b0 - up; c < b1 + down; ++c) {
    const int64_t begin = a0 + max(0, line.slant > 0 ? b0 - c : c - (b1 - 1));
    const int64_t end = min(a1, a0 + (line.slant > 0 ? b1 - c : c - b0 + 1));
    for (int64_t at = begin; at < end; at += B) {
      const int64_t a = last_fitting(at, B, begin, end), b = c + line.slant * (a - a0);
      place.begin = -min(a, line.slant > 0 ? b : breadth - 1 - b);
      place.end = min(length - a, line.slant > 0 ? breadth - b : b + 1);
      run(a, b, end - a);
    }
  }
}

void conv_line(const LineTask& task) { task.line->block == 14 ? run_line<14>(task) : run_line<8>(task); }

}  // namespace
}  // namespace dwoconv1d
