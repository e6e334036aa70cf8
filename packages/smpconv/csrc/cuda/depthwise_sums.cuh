// Device code of the gradients of weight and bias.
//
// In `grad_weight` a warp owns a row of the kernel, and in it a window of taps; its lanes divide the pixels of a few
// images among them and meet in the end. So its rows of grad are those which that row of the kernel reads, and no
// others. A row of grad meets a row of the image in one of two ways:
//   along     grad's pixels are the factors, and the window slides over the image's: `Sums` taps
//   crossed   all pixels meet, wherever the kernel reaches about that far: `Sums` pixels of a row, 2 * Sums - 1 taps
#pragma once

#include "cuda/depthwise_tile.cuh"

namespace smpconv::depthwise {

// How a block's shared memory is divided: rows of grad, rows of the image, a row of zeros for lanes without work, and
// the block's sums.
struct SumLayout {
  int steps, pad, lead;  // factors of a lane at once; unused places; places before an image row's first pixel
  int phases;            // lanes along the rows
  int grad_pitch, grad_plane;
  int pitch, tile_rows, plane;  // of the image
  int zeros, sums;              // lengths

  __host__ __device__ SumLayout(const Params& p) {
    const int side = p.kernel_w / 2;
    steps = p.parts == 1 ? p.columns : whole((p.columns + p.parts - 1) / p.parts);
    pad = p.crossed ? 0 : pad_of(steps);
    lead = p.crossed ? 0 : pad + side;
    phases = 32 / (p.images * p.parts);
    tile_rows = rows_met(p);
    const int width = p.crossed ? p.sums : pad + p.parts * steps;
    grad_pitch = odd_whole(width);
    pitch = odd_whole(p.crossed ? p.sums : lead + p.columns + (p.columns < p.width ? side : 0));
    // As if the rows of neighbouring images were one below the other.
    grad_plane = bank_aligned(p.rows * grad_pitch, phases * (grad_pitch / 4));
    plane = bank_aligned(tile_rows * pitch, phases * (pitch / 4));
    zeros = p.crossed ? whole(p.sums) : steps + pad + ring_of(p.sums) + p.segments * p.sums;
    zeros = whole(zeros);
    sums = p.kernel_rows * p.kernel_w + 1;
  }

  __host__ __device__ long long numbers(const Params& p) const {
    return static_cast<long long>(p.images) * (grad_plane + plane) + zeros + sums;
  }
};

template <typename T, int Sums, bool Crossed>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) grad_weight(const Params p) {
  using A = Accumulator<T>;
  const SumLayout s(p);
  A* grads = reinterpret_cast<A*>(leanconv::dynamic_shared());
  const int tile = p.images * s.grad_plane, zeros = tile + p.images * s.plane;  // places, counted from `grads`
  A* sums = grads + zeros + s.zeros;                                            // [row][column], and the bias's

  const int chunks = (p.kernel_h + p.kernel_rows - 1) / p.kernel_rows;
  int block = static_cast<int>(blockIdx.x);
  const int channel = block % p.channels;
  block /= p.channels;
  const int chunk = block % chunks, split = block / chunks;
  const int first = chunk * p.kernel_rows, end = minimum(first + p.kernel_rows, p.kernel_h);
  const int above = p.kernel_h / 2, side = p.kernel_w / 2;
  const int taps = (end - first) * p.kernel_w;

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int phase = lane % s.phases, part = lane / s.phases % p.parts, own_image = lane / (s.phases * p.parts);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < s.sums; i += kThreads) sums[i] = 0;

  const int across = (p.width + p.columns - 1) / p.columns, down = (p.height + p.rows - 1) / p.rows;
  const long long units = ceil_div(p.batch, p.images) * across * down, last_unit = units * (split + 1) / p.splits;
