// Device code of the layer's gates and their gradients. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
//
//   gate      p = sigmoid(z weight^T + bias), where z are the means of the pixels
//   products  the gradients of z, weight and bias, from that of the logits
//
// Neither here nor in the sums of the pixels does the order of the terms depend on the batch: a sample has the same
// gates in any batch, to the bit, so that none of its decisions depends on what else was in there.
#pragma once

#include "cuda/block.cuh"
#include "cuda/pix_params.h"

namespace pix::gates {

constexpr int kLane = 4;              // neighbours of a lane
constexpr int kColumns = 32 * kLane;  // of a warp

// Row `row` of a matrix from `column` on; zeros behind its end.
template <typename T>
__device__ Vector<Accumulator<T>, kLane> load(const void* matrix, long long row, int columns, int column,
                                              bool vectors) {
  using A = Accumulator<T>;
  const T* from = static_cast<const T*>(matrix) + row * columns + column;
  Vector<A, kLane> wide;
  if (vectors) {
    const Vector<T, kLane> loaded = *reinterpret_cast<const Vector<T, kLane>*>(from);
#pragma unroll
    for (int i = 0; i < kLane; ++i) wide.value[i] = widen(loaded.value[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kLane; ++i) wide.value[i] = column + i < columns ? widen(from[i]) : A(0);
  }
  return wide;
}

// Four elements of `row` from `column` on, those that exist.
template <typename T>
__device__ void save(void* matrix, long long row, int columns, int column, bool vectors,
                     const Vector<Accumulator<T>, kLane>& wide) {
  T* to = static_cast<T*>(matrix) + row * columns + column;
  Vector<T, kLane> narrowed;
#pragma unroll
  for (int i = 0; i < kLane; ++i) narrowed.value[i] = narrow<T>(wide.value[i]);
  if (vectors) {
    *reinterpret_cast<Vector<T, kLane>*>(to) = narrowed;
  } else {
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (column + i < columns) to[i] = narrowed.value[i];
    }
  }
}

// Means of four channels of an image.
template <typename A>
__device__ Vector<A, kLane> context(const Params& p, int image, int channel) {
  const long long row = static_cast<long long>(image) * p.pieces;
  Vector<A, kLane> sum = load<A>(p.partial, row, p.channels, channel, p.vectors);
  for (int piece = 1; piece < p.pieces; ++piece) {
    const Vector<A, kLane> next = load<A>(p.partial, row + piece, p.channels, channel, p.vectors);
#pragma unroll
    for (int i = 0; i < kLane; ++i) sum.value[i] += next.value[i];
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum.value[i] /= static_cast<A>(p.pixels);
  return sum;
}

__device__ inline float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }
__device__ inline double sigmoid(double v) { return 1.0 / (1.0 + exp(-v)); }

// Warps of a block that share the outputs and differ in the samples.
template <int Tile>
constexpr int kSampleWarps = Tile == 1 ? 1 : 2;

// Lanes run along the channels; a warp finds the logits of Tile samples and Tile outputs.
template <typename T, int Tile>
__global__ void __launch_bounds__(kThreads, Tile == 4 ? 1 : 2) gate(const Params p) {
  using A = Accumulator<T>;
  constexpr int kOutputWarps = kWarps / kSampleWarps<Tile>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int tiles = (p.outputs + kOutputWarps * Tile - 1) / (kOutputWarps * Tile);
  const int row = static_cast<int>(blockIdx.x) / tiles, column = static_cast<int>(blockIdx.x) - row * tiles;
  const int image = (row * kSampleWarps<Tile> + warp / kOutputWarps) * Tile;
  const int output = (column * kOutputWarps + warp % kOutputWarps) * Tile;
  if (image >= p.batch || output >= p.outputs) return;
  A sum[Tile][Tile] = {};
  for (int channel = lane * kLane; channel < p.channels; channel += kColumns) {
    Vector<A, kLane> z[Tile], weight[Tile];
#pragma unroll
    for (int i = 0; i < Tile; ++i) {  // beyond the last one, the last one again
      z[i] = context<A>(p, minimum(image + i, p.batch - 1), channel);
      weight[i] = load<T>(p.weight, minimum(output + i, p.outputs - 1), p.channels, channel, p.vectors);
    }
#pragma unroll
    for (int i = 0; i < Tile; ++i) {
      if (output == 0 && image + i < p.batch) save<A>(p.z, image + i, p.channels, channel, p.vectors, z[i]);
#pragma unroll
      for (int j = 0; j < Tile; ++j) {
#pragma unroll
        for (int l = 0; l < kLane; ++l) sum[i][j] += z[i].value[l] * weight[j].value[l];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Tile; ++i) {
#pragma unroll
    for (int j = 0; j < Tile; ++j) {
      const A logit = warp_sum(sum[i][j]);
      if (lane != 0 || image + i >= p.batch || output + j >= p.outputs) continue;
      const A start = p.bias ? widen(static_cast<const T*>(p.bias)[output + j]) : A(0);
      static_cast<A*>(p.p)[static_cast<long long>(image + i) * p.outputs + output + j] = sigmoid(logit + start);
    }
  }
}

// The gradient of a logit: through y, in which p * (1 - p) / p = 1 - p divides by nothing, and through p itself.
template <typename A>
__device__ A logit_gradient(const Params& p, int image, int output) {
  A sum = 0;
  for (int piece = 0; piece < p.pieces; ++piece)
    sum += static_cast<const A*>(p.partial)[(static_cast<long long>(image) * p.pieces + piece) * p.outputs + output];
  const long long at = static_cast<long long>(image) * p.outputs + output;
  const A gate = static_cast<const A*>(p.p)[at];
  if (p.grad_p) sum += static_cast<const A*>(p.grad_p)[at] * gate;
  return sum * (1 - gate);
}

constexpr int kRows = 8;    // results of a thread, times kLane
constexpr int kDepth = 64;  // terms in shared memory at once
constexpr int kAdded = 4;   // rows of which the warps' sums are in shared memory at once

// A block finds kRows rows and kColumns columns of factors (depth, rows)^T times a matrix (depth, columns) of M. Its
// warps share the terms, its lanes run along the columns. store(row, sums of four columns) for rows below `rows`;
// bias(row, sum of the row's factors).
template <typename M, typename Factor, typename Store, typename Bias>
__device__ void product(const Params& p, const void* matrix, int depth, int rows, int column, Factor factor,
                        Store store, Bias bias) {
  using A = Accumulator<M>;
  A* factors = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [term][row]
  A* sums = factors;                                              // [warp][row][column], after the factors
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, at = thread % 32 * kLane;
  const bool works = column + at < p.channels;
  A sum[kRows][kLane] = {}, own = 0;
  for (int begin = 0; begin < depth; begin += kDepth) {
    const int terms = minimum(depth - begin, kDepth);
    __syncthreads();  // everyone has done with the last factors
    for (int i = thread; i < terms * kRows; i += kThreads) {
      const int row = i % kRows;
      factors[i] = row < rows ? factor(begin + i / kRows, row) : A(0);
    }
    __syncthreads();
    if (thread < kRows) {
      for (int term = 0; term < terms; ++term) own += factors[term * kRows + thread];
    }
    if (!works) continue;
#pragma unroll 4
    for (int term = warp; term < terms; term += kWarps) {
      const Vector<A, kLane> values = load<M>(matrix, begin + term, p.channels, column + at, p.vectors);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
#pragma unroll
        for (int l = 0; l < kLane; ++l) sum[row][l] += factors[term * kRows + row] * values.value[l];
      }
    }
  }
  if (thread < rows) bias(thread, own);
#pragma unroll
  for (int first = 0; first < kRows; first += kAdded) {
    __syncthreads();
#pragma unroll
    for (int row = 0; row < kAdded; ++row) {
#pragma unroll
      for (int l = 0; l < kLane; ++l) sums[(warp * kAdded + row) * kColumns + at + l] = sum[first + row][l];
    }
    __syncthreads();
    if (warp >= kAdded || first + warp >= rows || !works) continue;
    Vector<A, kLane> total = {};
    for (int w = 0; w < kWarps; ++w) {
#pragma unroll
      for (int l = 0; l < kLane; ++l) total.value[l] += sums[(w * kAdded + warp) * kColumns + at + l];
    }
    store(first + warp, column + at, total);
  }
}

// The first blocks find the gradient of z, rows of which are samples, the others that of the weight, rows of which are
// outputs.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) products(const Params p) {
  using A = Accumulator<T>;
  const int column_tiles = (p.channels + kColumns - 1) / kColumns, sample_tiles = (p.batch + kRows - 1) / kRows;
  const int tile = static_cast<int>(blockIdx.x) / column_tiles;
  const int column = (static_cast<int>(blockIdx.x) - tile * column_tiles) * kColumns;
  if (tile < sample_tiles) {
    const int image = tile * kRows;
    product<T>(
        p, p.weight, p.outputs, minimum(p.batch - image, kRows), column,
        [&](int term, int row) { return logit_gradient<A>(p, image + row, term); },
        [&](int row, int at, Vector<A, kLane> total) {
#pragma unroll
          for (int l = 0; l < kLane; ++l) total.value[l] /= static_cast<A>(p.pixels);
          save<A>(p.shift, image + row, p.channels, at, p.vectors, total);
        },
        [](int, A) {});
    return;
  }
  const int output = (tile - sample_tiles) * kRows;
  product<A>(
      p, p.z, p.batch, minimum(p.outputs - output, kRows), column,
      [&](int term, int row) { return logit_gradient<A>(p, term, output + row); },
      [&](int row, int at, const Vector<A, kLane>& total) {
        save<T>(p.grad_weight, output + row, p.channels, at, p.vectors, total);
      },
      [&](int row, A total) {
        if (column == 0) static_cast<T*>(p.grad_bias)[output + row] = narrow<T>(total);
      });
}

}  // namespace pix::gates
