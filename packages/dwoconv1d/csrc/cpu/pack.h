// Copies the source rows that one tile of outputs reads into zero-margined scratch, in the accumulator's type.
#pragma once

#include "common/vector.h"
#include "cpu/job.h"

namespace dwoconv1d {
namespace {

constexpr int64_t kMaxVectors = 14;  // accumulators that leave room for a weight and an input among 16 registers
constexpr int64_t kMaxAccumulators =
    16;  // vectors in the largest tile: rows_at_once(3) * 3 < rows_at_once(14) * 14 < 16

// Instances of K for every width of a register tile.
#define DWOCONV1D_TILES(K, ...)                                                                                     \
  K<1, __VA_ARGS__>, K<2, __VA_ARGS__>, K<3, __VA_ARGS__>, K<4, __VA_ARGS__>, K<5, __VA_ARGS__>, K<6, __VA_ARGS__>, \
      K<7, __VA_ARGS__>, K<8, __VA_ARGS__>, K<9, __VA_ARGS__>, K<10, __VA_ARGS__>, K<11, __VA_ARGS__>,              \
      K<12, __VA_ARGS__>, K<13, __VA_ARGS__>, K<14, __VA_ARGS__>

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

template <class A>
inline void fill_zero(A* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(out + i, Vector<A>{});
  for (; i < count; ++i) out[i] = 0;
}

// `count` pixels, `step` elements apart, each with `channels` channels, `channel_step` elements apart: one vector per
// pixel.
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
      for (int64_t c = 0; c < kLanes<A>; ++c)
        block[c] = c < channels ? load_up_to(in + i + c * channel_step, n) : Vector<A>{};
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
inline void pack_row(const Geometry& g, const Source& source, int64_t channels, int64_t row, int64_t first,
                     int64_t cols, A* out) {
  const int64_t unit = g.lanes == Lanes::channels ? kLanes<A> : 1;
  if (row < 0 || row >= source.height) return fill_zero(out, g.stride_w * cols * unit);
  for (int64_t phase = 0; phase < g.stride_w; ++phase, out += cols * unit) {
    const int64_t columns = phase < source.width ? (source.width - phase + g.stride_w - 1) / g.stride_w : 0;
    const int64_t begin = first < 0 ? min(-first, cols) : 0;
    const int64_t end = columns - first > begin ? min(columns - first, cols) : begin;
    const T* in =
        static_cast<const T*>(source.data) + row * source.h + ((begin + first) * g.stride_w + phase) * source.w;
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
  const int64_t* distances;
  int64_t first_row, row_size, unit;

  // The packed pixel read by output (p, q) through a tap at distance zero; `column` = q - first column.
  const A* at(int64_t row, int64_t column) const { return data + (row - first_row) * row_size + column * unit; }
};

// Where a task's rows go in its scratch: each tap's constant distance first, then the rows.
template <class A>
inline Packed<A> place(const Geometry& g, const Area& area, void* scratch, int64_t* last_row) {
  const Taps& taps = g.taps;
  const int64_t unit = g.lanes == Lanes::channels ? kLanes<A> : 1, cols = g.window.cols;
  int64_t* distances = static_cast<int64_t*>(scratch);
  A* rows = reinterpret_cast<A*>(distances + (taps.count + 7) / 8 * 8);
  const int64_t top = taps.count && taps.dy[0] < 0 ? taps.dy[0] : 0;
  const int64_t bottom = taps.count && taps.dy[taps.count - 1] > 0 ? taps.dy[taps.count - 1] : 0;
  const Packed<A> packed = {rows, distances, area.p0 * g.stride_h + top, g.stride_w * cols * unit, unit};
  for (int64_t i = 0; i < taps.count; ++i) {
    const int64_t column = floor_div(taps.dx[i], g.stride_w), phase = taps.dx[i] - column * g.stride_w;
    distances[i] = taps.dy[i] * packed.row_size + (phase * cols + column) * unit;
  }
  *last_row = (area.p1 - 1) * g.stride_h + bottom;
  return packed;
}

// Packs what the outputs of `count` tasks read. They take turns row by row: cache lines that hold the channels of
// several are then read once.
template <class T, class A, class Task>
inline void pack_tasks(const Geometry* const* geometries, const Task* tasks, int64_t count, Packed<A>* packed) {
  int64_t last[kMaxBatch], from = tasks[0].source.height, to = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Geometry& g = *geometries[i];
    packed[i] = place<A>(g, tasks[i].area, tasks[i].scratch, last + i);
    const int64_t reach = (kMostRows - 1) * g.stride_h;  // rows computed together may read this far outside the image
    from = min(from, max(packed[i].first_row, -reach));
    to = max(to, min(last[i] + 1, tasks[i].source.height + reach));
  }
  for (int64_t row = from; row < to; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      const Packed<A>& rows = packed[i];
      if (row < rows.first_row || row > last[i]) continue;
      const Geometry& g = *geometries[i];
      pack_row<T>(g, tasks[i].source, tasks[i].channels, row, tasks[i].area.q0 + g.window.first_dx, g.window.cols,
                  rows.data + (row - rows.first_row) * rows.row_size);
    }
  }
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
class Prefetcher {
 public:
  Prefetcher(const Prefetch& wanted, int64_t turns) : wanted_(wanted) {
    left_ = wanted.rows * wanted.runs * ((wanted.bytes + 63) / 64);
    per_turn_ = (left_ + turns - 1) / turns;
  }
  void turn() {
    const int64_t count = min(per_turn_, left_);
    int64_t at = at_, run = run_, row = row_;
    for (int64_t i = 0; i < count; ++i) {
      __builtin_prefetch(wanted_.base + row * wanted_.row_stride + run * wanted_.run_stride + at, 0, 2);
      at += 64;
      if (at < wanted_.bytes) continue;
      at = 0;
      if (++run < wanted_.runs) continue;
      run = 0;
      ++row;
    }
    at_ = at;
    run_ = run;
    row_ = row;
    left_ -= count;
  }

 private:
  const Prefetch wanted_;
  int64_t left_, per_turn_, at_ = 0, run_ = 0, row_ = 0;
};

}  // namespace
}  // namespace dwoconv1d
