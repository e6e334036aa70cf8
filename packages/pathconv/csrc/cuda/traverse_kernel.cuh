// Device code of the traversal and its adjoint. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
//
// Threads run along the target, so that writes are whole lines of memory; a path's neighbours are neighbours in the
// image, so that what one thread leaves of a sector the caches keep for the next. A thread serves the same element of
// several images, for which it looks up the path once.
#pragma once

#include "cuda/block.cuh"
#include "cuda/traverse_params.h"

namespace pathconv::traversal {

// A table that leaves the image ends the program, as in torch's own gathers.
__device__ inline void check(const Params& p, int q) {
  if (static_cast<unsigned>(q) >= static_cast<unsigned>(p.length)) __trap();
}

// Where path `path` is at position l.
__device__ inline int look_up(const Params& p, int path, int l) {
  const int q = p.table[static_cast<long long>(path) * p.length + l];
  check(p, q);
  return q;
}

// Distance of source position q from the first one.
__device__ inline long long pixel(const Params& p, int q) {
  if (q < p.width) return q * p.source_stride.column;
  const int row = q / p.width;
  return row * p.source_stride.row + (q - row * p.width) * p.source_stride.column;
}

// The element of an image that a thread serves, and the images of its block.
template <bool ChannelsLast>
struct Element {
  int size, at;  // elements of an image, this one
  int channel, position;
  int image, last_image;

  __device__ Element(const Params& p) : size(p.outputs * p.length) {
    const int tiles = (size + kThreads - 1) / kThreads;
    at = static_cast<int>(blockIdx.x % tiles) * kThreads + static_cast<int>(threadIdx.x);
    const int row = ChannelsLast ? p.outputs : p.length, quotient = at / row;
    channel = ChannelsLast ? at - quotient * row : quotient;
    position = ChannelsLast ? quotient : at - quotient * row;
    image = static_cast<int>(blockIdx.x / tiles) * p.images;
    last_image = minimum(p.batch - image, p.images) + image;
  }
};

// Blocks per multiprocessor that a traversal leaves registers for: all that fit in threads.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocks = 4;
#else
constexpr int kBlocks = 6;
#endif

template <typename T, bool ChannelsLast>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 4 : kBlocks) traverse(const Params p) {
  constexpr int kAtOnce = sizeof(T) == 8 ? 4 : 8;  // loads under way before the first is written
  const Element<ChannelsLast> e(p);
  if (e.at >= e.size) return;
  const int path = e.channel / p.channels, channel = e.channel - path * p.channels;
  const T* source =
      static_cast<const T*>(p.source) + channel * p.source_stride.c + pixel(p, look_up(p, path, e.position));
  T* target = static_cast<T*>(p.target) + e.at;
  for (int n = e.image; n < e.last_image; n += kAtOnce) {
    T value[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (n + i < e.last_image) value[i] = source[(n + i) * p.source_stride.n];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (n + i < e.last_image) target[(n + i) * static_cast<long long>(e.size)] = value[i];
    }
  }
}

// Paths whose positions a thread remembers from one image to the next; further ones it looks up again.
constexpr int kRemembered = 6;

template <typename T, bool ChannelsLast>
__global__ void __launch_bounds__(kThreads) traverse_adjoint(const Params p) {
  const Element<ChannelsLast> e(p);
  if (e.at >= e.size) return;
  const auto distance = [&](int path) {
    const long long channel = static_cast<long long>(path) * p.channels + e.channel;
    return channel * p.source_stride.c + pixel(p, look_up(p, path, e.position));
  };
  long long remembered[kRemembered];
#pragma unroll
  for (int path = 0; path < kRemembered; ++path) {
    if (path < p.paths) remembered[path] = distance(path);
  }
  T* target = static_cast<T*>(p.target) + e.at;
  for (int n = e.image; n < e.last_image; ++n) {
    const T* source = static_cast<const T*>(p.source) + n * p.source_stride.n;
    Accumulator<T> sum = 0;
#pragma unroll
    for (int path = 0; path < kRemembered; ++path) {
      if (path < p.paths) sum += widen(source[remembered[path]]);
    }
    for (int path = kRemembered; path < p.paths; ++path) sum += widen(source[distance(path)]);
    target[n * static_cast<long long>(e.size)] = narrow<T>(sum);
  }
}

}  // namespace pathconv::traversal
