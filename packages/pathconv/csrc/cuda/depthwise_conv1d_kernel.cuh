// Device code of the depthwise 1D convolution. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
//
//   correlate         the forward pass and the input gradient: both slide taps along a source
//   reduce  the weight gradient: sums over images and outputs, per block
//   finish  adds the blocks' sums in order
//
// A block keeps its part of the source in shared memory as [position][channel], whatever the layout outside: threads
// run along channels, without bank conflicts, and each slides along a run of outputs with a window of the source in
// registers. Only copies in and out depend on the layout. An odd pitch lets them run along positions as well.
#pragma once

#include "cuda/block.cuh"
#include "cuda/depthwise_conv1d_params.h"

namespace pathconv::depthwise {

constexpr int kRun = 16;      // outputs of a thread
constexpr int kSumRun = 8;    // outputs that a thread of the weight gradient multiplies at once
constexpr int kWindow = 6;    // taps per window: 9 and 11 take two
constexpr int kSumTaps = 16;  // taps of a thread in the weight gradient

// Channels 4 at once need an even pitch, copies that run along positions an odd one.
__host__ __device__ inline int pitch_of(const Params& p) { return p.vectors ? p.group : p.group | 1; }

// Taps of a phase.
__device__ inline int taps_of(const Params& p, int phase) {
  return phase < p.taps ? (p.taps - 1 - phase) / p.stride + 1 : 0;
}

// Copies `rows` positions of a block's channels to tile[row][channel]: the rows from `first` on in steps of `step`,
// zeros outside of the sequence. channel_of(slot) is the channel's number in the source.
template <typename T, bool ChannelsLast, int Width, typename ChannelOf>
__device__ void fill_by(const T* source, const Strides& stride, int length, int first, int step, int rows, int slots,
                        int pitch, Accumulator<T>* tile, ChannelOf channel_of) {
  constexpr int kAtOnce = 4;  // loads under way
  const int columns = ChannelsLast ? slots / Width : rows, total = rows * (slots / Width);
  const Divider by_columns(columns);
  for (int begin = threadIdx.x; begin < total; begin += kAtOnce * kThreads) {
    Vector<T, Width> loaded[kAtOnce];
    int at[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = minimum(begin + i * kThreads, total - 1), quotient = by_columns(item);
      const int remainder = item - quotient * columns;
      const int row = ChannelsLast ? quotient : remainder, slot = (ChannelsLast ? remainder : quotient) * Width;
      const int position = first + row * step;
      at[i] = row * pitch + slot;
      loaded[i] = Vector<T, Width>{};
      if (position >= 0 && position < length)
        loaded[i] =
            *reinterpret_cast<const Vector<T, Width>*>(source + channel_of(slot) * stride.c + position * stride.l);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i * kThreads >= total) continue;
      Vector<Accumulator<T>, Width> wide;
#pragma unroll
      for (int w = 0; w < Width; ++w) wide.value[w] = widen(loaded[i].value[w]);
      *reinterpret_cast<Vector<Accumulator<T>, Width>*>(tile + at[i]) = wide;
    }
  }
}

template <typename T, bool ChannelsLast, typename ChannelOf>
__device__ void fill(const Params& p, const T* source, const Strides& stride, int length, int first, int step, int rows,
                     int slots, Accumulator<T>* tile, ChannelOf channel_of) {
  if (ChannelsLast && p.vectors) {
    fill_by<T, true, 4>(source, stride, length, first, step, rows, slots, pitch_of(p), tile, channel_of);
  } else {
    fill_by<T, ChannelsLast, 1>(source, stride, length, first, step, rows, slots, pitch_of(p), tile, channel_of);
  }
}

