// Device code of the traversal fused with a convolution of kernel size 1, and of its gradients. It compiles under nvcc,
// NVRTC (CuPy) and tests/emulator.
//
//   convolve  the forward pass and the input gradient: for a tile of outputs and positions, sums over the terms, that
//             is paths and source channels, whose values a block gathers into shared memory
//   reduce    the weight gradient: sums over images and positions, per block; `finish` then adds the blocks in order
//
// The traversed image, as many times as large as there are paths, never exists. Positions of all images count as one
// row, which tiles divide evenly.
#pragma once

#include "cuda/traverse_kernel.cuh"

namespace pathconv::traversal {

// Neighbours in shared memory, read 16 bytes at once.
template <typename A, int Count>
__device__ inline void load(const A* from, A (&to)[Count]) {
  constexpr int kStep = 16 / sizeof(A);
#pragma unroll
  for (int i = 0; i < Count; i += kStep) {
    const auto part = *reinterpret_cast<const Vector<A, kStep>*>(from + i);
#pragma unroll
    for (int j = 0; j < kStep; ++j) to[i + j] = part.value[j];
  }
}

// A run of positions.
struct Run {
  int image, position, count;  // where it starts

  __device__ Run(const Params& p, long long base, int most)
      : image(static_cast<int>(base / p.length)),
        position(static_cast<int>(base - static_cast<long long>(image) * p.length)),
        count(static_cast<int>(
            minimum(static_cast<long long>(p.batch) * p.length - base, static_cast<long long>(most)))) {}

  __device__ void locate(const Params& p, int cell, int* its_image, int* its_position) const {
    const int behind = position + cell, images = behind < p.length ? 0 : behind / p.length;
    *its_image = image + images;
    *its_position = behind - images * p.length;
  }
};

// Calls store(row, cell, value) for the terms [first, first + rows) at the positions of a run. A warp takes 64
// positions of a term at once: each lane has two loads under way.
template <typename T, typename Store>
__device__ void gather(const Params& p, const Run& run, int first, int rows, Store store) {
  const int parts = (run.count + 63) / 64;
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < rows * parts; unit += kWarps) {
    const int row = unit / parts, path = (first + row) / p.channels, channel = first + row - path * p.channels;
    const int cell = (unit - row * parts) * 64 + static_cast<int>(threadIdx.x & 31);
    const int* table = p.table + static_cast<long long>(path) * p.length;
    const T* source = static_cast<const T*>(p.source) + channel * p.source_stride.c;
    int image[2], q[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int position;
      run.locate(p, cell + 32 * i < run.count ? cell + 32 * i : 0, &image[i], &position);
      q[i] = table[position];
    }
    check(p, q[0]);
    check(p, q[1]);
    T value[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) value[i] = source[image[i] * p.source_stride.n + pixel(p, q[i])];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (cell + 32 * i < run.count) store(row, cell + 32 * i, widen(value[i]));
    }
  }
}

// A thread's outputs: kFast neighbours along the target's fastest dimension in memory, written at once where its length
// allows, for each of kSlow neighbours along the other one.
constexpr int kFast = 4, kSlow = 8;

