// Device code of the oriented 1D depthwise convolution. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
//
//   gather   the forward pass and the input gradient: both sum weighted source pixels around a cell
//   reduce   the weight gradient: sums over images and cells, per block, then `finish` adds the blocks in order
//
// Each block stages a zero-haloed tile of the source in shared memory and walks the list of taps that reach the image. Taps
// that fall on one pixel are merged. A halo too large for shared memory is read from global memory instead.
#pragma once

#include "cuda/oriented_conv1d_tile.cuh"

namespace dwoconv1d {

template <typename A>
struct WeightedTap {
  A weight;
  int offset;
};

// Where a channel's live taps read, for the weight gradient: tile offset, or row and column where there is no tile.
struct TapPosition {
  int offset, row, column;
};

// Lists the live taps [first, last) of one channel and phase, merged where neighbours coincide, by one warp: calls
// emit(position in the list, tap, s, end) with the taps [s, end) that coincide, and index(s, position or -1) for every tap.
// Returns the list's length.
template <typename Emit, typename Index>
__device__ int collect(const Params& p, long long channel, long long phase_h, long long phase_w, long long first,
                       long long last, Emit emit, Index index) {
  const int lane = threadIdx.x & 31;
  int length = 0;
  for (long long begin = first; begin < last; begin += 32) {
    const long long s = begin + lane, end = minimum(begin + 32, last);
    Tap tap;
    bool live = false, head = false;
    if (s < end) {
      tap = locate(p, channel, s);
      live = tap.live && tap.phase_h == phase_h && tap.phase_w == phase_w;
      head = live && (lane == 0 || !tap.same(locate(p, channel, s - 1)));
    }
    const unsigned heads = __ballot_sync(kWarp, head);
    const int position = length + __popc(heads & (0xffffffffu >> (31 - lane))) - 1;
    if (head) {
      long long stop = s + 1;
      while (stop < end && tap.same(locate(p, channel, stop))) ++stop;
      emit(position, tap, s, stop);
    }
    if (s < end) index(s, live ? position : -1);
    length += __popc(heads);
  }
  return length;
}

template <typename T>
__device__ Accumulator<T> weight_of(const Params& p, long long channel, long long s) {
  const Accumulator<T> weight = widen(static_cast<const T*>(p.weight)[channel * p.taps + s]);
  return p.residual && s == p.taps / 2 ? weight + 1 : weight;
}

// A pixel of the source straight from global memory, zero outside the image.
template <typename T, int Images>
__device__ Slot<T, Images> source_slot(const Params& p, long long image, long long channel, long long y, long long x) {
  const Strides& stride = p.source_stride;
  const bool inside = y >= 0 && y < p.source_h && x >= 0 && x < p.source_w;
  T pixels[Images];
  for (int v = 0; v < Images; ++v) {
    const long long index = (image + v) * stride.n + channel * stride.c + y * stride.h + x * stride.w;
    pixels[v] = inside && image + v < p.batch ? static_cast<const T*>(p.source)[index] : T{};
  }
  Slot<T, Images> slot;
  slot.set(pixels);
  return slot;
}

__device__ inline long long target_index(const Params& p, long long image, long long channel, long long y, long long x) {
  const Strides& stride = p.target_stride;
  return image * stride.n + channel * stride.c + y * stride.h + x * stride.w;
}

// The positions of a part, numbered with channels fastest, then columns, rows and images. A thread's channel is fixed.
template <int Channels>
struct Items {
  int count;
  Divider by_columns, by_rows;
  const Part& part;

