// Copies the source rows that one tile of outputs reads into zero-margined scratch, in the accumulator's type.
#pragma once

#include "cpu/job.h"
#include "cpu/vector.h"

namespace dwoconv1d {
namespace {

constexpr int64_t kMaxVectors = 14;       // accumulators that leave room for a weight and an input among 16 registers
constexpr int64_t kMaxAccumulators = 16;  // vectors in the largest tile: rows_at_once(3) * 3 < rows_at_once(14) * 14 < 16

// Instances of K for every width of a register tile.
#define DWOCONV1D_TILES(K, ...)                                                                              \
  K<1, __VA_ARGS__>, K<2, __VA_ARGS__>, K<3, __VA_ARGS__>, K<4, __VA_ARGS__>, K<5, __VA_ARGS__>, K<6, __VA_ARGS__>, \
      K<7, __VA_ARGS__>, K<8, __VA_ARGS__>, K<9, __VA_ARGS__>, K<10, __VA_ARGS__>, K<11, __VA_ARGS__>, K<12, __VA_ARGS__>, \
      K<13, __VA_ARGS__>, K<14, __VA_ARGS__>

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

template <class A>
inline void fill_zero(A* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(out + i, Vector<A>{});
  for (; i < count; ++i) out[i] = 0;
}

// `count` pixels, `step` elements apart, each with `channels` channels, `channel_step` elements apart: one vector per pixel.
template <class T, class A>
inline void pack_channels(const T* in, int64_t step, int64_t channel_step, int64_t channels, int64_t count, A* out) {
  if (channel_step == 1 && channels >= kLanes<A>) {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load(in + i * step));
  } else if (channel_step == 1) {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load_part(in + i * step, channels));
  } else {
    for (int64_t i = 0; i < count; i += kLanes<A>) {
      const int64_t n = min(kLanes<A>, count - i);
      Vector<A> block[kLanes<A>];
      for (int64_t c = 0; c < kLanes<A>; ++c) block[c] = c < channels ? load_up_to(in + i + c * channel_step, n) : Vector<A>{};
      transpose(block);
      for (int64_t j = 0; j < kLanes<A>; ++j)
        if (j < n) store(out + (i + j) * kLanes<A>, block[j]);
    }
  }
}

// `count` pixels of one plane, `step` elements apart: one number each.
template <class T, class A>
inline void pack_pixels(const T* in, int64_t step, int64_t count, A* out) {
  if (step == 1) {
    int64_t i = 0;
    for (; i + kLanes<A> <= count; i += kLanes<A>) store(out + i, load(in + i));
    if (i < count) store(out + i, load_part(in + i, count - i));  // scratch has room for a whole vector
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i * step]);
  }
}

// One row of a source, columns [first, first + cols) of each phase; `row` is outside the image where it is all zero.
template <class T, class A>
inline void pack_row(const Geometry& g, const Source& source, int64_t channels, int64_t row, int64_t first, int64_t cols,
                     A* out) {
  const int64_t unit = g.lanes == Lanes::channels ? kLanes<A> : 1;
  if (row < 0 || row >= source.height) return fill_zero(out, g.stride_w * cols * unit);
  for (int64_t phase = 0; phase < g.stride_w; ++phase, out += cols * unit) {
    const int64_t columns = phase < source.width ? (source.width - phase + g.stride_w - 1) / g.stride_w : 0;
    const int64_t begin = first < 0 ? min(-first, cols) : 0;
    const int64_t end = columns - first > begin ? min(columns - first, cols) : begin;
    const T* in = static_cast<const T*>(source.data) + row * source.h + ((begin + first) * g.stride_w + phase) * source.w;
    const int64_t step = g.stride_w * source.w;
    fill_zero(out, begin * unit);
    if (g.lanes == Lanes::channels) {
      pack_channels(in, step, source.c, channels, end - begin, out + begin * unit);
    } else {
      pack_pixels(in, step, end - begin, out + begin * unit);
    }
    fill_zero(out + end * unit, (cols - end) * unit);
  }
}

