// Device code of the forward pass and of the input's gradient, which is the same with the kernel turned.
//
// A thread owns `Sums` outputs side by side in each of `Copies` images. Threads of a warp run along segments of a row,
// then images, then channels, and last along rows: they share their valid rows of the kernel, or nearly so, and what
// lies above and below the image costs nothing. A row of the kernel meets a row of the image in one of two ways:
//   along     weights are the factors, and the window slides over pixels
//   crossed   pixels are the factors, in reverse, and the window slides over weights, in reverse: where the kernel
//             reaches across the whole image from anywhere, no zero at its sides is multiplied
// A pixel that is not finite spoils what the kernel reaches from it and nothing else; a weight, also what it meets in
// the padding.
#pragma once

#include "cuda/depthwise_tile.cuh"

namespace smpconv::depthwise {

// How a block's shared memory is divided: rows of weights, planes of pixels, and a row of zeros for what reads nothing.
struct ConvolveLayout {
  int columns, pad, lead;          // outputs of a row; unused places; places before a row's first pixel
  int pitch, tile_rows, plane;     // of pixels
  int weight_pitch, weight_plane;  // a plane is a channel's
  int planes, weights, zeros;      // zeros: length
  int units, stage;                // units: threads with work; stage: numbers that each has as it ends

  __host__ __device__ ConvolveLayout(const Params& p) {
    const int side = p.kernel_w / 2, steps = p.crossed ? p.width : p.kernel_w, ring = ring_of(p.sums);
    const int reach = p.segments * p.sums;
    columns = reach < p.width ? reach : p.width;
    pad = pad_of(steps);
    lead = pad + (p.crossed ? 0 : side);
    // A row's right margin is the next one's left margin, unless pixels of another block stand there.
    pitch = whole(lead + columns + (columns < p.width ? side : 0));
    tile_rows = rows_met(p);
    planes = p.images * p.copies * p.group;
    plane = bank_aligned(tile_rows * pitch, -p.segments);
    weight_pitch = odd_whole(steps + pad + (p.crossed ? ring - 4 : 0));
    weight_plane = bank_aligned(p.kernel_rows * weight_pitch, 1);
    weights = p.group * weight_plane;
    zeros = steps + pad + ring;
    units = p.rows * p.group * p.images * p.segments;
    stage = p.sums * p.copies | 1;  // odd: neighbours lie in different banks
  }