  __device__ explicit Items(const Part& work)
      : count(work.images * work.rows * work.columns * Channels), by_columns(work.columns), by_rows(work.rows), part(work) {}
  __device__ void locate(int item, int* image, int* row, int* column) const {
    const int cell = item / Channels, line = by_columns(cell);
    *image = by_rows(line);
    *row = line - *image * part.rows;
    *column = cell - line * part.columns;
  }
};

// Walks over the tiles of one block: images in groups of tile_n, then rows and columns of tiles, split where less fits.
template <typename T, bool ChannelsLast, typename Body>
__device__ void for_each_part(const Params& p, const Tile& tile, long long channel, long long unit, Body body) {
  using F = Format<T, ChannelsLast>;
  const long long across = leanconv::ceil_div(p.cells_w, p.tile_w), down = leanconv::ceil_div(p.cells_h, p.tile_h);
  const long long column = unit % across * p.tile_w, row = unit / across % down * p.tile_h;
  const long long image = unit / across / down * p.tile_n, last_image = minimum(image + p.tile_n, p.batch);
  const long long last_row = minimum(row + p.tile_h, p.cells_h);
  const int rows_at_once = tile.cell_rows > 0 ? tile.cell_rows : static_cast<int>(p.tile_h);
  Part part;
  part.channel = channel;
  part.column = column;
  part.columns = static_cast<int>(minimum(p.tile_w, p.cells_w - column));
  for (part.image = image; part.image < last_image; part.image += tile.images * F::kImages) {
    const long long slots = leanconv::ceil_div(last_image - part.image, F::kImages);
    part.images = static_cast<int>(minimum(slots, tile.images));
    for (part.row = row; part.row < last_row; part.row += rows_at_once) {
      part.rows = static_cast<int>(minimum(last_row - part.row, rows_at_once));
      body(part);
    }
  }
}

// ---- forward and input gradient ----

template <typename T, bool ChannelsLast>
__device__ void gather_part(const Params& p, const Tile& tile, const Part& part, long long phase_h, long long phase_w,
                            const Slot<T, Format<T, ChannelsLast>::kImages>* slots,
                            const WeightedTap<Accumulator<T>>* list, const int* lengths) {
  using F = Format<T, ChannelsLast>;
  using A = Accumulator<T>;
  const Items<F::kChannels> items(part);
  const int lane_channel = threadIdx.x % F::kChannels;
  const long long channel = part.channel + lane_channel;
  if (channel >= p.channels) return;
  const A bias = p.bias ? widen(static_cast<const T*>(p.bias)[channel]) : A(0);
  const bool tiled = tile.cell_rows > 0;
  const int length = tiled ? lengths[lane_channel] : 0;
  for (int base = 0; base < items.count; base += kThreads * kItems) {
    int at[kItems];
    A sum[kItems][F::kImages];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = base + i * kThreads + static_cast<int>(threadIdx.x);
      int image, row, column;
      items.locate(item < items.count ? item : lane_channel, &image, &row, &column);
      at[i] = tiled ? tile.slot(image * F::kChannels + lane_channel, row, column) : 0;
#pragma unroll
      for (int v = 0; v < F::kImages; ++v) sum[i][v] = bias;
    }
#pragma unroll 2
    for (int k = 0; k < length; ++k) {
      const WeightedTap<A> tap = list[k * F::kChannels + lane_channel];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const Slot<T, F::kImages> pixel = slots[at[i] + tap.offset];
#pragma unroll
        for (int v = 0; v < F::kImages; ++v) sum[i][v] += tap.weight * pixel.get(v);
      }
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = base + i * kThreads + static_cast<int>(threadIdx.x);
      if (item >= items.count) break;
      int slot, row, column;
      items.locate(item, &slot, &row, &column);
      const long long y = part.row + row, x = part.column + column, image = part.image + slot * F::kImages;
      const long long out_y = p.grad_input ? y * p.stride_h + phase_h : y, out_x = p.grad_input ? x * p.stride_w + phase_w : x;
      if (out_y >= p.target_h || out_x >= p.target_w) continue;
      for (long long s = 0; s < p.taps && !tiled; ++s) {
        const Tap tap = locate(p, channel, s);
        if (!tap.live || tap.phase_h != phase_h || tap.phase_w != phase_w) continue;
        const A weight = weight_of<T>(p, channel, s);
        const Slot<T, F::kImages> pixel = source_slot<T, F::kImages>(
            p, image, channel, y * source_step_h(p) + tap.row, x * source_step_w(p) + tap.column);
#pragma unroll
        for (int v = 0; v < F::kImages; ++v) sum[i][v] += weight * pixel.get(v);
      }
      T* target = static_cast<T*>(p.target) + target_index(p, image, channel, out_y, out_x);
#pragma unroll
      for (int v = 0; v < F::kImages; ++v) {
        if (image + v < p.batch) target[v * p.target_stride.n] = narrow<T>(sum[i][v]);
      }
    }
  }
}

