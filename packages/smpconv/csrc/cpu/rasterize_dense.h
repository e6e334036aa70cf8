// The gradients of points that touch a good part of the taps, as dense products: a few points at a time get rows of
// numbers for all taps. Lanes are taps here, as they lie in memory.
#pragma once

#include "cpu/pack.h"
#include "cpu/touches.h"

namespace smpconv {
namespace {

inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// In vectors of any type.
inline int64_t dense_scratch(const RasterizeParams& p) {
  const int64_t rows = 2 * kDenseRows * round_up(p.height * p.width + kStep, LEVEL_BYTES / sizeof(float));
  return rows * static_cast<int64_t>(sizeof(double)) / LEVEL_BYTES + kTaskVectors * kDenseRows;
}

// Sums over the lanes of each of `count` vectors.
template <class A>
inline void sum_lanes(const A* in, int64_t count, A* out) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t n = min(lanes, count - i);
    Vector<A> block[lanes];
    for (int64_t j = 0; j < lanes; ++j) block[j] = j < n ? load(in + (i + j) * lanes) : Vector<A>{};
#pragma GCC unroll 4
    for (int64_t left = lanes / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < left; ++j) {
        const Vector<A> a = block[2 * j], b = block[2 * j + 1];
        block[j] = rearrange<Order::even>(a, b) + rearrange<Order::odd>(a, b);
      }
    }
    store_up_to(out + i, block[0], n);
  }
}

// What registers hold beside kDenseRows points: vectors of taps, or channels.
constexpr int kWide = LEVEL_BYTES == 64 ? 2 : 1;

// rows[0][point][tap] = phi and rows[1][point][tap] = 3 * row sign + column sign of p - x, of `count` points from
// `first` on.
template <int dims, class A>
inline void fill_rows(const RasterizeParams& p, const Touches& touches, int64_t first, int64_t count, int64_t width,
                      A* rows) {
  const int64_t taps = p.height * p.width, step = kDenseRows * width;
  const A* phi = static_cast<const A*>(touches.phi);
  const A *column = static_cast<const A*>(touches.column_sign), *row = static_cast<const A*>(touches.row_sign);
  const int32_t* places = touches.taps;
  fill_zero(rows, 2 * step / kLanes<A>);
  for (int64_t k = 0; k < count; ++k) {
    A* at = rows + k * width;
    for (int64_t j = touches.starts[first + k], end = touches.starts[first + k + 1]; j < end; ++j) {
      const int64_t tap = places[j];
      if (tap >= taps) break;  // what fills up the list
      at[tap] = phi[j];
      at[step + tap] = dims == 2 ? 3 * row[j] + column[j] : column[j];
    }
  }
}

// Adds to pulls[column, row, radius][point] what `vectors` vectors of taps from t on say: the sums over the channels of
// weight * grad, times signs and distances. The last vector has `last` taps. If averaged, these are divided by n +
// 1e-6, and so is phi in its place.
template <int dims, int vectors, class T>
inline void pull_rows(const T* grad, int64_t taps, int64_t t, int64_t last, int64_t channels, const Sum<T>* weight,
                      const Sum<T>* share, int64_t width, Sum<T>* rows, Vector<Sum<T>> (&pulls)[3][kDenseRows]) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> sums[kDenseRows][vectors] = {};
  for (int64_t c = 0; c < channels; ++c) {
    Vector<A> g[vectors];
    for (int v = 0; v < vectors; ++v)
      g[v] = load_up_to(grad + c * taps + t + v * lanes, v == vectors - 1 ? last : lanes);
#pragma GCC unroll 8
    for (int64_t k = 0; k < kDenseRows; ++k)
      for (int v = 0; v < vectors; ++v) sums[k][v] += g[v] * weight[c * kDenseRows + k];
  }