template <typename T, bool ChannelsLast>  // of the target
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 3) correlate(const Params p) {
  using A = Accumulator<T>;
  const int pitch = pitch_of(p), tile_positions = p.runs * kRun;
  A* weights = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [tap][channel]
  A* tile = weights + p.list_taps * p.group;                      // [position][channel]

  const int phases = p.grad_input ? p.stride : 1;
  const int tiles = static_cast<int>(leanconv::ceil_div(leanconv::ceil_div(p.target_length, phases),
                                                        tile_positions));  // at least as many as a phase has
  const int groups = (p.channels + p.group - 1) / p.group;
  int block = static_cast<int>(blockIdx.x);
  const int tile_number = block % tiles;
  block /= tiles;
  const int first_channel = block % groups * p.group;
  block /= groups;
  const int own_phase = block % phases, image = block / phases;
  const int slots = minimum(p.group, p.channels - first_channel);

  int begin = 0, count = p.target_length;  // numbers of the outputs
  if (p.grad_input) {
    const int behind = p.target_length - 1 + p.padding - own_phase, before = p.padding - own_phase;
    begin = before > 0 ? (before - 1) / p.stride + 1 : 0;
    count = behind >= 0 ? behind / p.stride + 1 - begin : 0;
  }
  begin += tile_number * tile_positions;
  count = minimum(count - tile_number * tile_positions, tile_positions);
  if (count <= 0) return;

  const int run = static_cast<int>(threadIdx.x) / p.group, slot = static_cast<int>(threadIdx.x) - run * p.group;
  const bool works = run < p.runs && slot < slots;
  A sum[kRun];
  const A start = p.bias && works ? widen(static_cast<const T*>(p.bias)[first_channel + slot]) : A(0);
#pragma unroll
  for (int r = 0; r < kRun; ++r) sum[r] = start;

  const T* source = static_cast<const T*>(p.source) + image * p.source_stride.n;
  const T* weight = static_cast<const T*>(p.weight) + image * p.weight_n;
  const int rounds = p.grad_input ? p.multiplier : minimum(p.stride, p.taps);
  for (int round = 0; round < rounds; ++round) {
    const int phase = p.grad_input ? own_phase : round, taps = taps_of(p, phase);
    for (int first = 0; first < taps; first += p.list_taps) {
      const int length = minimum(p.list_taps, taps - first);
      __syncthreads();  // everyone has done with the last taps
      for (int item = threadIdx.x; item < length * p.group; item += kThreads) {
        const int j = item / p.group, column = item - j * p.group, channel = first_channel + column;
        // The input gradient reads the taps in reverse: neighbouring outputs, neighbouring sources.
        const int tap = phase + p.stride * (p.grad_input ? taps - 1 - first - j : first + j);
        const long long row = p.grad_input ? static_cast<long long>(channel) * p.multiplier + round : channel;
        weights[item] = column < slots ? widen(weight[row * p.taps + tap]) : A(0);
      }
      const int rows = count + length - 1;
      if (p.grad_input) {
        fill<T, ChannelsLast>(p, source, p.source_stride, p.source_length, begin - (taps - 1) + first, 1, rows, slots,
                              tile, [&](int s) { return (first_channel + s) * p.multiplier + round; });
      } else {
        fill<T, ChannelsLast>(p, source, p.source_stride, p.source_length,
                              (begin + first) * p.stride + phase - p.padding, p.stride, rows, slots, tile, [&](int s) {
                                return p.multiplier == 1 ? first_channel + s : (first_channel + s) / p.multiplier;
                              });
      }
      __syncthreads();
      if (!works) continue;
      const A* from = tile + run * kRun * pitch + slot;
      for (int j = 0; j < length; j += kWindow) {
        A window[kRun + kWindow - 1];
#pragma unroll
        for (int i = 0; i < kRun + kWindow - 1; ++i) window[i] = from[(j + i) * pitch];
#pragma unroll
        for (int w = 0; w < kWindow; ++w) {
          if (j + w >= length) break;
          const A factor = weights[(j + w) * p.group + slot];
#pragma unroll
          for (int r = 0; r < kRun; ++r) sum[r] += factor * window[r + w];
        }
      }
    }
  }

  T* target = static_cast<T*>(p.target) + image * p.target_stride.n + first_channel * p.target_stride.c;
  const int step = phases, offset = p.grad_input ? own_phase - p.padding : 0;  // output u is position u * step + offset
  if (ChannelsLast) {
#pragma unroll
    for (int r = 0; r < kRun; ++r) {
      const int u = run * kRun + r;
      if (works && u < count)
        target[slot * p.target_stride.c + ((begin + u) * step + offset) * p.target_stride.l] = narrow<T>(sum[r]);
    }
    return;
  }
  __syncthreads();  // the tile becomes the outputs'
  if (works) {
#pragma unroll
    for (int r = 0; r < kRun; ++r) tile[(run * kRun + r) * pitch + slot] = sum[r];
  }
  __syncthreads();
  const Divider by_count(count);
  for (int item = threadIdx.x; item < count * slots; item += kThreads) {
    const int channel = by_count(item), u = item - channel * count;
    target[channel * p.target_stride.c + ((begin + u) * step + offset) * p.target_stride.l] =
        narrow<T>(tile[u * pitch + channel]);
  }
}

