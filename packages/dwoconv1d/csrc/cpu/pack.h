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

// `count` pixels, `step` elements apart, each with `channels` channels side by side: one vector per pixel.
template <class T, class A>
inline void pack_channels(const T* in, int64_t step, int64_t channels, int64_t count, A* out) {
  if (channels >= kLanes<A>) {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load(in + i * step));
  } else {
    for (int64_t i = 0; i < count; ++i) store(out + i * kLanes<A>, load_part(in + i * step, channels));
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
      pack_channels(in, step, channels, end - begin, out + begin * unit);
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

// Packs what outputs [p0, p1) x [q0, q0 + tile_cols) read, and writes each tap's constant distance.
template <class T, class A>
inline Packed<A> pack_tile(const Geometry& g, const Source& source, int64_t channels, const Window& window, int64_t p0,
                           int64_t p1, int64_t q0, A* scratch, int64_t* distances) {
  const Taps& taps = g.taps;
  const int64_t unit = g.lanes == Lanes::channels ? kLanes<A> : 1;
  const int64_t top = taps.count && taps.dy[0] < 0 ? taps.dy[0] : 0;
  const int64_t bottom = taps.count && taps.dy[taps.count - 1] > 0 ? taps.dy[taps.count - 1] : 0;
  const Packed<A> packed = {scratch, p0 * g.stride_h + top, g.stride_w * window.cols * unit, unit};
  const int64_t reach = 7 * g.stride_h;  // rows computed together may read this far outside the image
  for (int64_t row = packed.first_row; row <= (p1 - 1) * g.stride_h + bottom; ++row) {
    if (row < -reach || row >= source.height + reach) continue;
    pack_row<T>(g, source, channels, row, q0 + window.first_dx, window.cols,
                scratch + (row - packed.first_row) * packed.row_size);
  }
  for (int64_t i = 0; i < taps.count; ++i) {
    const int64_t column = floor_div(taps.dx[i], g.stride_w), phase = taps.dx[i] - column * g.stride_w;
    distances[i] = taps.dy[i] * packed.row_size + (phase * window.cols + column) * unit;
  }
  return packed;
}

// The register tiles that cover output columns [q0, q1): as few and as even as possible.
struct Strips {
  int64_t per_vector, widest, end;
  int64_t q, vectors, pixels;  // of the current strip

  Strips(int64_t q0, int64_t q1, int64_t per_vector) : per_vector(per_vector), end(q1), q(q0) {
    const int64_t total = (q1 - q0 + per_vector - 1) / per_vector, strips = (total + kMaxVectors - 1) / kMaxVectors;
    widest = (total + strips - 1) / strips;
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

// The taps, sorted by row, that reach the image from any of the output rows [p, p + rows).
struct Range {
  int64_t begin, end;
};

inline Range live_taps(const Geometry& g, int64_t height, int64_t p, int64_t rows) {
  Range live = {0, g.taps.count};
  while (live.begin < live.end && (p + rows - 1) * g.stride_h + g.taps.dy[live.begin] < 0) ++live.begin;
  while (live.end > live.begin && p * g.stride_h + g.taps.dy[live.end - 1] >= height) --live.end;
  return live;
}

}  // namespace
}  // namespace dwoconv1d
