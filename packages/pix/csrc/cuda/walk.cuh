// How the threads of a grid walk over feature maps, and add up what they found there.
#pragma once

#include "cuda/block.cuh"
#include "cuda/pick_or_mix_params.h"

namespace pix::maps {

// Neighbours that make 16 bytes, or what comes nearest.
template <typename T>
constexpr int kWide = sizeof(T) == 2 ? 8 : 4;

// Blocks per multiprocessor that a kernel leaves registers for: enough reads under way to keep memory busy.
template <typename T>
constexpr int kBlocks = sizeof(T) == 8 ? 2 : 3;

// Channels first: the plane of one image and channel, or a piece of it, has a team of threads.
struct Team {
  int image, channel, piece;
  int first, last;  // reads of this thread: from `first` on below `last`, in steps of the team
  bool works;

  __device__ Team(const Params& p, int channels, int width) {
    const int thread = static_cast<int>(threadIdx.x), team = thread / p.team;
    const int number = static_cast<int>(blockIdx.x) * (kThreads / p.team) + team, plane = number / p.pieces;
    works = plane < p.batch * channels;
    piece = number - plane * p.pieces;
    image = works ? plane / channels : 0;
    channel = works ? plane - image * channels : 0;
    first = piece * p.span + thread - team * p.team;
    last = works ? minimum((piece + 1) * p.span, p.pixels / width) : 0;
  }
};

// Channels last: a block has rows of threads, each along `columns` items, which are neighbouring channels.
struct Columns {
  int image, piece, item;
  int first, last, rows;  // pixels of this thread: from `first` on below `last`, in steps of the rows
  int items, begin, row;  // items of a pixel, the first one of the block, the thread's row
  bool works;

  __device__ Columns(const Params& p, int count) : items(count) {
    const int chunks = (items + p.columns - 1) / p.columns, block = static_cast<int>(blockIdx.x) / chunks;
    begin = (static_cast<int>(blockIdx.x) - block * chunks) * p.columns;
    image = block / p.pieces;
    piece = block - image * p.pieces;
    rows = kThreads / p.columns;
    row = static_cast<int>(threadIdx.x) / p.columns;
    item = begin + static_cast<int>(threadIdx.x) - row * p.columns;
    works = row < rows && item < items;
    first = piece * p.span + row;
    last = works ? minimum((piece + 1) * p.span, p.pixels) : 0;
  }
};

// The sum of a team's values, in its first thread. All threads of the block call it.
template <typename A>
__device__ A team_sum(const Params& p, A value) {
  for (int distance = minimum(p.team, 32) / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kWarpMask, value, distance);
  if (p.team <= 32) return value;
  A* warps = reinterpret_cast<A*>(leanconv::dynamic_shared());
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  A total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += warps[warp];
  return total;
}

// store(channel, sum over the rows) for the block's channels, Count of them in an item. All threads of the block call
// it.
template <int Count, typename A, typename Store>
__device__ void column_sums(const Params& p, const Columns& t, const A (&sum)[Count], Store store) {
  A* rows = reinterpret_cast<A*>(leanconv::dynamic_shared());  // [row][column][Count]
  if (t.row < t.rows) {
#pragma unroll
    for (int w = 0; w < Count; ++w) rows[threadIdx.x * Count + w] = sum[w];
  }
  __syncthreads();
  const int width = p.columns * Count, count = minimum(width, (t.items - t.begin) * Count);
  for (int i = threadIdx.x; i < count; i += kThreads) {
    A total = 0;
    for (int row = 0; row < t.rows; ++row) total += rows[row * width + i];
    store(t.begin * Count + i, total);
  }
}

// Where the sum of a piece goes.
__device__ inline long long partial_at(const Params& p, int image, int piece, int channel, int channels) {
  return (static_cast<long long>(image) * p.pieces + piece) * channels + channel;
}

}  // namespace pix::maps