// Taps are divided among blocks by phase, and there by kSumTaps; the first block of them sums the bias too.
template <typename T, bool ChannelsLast>  // of grad
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) reduce(const Params p) {
  using A = Accumulator<T>;
  const int pitch = pitch_of(p), tile_positions = p.runs * kSumRun;
  A* grads = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [position][channel]
  A* values = grads + tile_positions * pitch;                   // [position][channel]
  A* run_sums = grads;                                          // [run][tap][channel], after the others

  const int phases = minimum(p.stride, p.taps), chunks = ((p.taps - 1) / p.stride + kSumTaps) / kSumTaps;
  const int groups = (p.channels + p.group - 1) / p.group;
  int block = static_cast<int>(blockIdx.x);
  const int split = block % p.splits;
  block /= p.splits;
  const int first_channel = block % groups * p.group;
  block /= groups;
  const int phase = block % phases;
  block /= phases;
  const int first = block % chunks * kSumTaps, sample = block / chunks;
  const int length = minimum(taps_of(p, phase) - first, kSumTaps);
  if (length <= 0) return;
  const int slots = minimum(p.group, p.channels - first_channel);
  const bool sums_bias = phase == 0 && first == 0;

  const int run = static_cast<int>(threadIdx.x) / p.group, slot = static_cast<int>(threadIdx.x) - run * p.group;
  const bool works = run < p.runs && slot < slots;
  A sum[kSumTaps] = {}, bias = 0;
  const int tiles = (p.target_length + tile_positions - 1) / tile_positions;
  const long long units = static_cast<long long>(p.batch / p.samples) * tiles, end = units * (split + 1) / p.splits;
  for (long long unit = units * split / p.splits; unit < end; ++unit) {
    const int image = sample + static_cast<int>(unit / tiles), begin = static_cast<int>(unit % tiles) * tile_positions;
    const int count = minimum(p.target_length - begin, tile_positions);
    __syncthreads();  // everyone has done with the last tile
    const T* grad = static_cast<const T*>(p.target) + image * p.target_stride.n;
    fill<T, ChannelsLast>(p, grad, p.target_stride, p.target_length, begin, 1, count, slots, grads,
                          [&](int s) { return first_channel + s; });
    const T* source = static_cast<const T*>(p.source) + image * p.source_stride.n;
    fill<T, ChannelsLast>(p, source, p.source_stride, p.source_length, (begin + first) * p.stride + phase - p.padding,
                          p.stride, count + length - 1, slots, values, [&](int s) {
                            return p.multiplier == 1 ? first_channel + s : (first_channel + s) / p.multiplier;
                          });
    __syncthreads();
    const int left = count - run * kSumRun;  // outputs of the run
    if (!works || left <= 0) continue;
    const A* from = values + run * kSumRun * pitch + slot;
    A factor[kSumRun], window[kSumRun + kSumTaps - 1];
#pragma unroll
    for (int r = 0; r < kSumRun; ++r) {
      factor[r] = r < left ? grads[(run * kSumRun + r) * pitch + slot] : A(0);
      bias += factor[r];
    }
#pragma unroll
    for (int i = 0; i < kSumRun + kSumTaps - 1; ++i)  // zeros where an output or a tap does not exist
      window[i] = i < minimum(left, kSumRun) + length - 1 ? from[i * pitch] : A(0);
#pragma unroll
    for (int j = 0; j < kSumTaps; ++j) {
      if (j >= length) break;
#pragma unroll
      for (int r = 0; r < kSumRun; ++r) {
        if (r < left) sum[j] += factor[r] * window[r + j];  // zero times infinity is no zero
      }
    }
  }

  __syncthreads();  // the tiles become the runs' sums
  if (works) {
#pragma unroll
    for (int j = 0; j <= kSumTaps; ++j)
      run_sums[(run * (kSumTaps + 1) + j) * p.group + slot] = j < kSumTaps ? sum[j % kSumTaps] : bias;
  }
  __syncthreads();
  for (int item = threadIdx.x; item < (kSumTaps + 1) * p.group; item += kThreads) {
    const int j = item / p.group, column = item - j * p.group;
    const bool is_bias = j == kSumTaps;
    if (column >= slots || (is_bias ? !sums_bias : j >= length)) continue;
    A total = 0;
    for (int r = 0; r < p.runs; ++r) total += run_sums[r * (kSumTaps + 1) * p.group + item];
    const long long row = (static_cast<long long>(sample) * p.splits + split) * p.channels + first_channel + column;
    static_cast<A*>(p.partial)[row * (p.taps + 1) + (is_bias ? p.taps : phase + p.stride * (first + j))] = total;
  }
}

// Adds the blocks' sums, a warp for each of them, in the same order every time: first the weights of all samples, then
// the biases, which all samples share.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish(const Params p) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x & 31, columns = p.taps + 1;
  const long long i = static_cast<long long>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const long long weights = static_cast<long long>(p.samples) * p.channels * p.taps;
  if (i >= weights + p.channels) return;
  const bool is_bias = i >= weights;
  const long long row = is_bias ? i - weights : i / p.taps, sample = is_bias ? 0 : row / p.channels;
  const long long channel = row - sample * p.channels, tap = is_bias ? p.taps : i % p.taps;
  const long long size = static_cast<long long>(p.channels) * columns;  // of one split of one sample
  const A* partial = static_cast<const A*>(p.partial) + sample * p.splits * size + channel * columns + tap;
  const long long count = is_bias ? static_cast<long long>(p.samples) * p.splits : p.splits;
  A total = 0;
  for (long long s = lane; s < count; s += 32) total += partial[s * size];
  total = warp_sum(total);
  if (lane == 0)
    (is_bias ? static_cast<T*>(p.grad_bias)[channel] : static_cast<T*>(p.grad_weight)[i]) = narrow<T>(total);
}

}  // namespace pathconv::depthwise