  __host__ __device__ long long numbers() const {
    const long long inside = weights + static_cast<long long>(planes) * plane + zeros;
    const long long outside = static_cast<long long>(units) * stage;
    return inside > outside ? inside : outside;
  }
};

// The weights of kernel rows [first, end), as factors or as a window.
template <typename T>
__device__ void fill_weights(const Params& p, const ConvolveLayout& s, int channel, int channels, int first, int end,
                             Accumulator<T>* weights) {
  const T* source = static_cast<const T*>(p.weight) + static_cast<long long>(channel) * p.kernel_h * p.kernel_w;
  const int rows = end - first, total = channels * rows * s.weight_pitch;
  const Divider by_pitch(s.weight_pitch), by_rows(rows);
#pragma unroll 1
  for (int item = static_cast<int>(threadIdx.x); item < total; item += kThreads) {
    const int line = by_pitch(item), at = item - line * s.weight_pitch, c = by_rows(line), row = line - c * rows;
    int tap = at - s.pad;
    if (p.crossed) tap = p.kernel_w / 2 + p.width - 1 - tap;
    const bool exists = tap >= 0 && tap < p.kernel_w;
    const int index = (first + row) * p.kernel_w + tap;
    const long long from = c * p.kernel_h * p.kernel_w + (p.turned ? p.kernel_h * p.kernel_w - 1 - index : index);
    weights[c * s.weight_plane + row * s.weight_pitch + at] = exists ? widen(source[from]) : Accumulator<T>(0);
  }
}

template <typename T, int Sums, int Copies, bool Crossed>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) convolve(const Params p) {
  using A = Accumulator<T>;
  const ConvolveLayout s(p);
  A* weights = reinterpret_cast<A*>(leanconv::dynamic_shared());
  const int tile = s.weights, zeros = tile + s.planes * s.plane;  // places, counted from `weights`

  // Channels run fastest, so that blocks under way at once share sectors of channels_last.
  const int groups = (p.channels + p.group - 1) / p.group, reach = p.segments * Sums;
  const int across = (p.width + reach - 1) / reach, down = (p.height + p.rows - 1) / p.rows;
  int block = static_cast<int>(blockIdx.x);
  const int channel = block % groups * p.group;
  block /= groups;
  const int column = block % across * reach;
  block /= across;
  const int row = block % down * p.rows, image = block / down * p.images * Copies;
  const int rows = minimum(p.height - row, p.rows), channels = minimum(p.channels - channel, p.group);
  const int columns = minimum(p.width - column, s.columns), side = p.kernel_w / 2, above = p.kernel_h / 2;

  // This thread's: unit = ((row * group + channel) * images + image) * segments + segment.
  const int unit = static_cast<int>(threadIdx.x), row_units = p.group * p.images * p.segments;
  const int own_row = unit / row_units, own_plane = (unit - own_row * row_units) / p.segments;
  const bool works = own_row < rows;
  const int shift = row + own_row - above;  // row of the image - row of the kernel
  const int own_taps = own_plane / p.images * s.weight_plane;
  const int own_pixels = tile + own_plane * s.plane + (Crossed ? 0 : unit % p.segments * Sums);
  const int warp_unit = unit / 32 * 32;
  const int top = warp_unit / row_units, bottom = minimum((warp_unit + 31) / row_units, rows - 1);  // the warp's

  A sum[Copies][Sums];
  const int own_channel = channel + own_plane / p.images;
  const bool starts = p.bias && own_channel < p.channels;
  const A start = starts ? widen(static_cast<const T*>(p.bias)[own_channel]) : A(0);
#pragma unroll
  for (int k = 0; k < Copies; ++k) {
#pragma unroll
    for (int i = 0; i < Sums; ++i) sum[k][i] = start;
  }

  const int images = minimum(p.batch - image, p.images * Copies);
  const auto place_of = [&](int n) {  // planes run along images, then channels, then copies
    const int copy = n / p.images;
    return (copy * p.group * p.images + n - copy * p.images) * s.plane;
  };
  clear(weights + tile, s.planes * s.plane + s.zeros);
#pragma unroll 1
  for (int first = 0; first < p.kernel_h; first += p.kernel_rows) {
    const int end = minimum(first + p.kernel_rows, p.kernel_h);
    const int low = maximum(row + first - above, 0), high = minimum(row + rows + end - 1 - above, p.height);
    if (low >= high) continue;
    __syncthreads();  // everyone has done with the last rows
    fill_weights<T>(p, s, channel, channels, first, end, weights);
    const int left = Crossed ? 0 : maximum(column - side, 0);
    const int right = Crossed ? p.width : minimum(column + columns + side, p.width);
    const Box box = {image, images, channel, channels, low, high - low, left, right - left};
    const Steps steps = {p.images * s.plane, s.pitch, Crossed ? -1 : 1};
    A* pixels_begin = weights + tile + s.lead + (Crossed ? p.width - 1 : left - column);
    fill<T>(p, p.x, box, steps, pixels_begin, place_of);
    __syncthreads();
    if (top > bottom) continue;

    // The warp's rows of the kernel; or, where they are fewer, its rows of the image.
    const int from_tap = maximum(first, above - bottom - row), to_tap = minimum(end, p.height + above - top - row);
    const int from_row = maximum(row + top + first - above, 0);
    const int to_row = minimum(row + bottom + end - above, p.height);
    const bool by_rows = to_row - from_row < to_tap - from_tap;
    const int tap = by_rows ? from_row - shift : from_tap, own_first = maximum(first, low - shift);
    const int own_count = works ? maximum(minimum(end, high - shift) - own_first, 0) : 0;  // this thread's among them
    int ahead = tap - own_first, taps_at = own_taps + (tap - first) * s.weight_pitch;
    int pixels_at = own_pixels + (tap + shift - low) * s.pitch;
#pragma unroll 1
    for (int left_over = by_rows ? to_row - from_row : to_tap - from_tap; left_over > 0; --left_over) {
      const bool meets = static_cast<unsigned>(ahead) < static_cast<unsigned>(own_count);
      const A* pixels[Copies];
#pragma unroll
      for (int k = 0; k < Copies; ++k)
        pixels[k] = weights + (meets ? pixels_at + k * p.group * p.images * s.plane : zeros);
      slide<Sums, Copies, Crossed>(pixels, weights + (meets ? taps_at : 0), Crossed ? p.width : p.kernel_w, sum);
      ++ahead, taps_at += s.weight_pitch, pixels_at += s.pitch;
    }
  }

  // Through shared memory, from which neighbours in memory are written by neighbouring threads.
  __syncthreads();
  if (works) {
#pragma unroll
    for (int k = 0; k < Copies; ++k) {
#pragma unroll
      for (int i = 0; i < Sums; ++i) weights[unit * s.stage + k * Sums + i] = sum[k][i];
    }
  }
  __syncthreads();
  const Lines lines(p, {image, images, channel, channels, row, rows, column, columns});
  const Divider by_inner(lines.inner);
  lines.each([&](int n, int c, int y, long long offset) {
    T* target = static_cast<T*>(p.y) + offset;
    const int copy = n / p.images, plane = n - copy * p.images;
#pragma unroll 1
    for (int item = lines.first(); item < lines.length; item += lines.team) {
      const int outer = by_inner(item), in = item - outer * lines.inner;
      const int x = p.last ? outer : in, from = x / Sums;
      const int owner = ((y + (p.last ? 0 : outer)) * p.group + c + (p.last ? in : 0)) * p.images + plane;
      const A value = weights[(owner * p.segments + from) * s.stage + copy * Sums + x - from * Sums];
      target[outer * lines.step + in] = narrow<T>(value);
    }
  });
}

}  // namespace smpconv::depthwise