// The packed rows of a tile and how to find a pixel among them.
template <class A>
struct Packed {
  A* data;
  int64_t first_row, row_size, unit;

  // The packed pixel read by output (p, q) through a tap at distance zero; `column` = q - first column.
  const A* at(int64_t row, int64_t column) const { return data + (row - first_row) * row_size + column * unit; }
};

// Packs what the outputs of an area read, and writes each tap's constant distance.
template <class T, class A>
inline Packed<A> pack_area(const Geometry& g, const Source& source, int64_t channels, const Area& area, A* scratch,
                           int64_t* distances) {
  const Taps& taps = g.taps;
  const int64_t unit = g.lanes == Lanes::channels ? kLanes<A> : 1, cols = g.window.cols;
  const int64_t top = taps.count && taps.dy[0] < 0 ? taps.dy[0] : 0;
  const int64_t bottom = taps.count && taps.dy[taps.count - 1] > 0 ? taps.dy[taps.count - 1] : 0;
  const Packed<A> packed = {scratch, area.p0 * g.stride_h + top, g.stride_w * cols * unit, unit};
  const int64_t reach = 7 * g.stride_h;  // rows computed together may read this far outside the image
  for (int64_t row = packed.first_row; row <= (area.p1 - 1) * g.stride_h + bottom; ++row) {
    if (row < -reach || row >= source.height + reach) continue;
    pack_row<T>(g, source, channels, row, area.q0 + g.window.first_dx, cols,
                scratch + (row - packed.first_row) * packed.row_size);
  }
  for (int64_t i = 0; i < taps.count; ++i) {
    const int64_t column = floor_div(taps.dx[i], g.stride_w), phase = taps.dx[i] - column * g.stride_w;
    distances[i] = taps.dy[i] * packed.row_size + (phase * cols + column) * unit;
  }
  return packed;
}

// The register tiles that cover output columns [q0, q1): as few and as even as possible.
struct Strips {
  int64_t per_vector, count, widest, end;
  int64_t q, vectors, pixels;  // of the current strip

  Strips(int64_t q0, int64_t q1, int64_t per_vector) : per_vector(per_vector), end(q1), q(q0) {
    const int64_t total = (q1 - q0 + per_vector - 1) / per_vector;
    count = (total + kMaxVectors - 1) / kMaxVectors;
    widest = (total + count - 1) / count;
    measure();
  }
  bool more() const { return q < end; }
  void next() {
    q += vectors * per_vector;
    measure();
  }
  void measure() {
    pixels = min(end - q, widest * per_vector);
    vectors = (pixels + per_vector - 1) / per_vector;
  }
};

// The taps, sorted by row, that reach the image from any of the output rows [p, p + rows); p only grows.
struct Live {
  int64_t begin, end;

  explicit Live(const Geometry& g) : begin(g.taps.count), end(g.taps.count) {}
  void move(const Geometry& g, int64_t height, int64_t p, int64_t rows) {
    while (begin > 0 && (p + rows - 1) * g.stride_h + g.taps.dy[begin - 1] >= 0) --begin;
    while (end > begin && p * g.stride_h + g.taps.dy[end - 1] >= height) --end;
  }
};

// Asks for a few cache lines at a time, so that memory works while the multipliers do.
template <bool kWrite>
class Prefetcher {
 public:
  Prefetcher(const Prefetch& wanted, int64_t turns)
      : left_(wanted), at_(0), per_turn_((wanted.count * ((wanted.bytes + 63) / 64) + turns - 1) / turns) {}
  void turn() {
    for (int64_t i = 0; i < per_turn_ && left_.count > 0; ++i) {
      __builtin_prefetch(left_.base + at_, kWrite ? 1 : 0, kWrite ? 3 : 2);
      at_ += 64;
      if (at_ >= left_.bytes) {
        at_ = 0;
        left_.base += left_.stride;
        --left_.count;
      }
    }
  }

 private:
  Prefetch left_;
  int64_t at_, per_turn_;
};

}  // namespace
}  // namespace dwoconv1d