template <typename T, bool ChannelsLast>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 3) convolve(const Params p) {
  using A = Accumulator<T>;
  const int fast_threads = ChannelsLast ? p.output_threads : p.other_threads;
  const int slow_threads = ChannelsLast ? p.other_threads : p.output_threads;
  const int fast_tile = fast_threads * kFast, slow_tile = slow_threads * kSlow;
  A* fast_side = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [term][cell]
  A* slow_side = fast_side + p.depth * fast_tile;
  const int output_tile = ChannelsLast ? fast_tile : slow_tile, position_tile = ChannelsLast ? slow_tile : fast_tile;
  A* weights = ChannelsLast ? fast_side : slow_side;
  A* values = ChannelsLast ? slow_side : fast_side;

  const int output_tiles = (p.outputs + output_tile - 1) / output_tile;
  const int first_output = static_cast<int>(blockIdx.x % output_tiles) * output_tile;
  const int outputs = minimum(p.outputs - first_output, output_tile);
  const long long base = static_cast<long long>(blockIdx.x / output_tiles) * position_tile;
  const Run run(p, base, position_tile);

  const int slow = static_cast<int>(threadIdx.x) / fast_threads;
  const int fast = static_cast<int>(threadIdx.x) - slow * fast_threads;
  const int fast_cell = fast * kFast, slow_cell = slow * kSlow;
  A sum[kSlow][kFast];
#pragma unroll
  for (int s = 0; s < kSlow; ++s) {
#pragma unroll
    for (int f = 0; f < kFast; ++f) {
      const int o = first_output + (ChannelsLast ? fast_cell + f : slow_cell + s);
      sum[s][f] = p.bias && o < p.outputs ? widen(static_cast<const T*>(p.bias)[o]) : A(0);
    }
  }

  const int terms = p.paths * p.channels;
  for (int first = 0; first < terms; first += p.depth) {
    const int count = minimum(p.depth, terms - first);
    __syncthreads();  // everyone has done with the last terms
    for (int row = static_cast<int>(threadIdx.x) / 32; row < count; row += kWarps) {
      const int path = (first + row) / p.channels, channel = first + row - path * p.channels;
      const T* weight = static_cast<const T*>(p.weight) + path * p.weight_p + channel * p.weight_c;
      for (int o = static_cast<int>(threadIdx.x & 31); o < outputs; o += 32)
        weights[row * output_tile + o] = widen(weight[(first_output + o) * p.weight_o]);
    }
    gather<T>(p, run, first, count, [&](int row, int cell, A value) { values[row * position_tile + cell] = value; });
    __syncthreads();
    if (slow >= slow_threads) continue;
#pragma unroll 2
    for (int k = 0; k < count; ++k) {
      A fasts[kFast], slows[kSlow];
      load(fast_side + k * fast_tile + fast_cell, fasts);
      load(slow_side + k * slow_tile + slow_cell, slows);
#pragma unroll
      for (int s = 0; s < kSlow; ++s) {
#pragma unroll
        for (int f = 0; f < kFast; ++f) sum[s][f] += slows[s] * fasts[f];
      }
    }
  }

  const int fast_count = ChannelsLast ? outputs : run.count, slow_count = ChannelsLast ? run.count : outputs;
  const bool vectors = (ChannelsLast ? p.outputs : p.length) % kFast == 0;  // so are all counts along it
#pragma unroll
  for (int s = 0; s < kSlow; ++s) {
    if (slow >= slow_threads || slow_cell + s >= slow_count) continue;
    T* row = static_cast<T*>(p.target);  // where the elements of this row would lie from cell 0 of an image on
    if (ChannelsLast) {
      row += (base + slow_cell + s) * p.outputs + first_output;
    } else {
      row += (static_cast<long long>(run.image) * p.outputs + first_output + slow_cell + s) * p.length;
    }
    const auto at = [&](int f) -> T* {
      if (ChannelsLast) return row + fast_cell + f;
      int image, position;
      run.locate(p, fast_cell + f, &image, &position);
      return row + (image - run.image) * static_cast<long long>(p.outputs) * p.length + position;
    };
    if (vectors) {
      Vector<T, kFast> out;
#pragma unroll
      for (int f = 0; f < kFast; ++f) out.value[f] = narrow<T>(sum[s][f]);
      if (fast_cell < fast_count) *reinterpret_cast<Vector<T, kFast>*>(at(0)) = out;
    } else {
#pragma unroll
      for (int f = 0; f < kFast; ++f) {
        if (fast_cell + f < fast_count) *at(f) = narrow<T>(sum[s][f]);
      }
    }
  }
}

// Outputs and terms of a thread's sums in the weight gradient.
constexpr int kSumOutputs = 8, kSumTerms = 4;

// Copies grad, at the positions of a run, to grads[position][output]; `Width` neighbours in memory at once.
template <typename T, bool ChannelsLast, int Width>
__device__ void stage_grads(const Params& p, const Run& run, int first_output, int outputs, int output_tile,
                            Accumulator<T>* grads) {
  constexpr int kAtOnce = 4;
  const int columns = ((ChannelsLast ? outputs : run.count) + Width - 1) / Width;
  const int total = columns * (ChannelsLast ? run.count : outputs);
  const Divider by_columns(columns);
  const T* source = static_cast<const T*>(p.grad) + first_output * p.grad_c;
  for (int first = threadIdx.x; first < total; first += kAtOnce * kThreads) {
    Vector<T, Width> loaded[kAtOnce];
    int target[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = minimum(first + i * kThreads, total - 1), row = by_columns(item);
      const int column = (item - row * columns) * Width;
      const int o = ChannelsLast ? column : row, cell = ChannelsLast ? row : column;
      int image, position;
      run.locate(p, cell, &image, &position);
      target[i] = cell * output_tile + o;
      loaded[i] =
          *reinterpret_cast<const Vector<T, Width>*>(source + image * p.grad_n + o * p.grad_c + position * p.grad_l);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kThreads >= total) continue;
#pragma unroll
      for (int w = 0; w < Width; ++w)
        grads[target[i] + w * (ChannelsLast ? 1 : output_tile)] = widen(loaded[i].value[w]);
    }
  }
}

