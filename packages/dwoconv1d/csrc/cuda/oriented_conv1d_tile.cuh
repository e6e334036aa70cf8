// Taps and tiles of the oriented 1D convolution: where taps read and how large their halo is, how a tile of the source
// lies in shared memory and is filled. It holds zeros wherever it leaves the image, so that the loops over taps have no
// conditions.
#pragma once

#include "common/scalar.cuh"
#include "cuda/oriented_conv1d_params.h"

namespace dwoconv1d {

using leanconv::Accumulator;
using leanconv::ceil_div;
using leanconv::Divider;
using leanconv::maximum;
using leanconv::minimum;
using leanconv::narrow;
using leanconv::widen;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kWarpMask = 0xffffffffu;

// How one dtype and layout are held in a tile. NCHW: one channel per block, and 16-bit pixels of two images share a
// word, so that one read serves two products. channels_last: as many channels as fill a 32-byte sector, each a plane of
// its own.
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

template <typename T, bool ChannelsLast>
using SlotOf = Slot<T, Format<T, ChannelsLast>::kImages>;

// Rows and columns between the first source pixels of neighbouring cells.
__device__ inline int step_h(const Params& p) { return p.grad_input ? 1 : p.stride_h; }
__device__ inline int step_w(const Params& p) { return p.grad_input ? 1 : p.stride_w; }

// Where tap s of a channel reads: `row`, `column` away from the cell's first source pixel. In the input gradient it
// serves the outputs of one phase, (row, column) mod stride; there, with Python's // and %, row = -(dy // stride) and
// phase = dy % stride.
struct Tap {
  int row, column, phase;
  bool live;  // some cell of the image reads a pixel of the image
};

__device__ inline Tap locate(const Params& p, int channel, int s) {
  constexpr int kFar = 1 << 29;  // no image reaches that far (see kMaxSide)
  const long long index = static_cast<long long>(channel) * p.taps + s;
  Tap tap = {maximum(minimum(p.offsets[index], kFar), -kFar),
             maximum(minimum(p.offsets[static_cast<long long>(p.channels) * p.taps + index], kFar), -kFar), 0, false};
  if (p.grad_input) {
    const int dy = tap.row, dx = tap.column;
    tap.row = -((dy >= 0 ? dy : dy - p.stride_h + 1) / p.stride_h);
    tap.column = -((dx >= 0 ? dx : dx - p.stride_w + 1) / p.stride_w);
    tap.phase = (dy + tap.row * p.stride_h) * p.stride_w + dx + tap.column * p.stride_w;
  }
  tap.live = tap.row < p.source_h && (p.cells_h - 1) * step_h(p) + tap.row >= 0 && tap.column < p.source_w &&
             (p.cells_w - 1) * step_w(p) + tap.column >= 0;
  return tap;
}

// Smallest and largest reach of the live taps [first, last) of one channel, found by one warp.
struct Box {
  int top, bottom, left, right;
};

__device__ inline Box bounding_box(const Params& p, int channel, int first, int last) {
  constexpr int kNone = 0x7fffffff;
  Box box = {kNone, -kNone, kNone, -kNone};
  for (int s = first + static_cast<int>(threadIdx.x & 31); s < last; s += 32) {
    const Tap tap = locate(p, channel, s);
    if (!tap.live) continue;
    box = {minimum(box.top, tap.row), maximum(box.bottom, tap.row), minimum(box.left, tap.column),
           maximum(box.right, tap.column)};
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    box.top = minimum(box.top, __shfl_xor_sync(kWarpMask, box.top, distance));
    box.bottom = maximum(box.bottom, __shfl_xor_sync(kWarpMask, box.bottom, distance));
    box.left = minimum(box.left, __shfl_xor_sync(kWarpMask, box.left, distance));
    box.right = maximum(box.right, __shfl_xor_sync(kWarpMask, box.right, distance));
  }
  return box.top > box.bottom ? Box{0, 0, 0, 0} : box;
}

// The live taps [first, last) of one channel and phase, in order, by one warp; neighbours that coincide share a place.
// Calls emit(place, tap, s, end) for the taps [s, end) of one place and assign(s, place or -1) for every tap; returns
// the number of places.
template <typename Emit, typename Assign>
__device__ int list_taps(const Params& p, int channel, int phase, int first, int last, Emit emit, Assign assign) {
  const int lane = threadIdx.x & 31;
  int length = 0;
  for (int begin = first; begin < last; begin += 32) {
    const int s = begin + lane;
    Tap tap = {0, 0, 0, false};
    if (s < last) tap = locate(p, channel, s);
    const bool live = tap.live && tap.phase == phase;
    const int row = __shfl_up_sync(kWarpMask, tap.row, 1), column = __shfl_up_sync(kWarpMask, tap.column, 1);
    const unsigned lives = __ballot_sync(kWarpMask, live);
    const bool joins = live && lane > 0 && (lives >> (lane - 1) & 1) && row == tap.row && column == tap.column;
    const unsigned heads = __ballot_sync(kWarpMask, live && !joins), joined = lives & ~heads;
    const int place = length + __popc(heads & (kWarpMask >> (31 - lane))) - 1;
    if (live && !joins) {
      int end = lane + 1;
      while (end < 32 && (joined >> end & 1)) ++end;
      emit(place, tap, s, begin + end);
    }
    if (s < last) assign(s, live ? place : -1);
    length += __popc(heads);
  }
  return length;
}

// Start of a block's shared memory, before its list of taps and its tile.
template <int Channels>
struct Head {
  Box boxes[Channels];
  int lengths[Channels];  // of the lists
};
constexpr int kHeadBytes = 320;
static_assert(sizeof(Head<16>) <= kHeadBytes, "the head has outgrown its place");

// Layout of the tile, [image][channel][row][column], and how much of a block's work fits into it at once.
// A strided forward pass reads every step-th column. Columns are stored by their remainder, so that neighbouring cells
// stay neighbours and a tap is one constant distance from each cell, in both directions of the op.
struct Tile {
  int pitch, plane;     // slots per row and per channel
  int phase_pitch;      // slots per remainder of a row
  int halo_h, columns;  // of source pixels
  int images, rows;     // image slots and rows of cells at once; 0 rows: the halo is too large