template <typename T, bool ChannelsLast>
__global__ void __launch_bounds__(kThreads) gather(const Params p) {
  using F = Format<T, ChannelsLast>;
  using Pixels = Slot<T, F::kImages>;
  using Tap_ = WeightedTap<Accumulator<T>>;
  // Shared memory: list lengths, taps [K][channels], tile.
  const long long list_bytes = 64 + leanconv::ceil_div(p.taps * F::kChannels * sizeof(Tap_), 16) * 16;
  int* lengths = reinterpret_cast<int*>(leanconv::dynamic_shared());
  Tap_* list = reinterpret_cast<Tap_*>(leanconv::dynamic_shared() + 64);
  Pixels* slots = reinterpret_cast<Pixels*>(leanconv::dynamic_shared() + list_bytes);

  const long long units = leanconv::ceil_div(p.batch, p.tile_n) * leanconv::ceil_div(p.cells_h, p.tile_h) *
                          leanconv::ceil_div(p.cells_w, p.tile_w);
  const long long groups = leanconv::ceil_div(p.channels, F::kChannels);
  const long long phases_h = p.grad_input ? minimum(p.stride_h, p.target_h) : 1;
  const long long phases_w = p.grad_input ? minimum(p.stride_w, p.target_w) : 1;
  for (long long task = blockIdx.x; task < units * groups; task += gridDim.x) {
    const long long channel = task / units * F::kChannels;
    const Box box = bounding_box<F::kChannels>(p, channel, 0, p.taps);
    const Tile tile = Tile::plan<T, ChannelsLast>(p, box, p.shared_bytes - list_bytes);
    for_each_part<T, ChannelsLast>(p, tile, channel, task % units, [&](const Part& part) {
      for (long long phase = 0; phase < phases_h * phases_w; ++phase) {
        const long long phase_h = phase / phases_w, phase_w = phase % phases_w;
        if (tile.cell_rows > 0) {
          __syncthreads();  // everyone has done with the last tile and list
          if (phase == 0) stage<T, ChannelsLast>(p, tile, part, slots);
          for (int c = static_cast<int>(threadIdx.x) / 32; c < F::kChannels && channel + c < p.channels; c += kWarps) {
            const int length = collect(
                p, channel + c, phase_h, phase_w, 0, p.taps,
                [&](int position, const Tap& tap, long long s, long long end) {
                  Accumulator<T> weight = weight_of<T>(p, channel + c, s);
                  for (long long t = s + 1; t < end; ++t) weight += weight_of<T>(p, channel + c, t);
                  list[position * F::kChannels + c] = {weight, tile.offset(tap)};
                },
                [](long long, int) {});
            if ((threadIdx.x & 31) == 0) lengths[c] = length;
          }
          __syncthreads();
        }
        gather_part<T, ChannelsLast>(p, tile, part, phase_h, phase_w, slots, list, lengths);
      }
    });
  }
}

// ---- weight gradient ----

template <typename T, bool ChannelsLast, int Taps>
__device__ void reduce_part(const Params& p, const Tile& tile, const Part& part,
                            const Slot<T, Format<T, ChannelsLast>::kImages>* slots, const TapPosition* list,
                            const int* lengths, Accumulator<T> (&sum)[Taps], Accumulator<T>& bias) {
  using F = Format<T, ChannelsLast>;
  using A = Accumulator<T>;
  const Items<F::kChannels> items(part);
  const int lane_channel = threadIdx.x % F::kChannels;
  const long long channel = part.channel + lane_channel;
  if (channel >= p.channels) return;
  const bool tiled = tile.cell_rows > 0;
  const int length = lengths[lane_channel];
  for (int base = static_cast<int>(threadIdx.x); base < items.count; base += kThreads * kItems) {
    int at[kItems];
    A grad[kItems][F::kImages];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = base + i * kThreads;
      const bool exists = item < items.count;  // else repeat the thread's first item with a gradient of zero
      int slot, row, column;
      items.locate(exists ? item : base, &slot, &row, &column);
      at[i] = tiled ? tile.slot(slot * F::kChannels + lane_channel, row, column) : 0;
      const long long image = part.image + slot * F::kImages;
      const T* target = static_cast<const T*>(p.target) + target_index(p, image, channel, part.row + row, part.column + column);
#pragma unroll
      for (int v = 0; v < F::kImages; ++v) {
        grad[i][v] = exists && image + v < p.batch ? widen(target[v * p.target_stride.n]) : A(0);
        bias += grad[i][v];
      }
    }
#pragma unroll
    for (int k = 0; k < Taps; ++k) {
      if (k >= length) break;
      const TapPosition tap = list[k * F::kChannels + lane_channel];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        Slot<T, F::kImages> pixel;
        if (tiled) {
          pixel = slots[at[i] + tap.offset];
        } else {
          const int item = base + i * kThreads;
          int slot, row, column;
          items.locate(item < items.count ? item : base, &slot, &row, &column);
          pixel = source_slot<T, F::kImages>(p, part.image + slot * F::kImages, channel, (part.row + row) * p.stride_h + tap.row,
                                             (part.column + column) * p.stride_w + tap.column);
        }
#pragma unroll
        for (int v = 0; v < F::kImages; ++v) sum[k] += grad[i][v] * pixel.get(v);
      }
    }
  }
}

