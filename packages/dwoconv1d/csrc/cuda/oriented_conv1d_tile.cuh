// The shared-memory tile of the oriented 1D convolution: where taps read, how large the halo is, and how a tile is filled.
// A tile holds zeros wherever it leaves the image, so the loops over taps have no conditions.
#pragma once

#include "common/scalar.cuh"
#include "cuda/oriented_conv1d_params.h"

namespace dwoconv1d {

using leanconv::Accumulator;
using leanconv::Divider;
using leanconv::maximum;
using leanconv::minimum;
using leanconv::narrow;
using leanconv::widen;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kItems = 4;  // positions per thread: they share each read of a tap
constexpr unsigned kWarp = 0xffffffffu;

// How one dtype and layout are held in a tile. NCHW: one channel per block; 16-bit pixels of two images share a word, so one
// read serves two products. channels_last: as many channels as fill a 32-byte sector, each a plane of its own in the tile.
template <typename T, bool ChannelsLast>
struct Format {
  static constexpr int kChannels = ChannelsLast ? 32 / sizeof(T) : 1;
  static constexpr int kImages = !ChannelsLast && sizeof(T) == 2 ? 2 : 1;
};

template <typename T, int Images>
struct Slot {
  T pixel;

  __device__ void set(const T* pixels) { pixel = pixels[0]; }
  __device__ Accumulator<T> get(int) const { return widen(pixel); }
};

template <typename T>
struct Slot<T, 2> {
  unsigned word;

  __device__ void set(const T* pixels) { word = pixels[0].bits | static_cast<unsigned>(pixels[1].bits) << 16; }
  __device__ float get(int image) const { return widen(T{static_cast<unsigned short>(word >> (16 * image))}); }
};

// Where tap s of a channel reads: `row`, `column` away from the cell's first source pixel. In the input gradient it serves the
// outputs of one phase, (output row, column) mod stride; there, with Python's // and %: row = -(dy // stride), phase = dy % stride.
struct Tap {
  long long row, column, phase_h, phase_w;
  bool live;  // some cell of the image reads a pixel of the image