  // All images and rows if they fit into `bytes`, else one image and as many rows as fit.
  template <typename T, bool ChannelsLast>
  __device__ void plan(const Params& p, const Head<Format<T, ChannelsLast>::kChannels>& head, int bytes) {
    using F = Format<T, ChannelsLast>;
    halo_h = 0;
    int halo_w = 0;
#pragma unroll 1
    for (int c = 0; c < F::kChannels; ++c) {
      halo_h = maximum(halo_h, head.boxes[c].bottom - head.boxes[c].top);
      halo_w = maximum(halo_w, head.boxes[c].right - head.boxes[c].left);
    }
    const int capacity = bytes / (static_cast<int>(sizeof(SlotOf<T, ChannelsLast>)) * F::kChannels);  // per channel
    columns = (p.tile_w - 1) * step_w(p) + 1 + halo_w;
    phase_pitch = (columns + step_w(p) - 1) / step_w(p);
    pitch = phase_pitch * minimum(step_w(p), columns);
    // Planes are shifted against each other: lanes run over channels first, and so stay on different banks.
    constexpr int kRound = ChannelsLast ? (sizeof(T) < 4 ? 128 / sizeof(T) : 32) : 1;
    constexpr int kShift = ChannelsLast ? kRound / F::kChannels : 0;
    const int fitting = (capacity - (ChannelsLast ? 2 * kRound : 0)) / pitch - 1 - halo_h;  // rows below a first cell's
    rows = fitting < 0 ? 0 : minimum(fitting / step_h(p) + 1, p.tile_h);
    plane = rows == 0 ? 0 : (((rows - 1) * step_h(p) + 1 + halo_h) * pitch + kRound - 1) / kRound * kRound + kShift;
    images = (p.tile_n + F::kImages - 1) / F::kImages;
    if (rows < p.tile_h || images * plane > capacity) images = 1;
  }

  __device__ int offset(const Params& p, const Box& box, const Tap& tap) const {  // of a tap from a cell
    const int column = tap.column - box.left, quotient = column / step_w(p);
    return (tap.row - box.top) * pitch + (column - quotient * step_w(p)) * phase_pitch + quotient;
  }
};

// What a block has in its tile at once: cells [row, row + rows) x [column, column + columns) of `images` slots from
// `image` on.
struct Part {
  int channel, image, row, column;
  int images, rows, columns;
};

// Fills the tile. A warp takes four rows at once to have as many loads under way; lanes run along channels, then
// columns.
template <typename T, bool ChannelsLast>
__device__ void stage(const Params& p, const Tile& tile, const Part& part,
                      const Head<Format<T, ChannelsLast>::kChannels>& head, SlotOf<T, ChannelsLast>* slots) {
  using F = Format<T, ChannelsLast>;
  constexpr int kRows = 4;
  const int lane = threadIdx.x & 31, channel = lane % F::kChannels;
  const int rows = (part.rows - 1) * step_h(p) + 1 + tile.halo_h, total = rows * part.images;
  const int top = part.row * step_h(p) + head.boxes[channel].top,
            left = part.column * step_w(p) + head.boxes[channel].left;
  const bool channel_exists = part.channel + channel < p.channels;
  const T* source = static_cast<const T*>(p.source) + (part.channel + channel) * p.source_stride.c;
  const Divider by_rows(rows), by_step(step_w(p));
  for (int first = static_cast<int>(threadIdx.x) / 32 * kRows; first < total; first += kWarps * kRows) {
    const T* pixels[kRows];
    int target[kRows], readable[kRows];  // slot, images to read
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int index = minimum(first + r, total - 1), slot = by_rows(index), row = index - slot * rows;
      const int image = part.image + slot * F::kImages, y = top + row;
      const bool inside = channel_exists && y >= 0 && y < p.source_h;
      readable[r] = inside ? p.batch - image : 0;
      pixels[r] = source + (inside ? image * p.source_stride.n + y * p.source_stride.h : 0);
      target[r] = (slot * F::kChannels + channel) * tile.plane + row * tile.pitch;
    }
    for (int column = lane / F::kChannels; column < tile.columns; column += 32 / F::kChannels) {
      const int x = left + column, quotient = by_step(column);
      const int at = (column - quotient * step_w(p)) * tile.phase_pitch + quotient;
      const bool inside = x >= 0 && x < p.source_w;
      T loaded[kRows][F::kImages];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int v = 0; v < F::kImages; ++v) {
          loaded[r][v] = inside && v < readable[r] ? pixels[r][v * p.source_stride.n + x * p.source_stride.w] : T{};
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r < total) slots[target[r] + at].set(loaded[r]);
      }
    }
  }
}

}  // namespace dwoconv1d
