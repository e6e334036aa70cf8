// The matrix product of a small matrix with pixels gathered along paths, and what it needs, for one level. Included
// once by each traverse_level_*.cpp, after its target pragma.
#pragma once

#include "cpu/traverse_sum_pixels.h"

namespace pathconv::traversal {
namespace {

// Rows and vectors of accumulators in one tile: three quarters of the registers.
constexpr int kTileRows = LEVEL_BYTES == 64 ? 8 : 4;
constexpr int kTileVectors = 3;

template <class A, int R, int V>
void multiply_tile(const Product& job, int64_t i, int64_t j) {
  const A* a = static_cast<const A*>(job.a) + i * job.a_row;
  const A* b = static_cast<const A*>(job.b) + j;
  A* out = static_cast<A*>(job.out) + i * job.out_row + j;
  const int64_t last = job.columns - j - (V - 1) * kLanes<A>;  // live lanes of the last vector, or more
  Vector<A> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const A* place = out + r * job.out_row + v * kLanes<A>;
      sums[r][v] = job.add ? load_up_to(place, v + 1 < V ? kLanes<A> : last) : Vector<A>{};
    }
  }
  for (int64_t k = 0; k < job.depth; ++k, a += job.a_step, b += job.b_row) {
    Vector<A> row[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) row[v] = load(b + v * kLanes<A>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector<A> factor = splat(a[r * job.a_row]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v + 1 < V; ++v) put(out + r * job.out_row + v * kLanes<A>, sums[r][v], job.stream);
    A* end = out + r * job.out_row + (V - 1) * kLanes<A>;
    if (last >= kLanes<A>) {
      put(end, sums[r][V - 1], job.stream);
    } else {
      store_part(end, sums[r][V - 1], last);
    }
  }
}

template <class A, int R>
void multiply_rows(const Product& job, int64_t i, int64_t j, int64_t vectors) {
  if (vectors == 3) return multiply_tile<A, R, 3>(job, i, j);
  if (vectors == 2) return multiply_tile<A, R, 2>(job, i, j);
  return multiply_tile<A, R, 1>(job, i, j);
}

template <class A>
void multiply_of(const Product& job) {
  constexpr void (*kRows[])(const Product&, int64_t, int64_t, int64_t) = {
      multiply_rows<A, 1>, multiply_rows<A, 2>, multiply_rows<A, 3>, multiply_rows<A, 4>,
#if LEVEL_BYTES == 64
      multiply_rows<A, 5>, multiply_rows<A, 6>, multiply_rows<A, 7>, multiply_rows<A, 8>,
#endif
  };
  // Tiles of nearly equal size: a small one at the end would wait for its own sums.
  const int64_t vectors = (job.columns + kLanes<A> - 1) / kLanes<A>;
  const int64_t down = (job.rows + kTileRows - 1) / kTileRows, across = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t y = 0; y < down; ++y) {
    const int64_t i = job.rows * y / down, rows = job.rows * (y + 1) / down - i;
    for (int64_t x = 0; x < across; ++x) {
      const int64_t j = vectors * x / across;
      kRows[rows - 1](job, i, j * kLanes<A>, vectors * (x + 1) / across - j);
    }
  }
  if (job.stream) finish_streaming();
}

void multiply(bool wide, const Product& job) { return wide ? multiply_of<double>(job) : multiply_of<float>(job); }

template <class T>
void columns_of(const Columns& job) {
  using A = typename AccumulatorOf<T>::type;
  A* out = static_cast<A*>(job.out);
  for (int64_t p = 0; p < job.paths; ++p) {
    const int32_t* index = job.index + p * job.length;
    for (int64_t c = 0; c < job.channels; ++c, out += job.block) {
      const T* plane = static_cast<const T*>(job.image) + c * job.c;
      int64_t l = 0;
#if LEVEL_BYTES == 64
      if constexpr (__is_same(T, float)) {
        if (job.picks != nullptr)
          for (const Picks* picks = job.picks + p * job.lines; l + kPicked <= job.live; l += kPicked, ++picks)
            store(out + l, pick(plane, *picks, index + l));
      }
#endif
      if (job.pixel == 1 && __is_same(T, A))
        for (; l + kLanes<A> <= job.live; l += kLanes<A>) store(out + l, read(plane, index + l));
      for (; l < job.live; ++l) out[l] = widen(plane[index[l] * job.pixel]);
      for (; l < job.block; ++l) out[l] = 0;
    }
  }
  for (int64_t l = 0; l < job.block; ++l) out[l] = l < job.live;
}

template <class T>
void widen_of(const void* in, void* out, int64_t count) {
  using A = typename AccumulatorOf<T>::type;
  for (int64_t i = 0; i < count; i += kLanes<A>)
    store_up_to(static_cast<A*>(out) + i, load_up_to(static_cast<const T*>(in) + i, count - i), count - i);
}
template <class T>
void narrow_of(const void* in, void* out, int64_t count) {
  using A = typename AccumulatorOf<T>::type;
  for (int64_t i = 0; i < count; i += kLanes<A>)
    store_up_to(static_cast<T*>(out) + i, load_up_to(static_cast<const A*>(in) + i, count - i), count - i);
}

template <class F>
void by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float32: return f(float());
    case DType::float64: return f(double());
    case DType::float16: return f(Half());
    case DType::bfloat16: return f(BFloat16());
  }
}
void columns(DType dtype, const Columns& job) {
  by_dtype(dtype, [&](auto type) { columns_of<decltype(type)>(job); });
}
void widen_all(DType dtype, const void* in, void* out, int64_t count) {
  by_dtype(dtype, [&](auto type) { widen_of<decltype(type)>(in, out, count); });
}
void narrow_all(DType dtype, const void* in, void* out, int64_t count) {
  by_dtype(dtype, [&](auto type) { narrow_of<decltype(type)>(in, out, count); });
}

template <class A>
void turn_of(const A* in, int64_t in_row, int64_t rows, int64_t count, A* out, int64_t out_row) {
  for (int64_t l = 0; l < count; l += kLanes<A>) {
    for (int64_t k = 0; k < out_row; k += kLanes<A>) {
      Vector<A> square[kLanes<A>];
      for (int64_t i = 0; i < kLanes<A>; ++i) square[i] = k + i < rows ? load(in + (k + i) * in_row + l) : Vector<A>{};
      transpose(square);
      for (int64_t i = 0; i < kLanes<A>; ++i) store(out + (l + i) * out_row + k, square[i]);
    }
  }
}
void turn(bool wide, const void* in, int64_t in_row, int64_t rows, int64_t count, void* out, int64_t out_row) {
  if (wide) return turn_of(static_cast<const double*>(in), in_row, rows, count, static_cast<double*>(out), out_row);
  turn_of(static_cast<const float*>(in), in_row, rows, count, static_cast<float*>(out), out_row);
}

constexpr Level kLevel = {LEVEL_BYTES, LEVEL_BYTES == 64, gather_planes, gather_pixels, sum_planes,
                          sum_pixels,  columns,           multiply,      widen_all,     narrow_all,
                          turn,        stream_bytes,      inside};

}  // namespace
}  // namespace pathconv::traversal