#pragma unroll 1
  for (long long unit = units * split / p.splits; unit < last_unit; ++unit) {
    const int column = static_cast<int>(unit % across) * p.columns;
    const int row = static_cast<int>(unit / across % down) * p.rows;
    const int image = static_cast<int>(unit / across / down) * p.images;
    const int rows = minimum(p.height - row, p.rows);
    const int low = maximum(row + first - above, 0), high = minimum(row + rows + end - 1 - above, p.height);
    const int images = minimum(p.batch - image, p.images), columns = minimum(p.width - column, p.columns);
    const int margin = p.columns < p.width ? side : 0;
    const int left = maximum(column - margin, 0), right = minimum(column + columns + margin, p.width);
    __syncthreads();  // everyone has done with the last images
    clear(grads, zeros + s.zeros);
    __syncthreads();
    const Steps grad_steps = {0, s.grad_pitch, 1}, steps = {0, s.pitch, 1};
    fill<T>(p, p.grad, {image, images, channel, 1, row, rows, column, columns}, grad_steps, grads + s.pad,
            [&](int n) { return n * s.grad_plane; });
    if (low < high)
      fill<T>(p, p.x, {image, images, channel, 1, low, high - low, left, right - left}, steps,
              grads + tile + s.lead + left - column, [&](int n) { return n * s.plane; });
    __syncthreads();

    const int tasks = (end - first) * p.segments;
#pragma unroll 1
    for (int task = warp; task < tasks; task += kWarps) {
      const int kernel_row = task / p.segments, segment = task - kernel_row * p.segments;
      const int shift = first + kernel_row - above;  // image row - row of grad
      const int from = maximum(row, -shift), to = minimum(row + rows, p.height - shift);
      const int own_grads = own_image * s.grad_plane + phase * s.grad_pitch + part * s.steps;
      const int own_values = tile + own_image * s.plane + phase * s.pitch + part * s.steps + segment * Sums;
      constexpr int kSums = Crossed ? 2 * Sums - 1 : Sums;
      A sum[1][kSums] = {};
#pragma unroll 1
      for (int y = from; y < to; y += s.phases) {
        const bool meets = y + phase < to;
        const A* factors = grads + (meets ? own_grads + (y - row) * s.grad_pitch : zeros);
        const A* values[1] = {grads + (meets ? own_values + (y + shift - low) * s.pitch : zeros)};
        if constexpr (Crossed) {
          meet<Sums>(factors, values[0], sum[0]);
        } else {
          slide<Sums, 1, false>(values, factors, s.steps, sum);
        }
      }
      const A total = total_of_lane(sum[0]);
      const int tap = Crossed ? lane - (Sums - 1) + side : segment * Sums + lane;
      if (lane < kSums && tap >= 0 && tap < p.kernel_w) sums[kernel_row * p.kernel_w + tap] += total;
    }
    if (chunk == 0 && warp == tasks % kWarps) {
      A total = 0;
      for (int i = lane; i < p.images * s.grad_plane; i += 32) total += grads[i];  // zeros between rows
      total = warp_sum(total);
      if (lane == 0) sums[s.sums - 1] += total;
    }
  }

  __syncthreads();
  const long long size = static_cast<long long>(p.kernel_h) * p.kernel_w + 1;
  A* partial = static_cast<A*>(p.partial) + (static_cast<long long>(split) * p.channels + channel) * size;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < taps; i += kThreads) partial[first * p.kernel_w + i] = sums[i];
  if (chunk == 0 && threadIdx.x == 0) partial[size - 1] = sums[s.sums - 1];
}

// Adds the blocks' sums in the same order every time; a thread has a tap or a bias.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish(const Params p) {
  using A = Accumulator<T>;
  const long long taps = static_cast<long long>(p.kernel_h) * p.kernel_w, count = p.channels * (taps + 1);
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const A* partial = static_cast<const A*>(p.partial) + i;
  A total = 0;
#pragma unroll 4
  for (int split = 0; split < p.splits; ++split) total += partial[split * count];
  const long long channel = i / (taps + 1), tap = i - channel * (taps + 1);
  (tap == taps ? static_cast<T*>(p.grad_bias)[channel] : static_cast<T*>(p.grad_weight)[channel * taps + tap]) =
      narrow<T>(total);
}

}  // namespace smpconv::depthwise