  __device__ bool same(const Tap& other) const {
    return row == other.row && column == other.column && phase_h == other.phase_h && phase_w == other.phase_w;
  }
};

__device__ inline long long floor_div(long long a, long long b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
__device__ inline long long source_step_h(const Params& p) { return p.grad_input ? 1 : p.stride_h; }
__device__ inline long long source_step_w(const Params& p) { return p.grad_input ? 1 : p.stride_w; }

__device__ inline Tap locate(const Params& p, long long channel, long long s) {
  Tap tap;
  tap.row = p.offsets[channel * p.taps + s];
  tap.column = p.offsets[(p.channels + channel) * p.taps + s];
  tap.phase_h = tap.phase_w = 0;
  if (p.grad_input) {
    const long long row = floor_div(tap.row, p.stride_h), column = floor_div(tap.column, p.stride_w);
    tap.phase_h = tap.row - row * p.stride_h;
    tap.phase_w = tap.column - column * p.stride_w;
    tap.row = -row;
    tap.column = -column;
  }
  tap.live = tap.row < p.source_h && (p.cells_h - 1) * source_step_h(p) + tap.row >= 0 && tap.column < p.source_w &&
             (p.cells_w - 1) * source_step_w(p) + tap.column >= 0;
  return tap;
}

// Smallest and largest reach of the live taps [first, last) of a block's channels. Each warp finds it by itself.
struct Box {
  int top, bottom, left, right;
};

template <int Channels>
__device__ Box bounding_box(const Params& p, long long channel, long long first, long long last) {
  constexpr int kFar = 0x7fffffff;
  Box box = {kFar, -kFar, kFar, -kFar};
  for (int c = 0; c < Channels && channel + c < p.channels; ++c) {
    for (long long s = first + (threadIdx.x & 31); s < last; s += 32) {
      const Tap tap = locate(p, channel + c, s);
      if (!tap.live) continue;
      const int row = static_cast<int>(tap.row), column = static_cast<int>(tap.column);
      box = {minimum(box.top, row), maximum(box.bottom, row), minimum(box.left, column), maximum(box.right, column)};
    }
  }
  for (int lane = 16; lane > 0; lane /= 2) {
    box.top = minimum(box.top, __shfl_xor_sync(kWarp, box.top, lane));
    box.bottom = maximum(box.bottom, __shfl_xor_sync(kWarp, box.bottom, lane));
    box.left = minimum(box.left, __shfl_xor_sync(kWarp, box.left, lane));
    box.right = maximum(box.right, __shfl_xor_sync(kWarp, box.right, lane));
  }
  if (box.top > box.bottom) box = {0, 0, 0, 0};  // no live tap
  return box;
}

// Layout of the tile in shared memory, [image][channel][row][column], and how many cells fit at a time.
// A strided forward pass reads every stride_w-th column: columns are stored by their remainder, so neighbouring cells stay
// neighbours, and a tap is one constant distance from each cell in both directions of the op.
struct Tile {
  Box box;
  long long pitch, plane;   // slots per row and per channel
  int columns, phase_pitch;  // source columns, slots per remainder
  int images, cell_rows;    // fitting at once: image slots, rows of cells; 0 rows: nothing fits, read global memory instead
  int step_h, step_w;

  template <typename T, bool ChannelsLast>
  __device__ static Tile plan(const Params& p, const Box& box, long long bytes) {
    using F = Format<T, ChannelsLast>;
    constexpr long long kSlot = sizeof(Slot<T, F::kImages>);
    Tile tile;
    tile.box = box;
    // A stride beyond the image is never taken: keep the numbers small.
    tile.step_h = static_cast<int>(minimum(source_step_h(p), p.source_h));
    tile.step_w = static_cast<int>(minimum(source_step_w(p), p.source_w));
    const long long columns = (p.tile_w - 1) * tile.step_w + 1 + box.right - box.left;
    const long long phase_pitch = leanconv::ceil_div(columns, tile.step_w);
    tile.pitch = phase_pitch * tile.step_w;
    tile.columns = static_cast<int>(columns);
    tile.phase_pitch = static_cast<int>(phase_pitch);
    const long long halo = box.bottom - box.top;
    const long long images = leanconv::ceil_div(p.tile_n, F::kImages);
    // All images and rows if they fit, else one image at a time and as many rows as fit.
    tile.plane = padded<T, F::kChannels>(((p.tile_h - 1) * tile.step_h + 1 + halo) * tile.pitch);
    tile.images = static_cast<int>(images);
    tile.cell_rows = static_cast<int>(p.tile_h);
    if (images * F::kChannels * tile.plane * kSlot <= bytes) return tile;
    tile.images = 1;
    const long long slots = bytes > 0 ? bytes / (kSlot * F::kChannels) : 0;
    const long long rows = (slots - (ChannelsLast ? 2 * kRound<T> : 0)) / tile.pitch;  // of source pixels
    tile.cell_rows = rows > halo ? static_cast<int>(minimum((rows - halo - 1) / tile.step_h + 1, p.tile_h)) : 0;
    tile.plane = padded<T, F::kChannels>(((tile.cell_rows - 1) * static_cast<long long>(tile.step_h) + 1 + halo) * tile.pitch);
    return tile;
  }

  // Slot of a tap relative to a cell's own slot, and the cell's own slot.
  __device__ int offset(const Tap& tap) const {
    const int row = static_cast<int>(tap.row) - box.top, column = static_cast<int>(tap.column) - box.left;
    return row * static_cast<int>(pitch) + column % step_w * phase_pitch + column / step_w;
  }
  __device__ int slot(int plane_index, int row, int column) const {
    return plane_index * static_cast<int>(plane) + row * step_h * static_cast<int>(pitch) + column;
  }

 private:
  // channels_last: lanes run over channels first; planes shifted against each other keep them on different banks.
  template <typename T>
  static constexpr long long kRound = sizeof(T) < 4 ? 128 / sizeof(T) : 32;
  template <typename T, int Channels>
  __device__ static long long padded(long long plane) {
    return Channels == 1 ? plane : leanconv::ceil_div(plane, kRound<T>) * kRound<T> + kRound<T> / Channels;
  }
};

// The part of the work a block has in its tile at one time: cells [row, row + rows) x [column, column + columns) of image
// slots starting at `image`, for the channels starting at `channel`.
struct Part {
  long long channel, image, row, column;
  int images, rows, columns;
};

// Fills the tile, zeros outside the image. A warp takes four rows at once to have as many loads under way, lanes run along
// channels and columns.
template <typename T, bool ChannelsLast>
__device__ void stage(const Params& p, const Tile& tile, const Part& part, Slot<T, Format<T, ChannelsLast>::kImages>* slots) {
  using F = Format<T, ChannelsLast>;
  constexpr int kRows = 4, kColumnsPerWarp = 32 / F::kChannels;
  const int lane = threadIdx.x & 31, channel = lane % F::kChannels;
  const int rows = (part.rows - 1) * tile.step_h + 1 + tile.box.bottom - tile.box.top;
  const int total = rows * part.images;
  const long long top = part.row * source_step_h(p) + tile.box.top, left = part.column * source_step_w(p) + tile.box.left;
  const bool channel_exists = part.channel + channel < p.channels;
  const T* source = static_cast<const T*>(p.source) + (part.channel + channel) * p.source_stride.c + left * p.source_stride.w;
  const Divider by_rows(rows), by_step(tile.step_w);
  for (int first = static_cast<int>(threadIdx.x) / 32 * kRows; first < total; first += kWarps * kRows) {
    const T* pixels[kRows];
    Slot<T, F::kImages>* target[kRows];
    int count[kRows];  // images to read
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int index = minimum(first + r, total - 1), slot = by_rows(index), row = index - slot * rows;
      const long long image = part.image + slot * F::kImages, y = top + row;
      const bool inside = channel_exists && y >= 0 && y < p.source_h;
      count[r] = inside ? static_cast<int>(minimum(p.batch - image, static_cast<long long>(F::kImages))) : 0;
      pixels[r] = source + (inside ? image * p.source_stride.n + y * p.source_stride.h : 0);
      target[r] = slots + (slot * F::kChannels + channel) * tile.plane + row * tile.pitch;
    }
    for (int column = lane / F::kChannels; column < tile.columns; column += kColumnsPerWarp) {
      const long long x = left + column;
      const bool inside = x >= 0 && x < p.source_w;
      T loaded[kRows][F::kImages];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int i = 0; i < F::kImages; ++i) {
          loaded[r][i] = inside && i < count[r] ? pixels[r][i * p.source_stride.n + column * p.source_stride.w] : T{};
        }
      }
      const int quotient = by_step(column), at = (column - quotient * tile.step_w) * tile.phase_pitch + quotient;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r < total) target[r][at].set(loaded[r]);
      }
    }
  }
}

}  // namespace dwoconv1d