// A block owns a tile of outputs and terms, and a share of the positions. The threads of a slice hold all sums of the
// tile; slices take positions in turn, and are added at the end. The last term is the constant one: its weight is the
// bias. Cells of the tile that no sum needs hold anything, in shared memory and in `sum`.
template <typename T, bool ChannelsLast>  // of grad
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) reduce(const Params p) {
  using A = Accumulator<T>;
  const int output_tile = p.output_threads * kSumOutputs, term_tile = p.other_threads * kSumTerms;
  const int slice_threads = p.output_threads * p.other_threads, slices = kThreads / slice_threads;
  A* grads = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [position][output]
  A* values = grads + p.depth * output_tile;                    // [position][term]
  A* sums = grads;                                              // [slice][output][term], after the others

  const int inner_terms = p.paths * p.channels, terms = inner_terms + 1;
  const int output_tiles = (p.outputs + output_tile - 1) / output_tile;
  const int split = static_cast<int>(blockIdx.x % p.splits), tile = static_cast<int>(blockIdx.x / p.splits);
  const int first_output = tile % output_tiles * output_tile, first_term = tile / output_tiles * term_tile;
  const int outputs = minimum(p.outputs - first_output, output_tile);
  const int gathered = minimum(inner_terms - first_term, term_tile);  // terms of the tile

  const int slice = static_cast<int>(threadIdx.x) / slice_threads;
  const int in_slice = static_cast<int>(threadIdx.x) - slice * slice_threads;
  const int output = in_slice / p.other_threads * kSumOutputs, term = in_slice % p.other_threads * kSumTerms;
  A sum[kSumOutputs][kSumTerms] = {};

  const long long chunks = (static_cast<long long>(p.batch) * p.length + p.depth - 1) / p.depth;
  const long long end = chunks * (split + 1) / p.splits;
  for (long long chunk = chunks * split / p.splits; chunk < end; ++chunk) {
    const Run run(p, chunk * p.depth, p.depth);
    __syncthreads();  // everyone has done with the last positions
    if (p.vectors) {
      stage_grads<T, ChannelsLast, 4>(p, run, first_output, outputs, output_tile, grads);
    } else {
      stage_grads<T, ChannelsLast, 1>(p, run, first_output, outputs, output_tile, grads);
    }
    gather<T>(p, run, first_term, gathered,
              [&](int row, int cell, A value) { values[cell * term_tile + row] = value; });
    if (gathered < term_tile) {
      for (int cell = threadIdx.x; cell < run.count; cell += kThreads) values[cell * term_tile + gathered] = 1;
    }
    __syncthreads();
    for (int cell = slice; cell < run.count && slice < slices; cell += slices) {
      A grad[kSumOutputs], value[kSumTerms];
      load(grads + cell * output_tile + output, grad);
      load(values + cell * term_tile + term, value);
#pragma unroll
      for (int o = 0; o < kSumOutputs; ++o) {
#pragma unroll
        for (int t = 0; t < kSumTerms; ++t) sum[o][t] += grad[o] * value[t];
      }
    }
  }

  __syncthreads();  // the tiles become the slices' sums
  const int size = output_tile * term_tile;
  if (slice < slices) {
#pragma unroll
    for (int o = 0; o < kSumOutputs; ++o) {
#pragma unroll
      for (int t = 0; t < kSumTerms; ++t) sums[slice * size + (output + o) * term_tile + term + t] = sum[o][t];
    }
  }
  __syncthreads();
  for (int item = threadIdx.x; item < size; item += kThreads) {
    const int o = item / term_tile, t = first_term + item - o * term_tile;
    if (o >= outputs || t >= terms) continue;
    A total = 0;
    for (int s = 0; s < slices; ++s) total += sums[s * size + item];
    const long long row = static_cast<long long>(split) * p.outputs + first_output + o;
    static_cast<A*>(p.partial)[row * terms + t] = total;
  }
}

// Adds the blocks' sums, a warp for each of them, in the same order every time.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish(const Params p) {
  using A = Accumulator<T>;
  const int terms = p.paths * p.channels + 1, lane = threadIdx.x & 31;
  const long long count = static_cast<long long>(p.outputs) * terms;
  const long long i = static_cast<long long>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= count) return;
  A total = 0;
  for (int split = lane; split < p.splits; split += 32) total += static_cast<const A*>(p.partial)[split * count + i];
  total = warp_sum(total);
  if (lane != 0) return;
  const long long output = i / terms, term = i - output * terms;
  T* out = term < terms - 1 ? static_cast<T*>(p.grad_weight) + output * (terms - 1) + term
                            : static_cast<T*>(p.grad_bias) + output;
  *out = narrow<T>(total);
}

}  // namespace pathconv::traversal