// One block sums a share of the images and tiles for its channels; at most `Taps` taps at a time, kept in registers.
template <typename T, bool ChannelsLast, int Taps>
__global__ void __launch_bounds__(kThreads) reduce(const Params p) {
  using F = Format<T, ChannelsLast>;
  using A = Accumulator<T>;
  using Pixels = Slot<T, F::kImages>;
  // Shared memory: list lengths, tap positions [Taps][channels], place of each tap in the list, then the tile; later, in the
  // tile's place, the sums of each warp [warp][Taps + 1][channels].
  constexpr int kTaps = Taps * F::kChannels;
  constexpr int kHead = (64 + kTaps * static_cast<int>(sizeof(TapPosition) + sizeof(int)) + 15) / 16 * 16;
  int* lengths = reinterpret_cast<int*>(leanconv::dynamic_shared());
  TapPosition* list = reinterpret_cast<TapPosition*>(leanconv::dynamic_shared() + 64);
  int* places = reinterpret_cast<int*>(list + kTaps);
  Pixels* slots = reinterpret_cast<Pixels*>(leanconv::dynamic_shared() + kHead);
  A* warp_sums = reinterpret_cast<A*>(leanconv::dynamic_shared() + kHead);

  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const long long units = leanconv::ceil_div(p.batch, p.tile_n) * leanconv::ceil_div(p.cells_h, p.tile_h) *
                          leanconv::ceil_div(p.cells_w, p.tile_w);
  const long long split = blockIdx.x % p.splits, channel = blockIdx.x / p.splits * F::kChannels;
  const long long begin = units * split / p.splits, end = units * (split + 1) / p.splits;

  for (long long first = 0; first < p.taps; first += Taps) {
    const long long last = minimum(first + Taps, p.taps);
    const Box box = bounding_box<F::kChannels>(p, channel, first, last);
    const Tile tile = Tile::plan<T, ChannelsLast>(p, box, p.shared_bytes - kHead);
    __syncthreads();  // the last round's sums have been read
    for (int c = warp; c < F::kChannels && channel + c < p.channels; c += kWarps) {
      const int length = collect(
          p, channel + c, 0, 0, first, last,
          [&](int position, const Tap& tap, long long, long long) {
            const int offset = tile.cell_rows > 0 ? tile.offset(tap) : 0;
            list[position * F::kChannels + c] = {offset, static_cast<int>(tap.row), static_cast<int>(tap.column)};
          },
          [&](long long s, int place) { places[(s - first) * F::kChannels + c] = place; });
      if (lane == 0) lengths[c] = length;
    }
    A sum[Taps] = {}, bias = 0;
    for (long long unit = begin; unit < end; ++unit) {
      for_each_part<T, ChannelsLast>(p, tile, channel, unit, [&](const Part& part) {
        __syncthreads();  // the list is there, and everyone has done with the last tile
        if (tile.cell_rows > 0) {
          stage<T, ChannelsLast>(p, tile, part, slots);
          __syncthreads();
        }
        reduce_part<T, ChannelsLast, Taps>(p, tile, part, slots, list, lengths, sum, bias);
      });
    }
    __syncthreads();  // tile -> sums
#pragma unroll
    for (int k = 0; k <= Taps; ++k) {
      A value = k < Taps ? sum[k % Taps] : bias;
#pragma unroll
      for (int distance = 16; distance >= F::kChannels; distance /= 2) value += __shfl_xor_sync(kWarp, value, distance);
      if (lane < F::kChannels) warp_sums[(warp * (Taps + 1) + k) * F::kChannels + lane] = value;
    }
    __syncthreads();
    // One thread per tap, and one for the bias in the first round.
    const int wanted = static_cast<int>(last - first) + (first == 0);
    for (int item = threadIdx.x; item < wanted * F::kChannels; item += kThreads) {
      const int c = item % F::kChannels, s = item / F::kChannels;
      if (channel + c >= p.channels) continue;
      const bool is_bias = s == last - first;
      const int place = is_bias ? Taps : places[item];
      A total = 0;
      for (int w = 0; w < kWarps && place >= 0; ++w) total += warp_sums[(w * (Taps + 1) + place) * F::kChannels + c];
      const long long column = is_bias ? p.taps : first + s;
      static_cast<A*>(p.partial)[(split * p.channels + channel + c) * (p.taps + 1) + column] = total;
    }
  }
}

// Adds the blocks' sums in order: the same result every time.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish(const Params p) {
  using A = Accumulator<T>;
  const long long columns = p.taps + 1, count = p.channels * columns, step = static_cast<long long>(gridDim.x) * kThreads;
  for (long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    A total = 0;
    for (long long split = 0; split < p.splits; ++split) total += static_cast<const A*>(p.partial)[split * count + i];
    const long long channel = i / columns, s = i % columns;
    T* out = s < p.taps ? static_cast<T*>(p.grad_weight) + channel * p.taps + s : static_cast<T*>(p.grad_bias) + channel;
    *out = narrow<T>(total);
  }
}

}  // namespace dwoconv1d