#pragma GCC unroll 8
  for (int64_t k = 0; k < kDenseRows; ++k) {
    for (int v = 0; v < vectors; ++v) {
      A* at = rows + k * width + t + v * lanes;
      const Vector<A> phi = load(at), code = load(at + kDenseRows * width);
      // Comparisons are -1 where they hold.
      const Vector<A> touched = -__builtin_convertvector(phi > 0, Vector<A>);
      const Vector<A> row =
          __builtin_convertvector(code < A(-1.5), Vector<A>) - __builtin_convertvector(code > A(1.5), Vector<A>);
      Vector<A> sum = sums[k][v];
      if (share != nullptr) {
        const Vector<A> part = load_up_to(share + t + v * lanes, v == vectors - 1 ? last : lanes);
        sum *= part;
        store(at, phi * part);
      }
      pulls[0][k] += sum * (dims == 2 ? code - 3 * row : code);
      if (dims == 2) pulls[1][k] += sum * row;
      pulls[dims][k] += sum * (touched - phi);
    }
  }
}

// Sums over the taps of phi * grad for kDenseRows points and `count` channels: out[channel][point].
template <int count, class T>
inline void sum_rows(const T* const* grad, int64_t taps, int64_t width, const Sum<T>* phi, Sum<T>* out) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> sums[count * kDenseRows] = {};
  const auto add = [&](int64_t t, int64_t n) {
    for (int c = 0; c < count; ++c) {
      const Vector<A> g = load_up_to(grad[c] + t, n);
#pragma GCC unroll 8
      for (int64_t k = 0; k < kDenseRows; ++k) sums[c * kDenseRows + k] += g * load(phi + k * width + t);
    }
  };
  const int64_t whole = taps / lanes * lanes;
  for (int64_t t = 0; t < whole; t += lanes) add(t, lanes);
  if (whole < taps) add(whole, taps - whole);
  A lines[count * kDenseRows * lanes];
  for (int64_t i = 0; i < count * kDenseRows; ++i) store(lines + i * lanes, sums[i]);
  sum_lanes(lines, count * kDenseRows, out);
}

template <int dims, class T>
void multiply_backward(const RasterizeParams& p, const RasterizeTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t taps = p.height * p.width, width = round_up(taps + kStep, LEVEL_BYTES / sizeof(float));
  A* rows = static_cast<A*>(task.scratch);
  A* weight = rows + 2 * kDenseRows * width;  // [channel][point]
  const T *grad = static_cast<const T*>(task.grad), *weights = static_cast<const T*>(task.weight);
  for (int64_t i = 0; i < p.points; i += kDenseRows) {
    const int64_t count = min(kDenseRows, p.points - i);
    fill_rows<dims>(p, *task.touches, i, count, width, rows);
    for (int64_t c = 0; c < task.channels; ++c)
      for (int64_t k = 0; k < kDenseRows; ++k)
        weight[c * kDenseRows + k] = k < count ? widen(weights[c * p.points + i + k]) : A(0);
    Vector<A> pulls[3][kDenseRows] = {};
    const A* share = p.average ? static_cast<const A*>(task.touches->share) : nullptr;
    int64_t t = 0;
    for (; t + kWide * lanes <= taps; t += kWide * lanes)
      pull_rows<dims, kWide>(grad, taps, t, lanes, task.channels, weight, share, width, rows, pulls);
    for (; t < taps; t += lanes)
      pull_rows<dims, 1>(grad, taps, t, min(lanes, taps - t), task.channels, weight, share, width, rows, pulls);
    A lines[kDenseRows * lanes], sums[kWide * kDenseRows];
    for (int q = 0; q <= dims; ++q) {
      for (int64_t k = 0; k < kDenseRows; ++k) store(lines + k * lanes, pulls[q][k]);
      sum_lanes(lines, kDenseRows, sums);
      for (int64_t k = 0; k < count; ++k) static_cast<A*>(task.pulls)[q * p.points + i + k] = sums[k];
    }
    for (int64_t c = 0; c < task.channels; c += kWide) {
      const T* from[kWide];
      for (int j = 0; j < kWide; ++j) from[j] = grad + min(c + j, task.channels - 1) * taps;
      sum_rows<kWide>(from, taps, width, rows, sums);
      for (int64_t j = 0; j < min(kWide, task.channels - c); ++j)
        for (int64_t k = 0; k < count; ++k)
          narrow(sums[j * kDenseRows + k], static_cast<T*>(task.out) + (c + j) * p.points + i + k);
    }
  }
}

}  // namespace
}  // namespace smpconv
