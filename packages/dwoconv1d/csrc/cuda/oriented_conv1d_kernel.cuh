// Device code of the oriented 1D depthwise convolution. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
//
//   gather   the forward pass and the input gradient: both sum weighted source pixels around a cell
//   reduce   the weight gradient: sums over images and cells, per block; `finish` then adds the blocks in order
//
// A block stages a zero-haloed tile of the source in shared memory and walks a list of the taps that reach the image,
// those that fall on one pixel merged. Where the halo of all taps is too large for shared memory, it takes fewer taps
// at a time.
#pragma once

#include "cuda/oriented_conv1d_tile.cuh"

namespace dwoconv1d {

constexpr int kItems = 4;  // cells per thread: they share each read of a tap

template <typename A>
struct alignas(2 * sizeof(A)) WeightedTap {  // read at once
  A weight;
  int offset;  // in bytes, from the cell
};

template <typename T>
__device__ Accumulator<T> weight_of(const Params& p, int channel, int s) {
  const Accumulator<T> weight = widen(static_cast<const T*>(p.weight)[static_cast<long long>(channel) * p.taps + s]);
  return p.residual && s == p.taps / 2 ? weight + 1 : weight;
}

__device__ inline long long target_index(const Params& p, int image, int channel, int y, int x) {
  const Strides& stride = p.target_stride;
  return image * stride.n + channel * stride.c + y * stride.h + x * stride.w;
}

// Byte addresses spare the inner loops a shift per product.
template <typename S>
__device__ const S& at_byte(const S* slots, int byte) {
  return *reinterpret_cast<const S*>(reinterpret_cast<const unsigned char*>(slots) + byte);
}

// Chooses the taps [first, *last) to work on at once, at most `most`, and the layout of their tile.
template <typename T, bool ChannelsLast>
__device__ Tile fit(const Params& p, int channel, int first, int most, int* last, int bytes,
                    Head<Format<T, ChannelsLast>::kChannels>& head) {
  constexpr int kChannels = Format<T, ChannelsLast>::kChannels;
  Tile tile;
  for (int count = minimum(most, p.taps - first);; count = (count + 1) / 2) {
    __syncthreads();  // the last boxes have been read
    for (int c = static_cast<int>(threadIdx.x) / 32; c < kChannels; c += kWarps) {
      Box box = {0, 0, 0, 0};
      if (channel + c < p.channels) box = bounding_box(p, channel + c, first, first + count);
      if ((threadIdx.x & 31) == 0) head.boxes[c] = box;
    }
    __syncthreads();
    tile.plan<T, ChannelsLast>(p, head, bytes);
    *last = first + count;
    if (tile.rows > 0 || count == 1) return tile;  // a single tap has no halo, and always fits
  }
}

// A block's share of the images and cells, number `unit` of unit_count.
struct Unit {
  int image, last_image, row, last_row, column, columns;

  __device__ Unit(const Params& p, int unit) {
    const int across = (p.cells_w + p.tile_w - 1) / p.tile_w, down = (p.cells_h + p.tile_h - 1) / p.tile_h;
    column = unit % across * p.tile_w;
    row = unit / across % down * p.tile_h;
    image = unit / across / down * p.tile_n;
    columns = minimum(p.tile_w, p.cells_w - column);
    last_row = minimum(row + p.tile_h, p.cells_h);
    last_image = minimum(image + p.tile_n, p.batch);
  }
};

__device__ inline int unit_count(const Params& p) {
  return (p.cells_w + p.tile_w - 1) / p.tile_w * ((p.cells_h + p.tile_h - 1) / p.tile_h) *
         ((p.batch + p.tile_n - 1) / p.tile_n);
}

// Splits a unit into parts of at most `images` slots and `rows` rows of cells.
template <int Images, typename Body>
__device__ void for_each_part(const Unit& unit, int channel, int images, int rows, Body body) {
  for (int image = unit.image; image < unit.last_image; image += images * Images) {
    for (int row = unit.row; row < unit.last_row; row += rows) {
      const int slots = (unit.last_image - image + Images - 1) / Images;
      body(Part{channel, image, row, unit.column, minimum(slots, images), minimum(unit.last_row - row, rows),
                unit.columns});
    }
  }
}

// The cells of a part, numbered with channels fastest, then columns, rows and images. A thread stays with one channel.
template <int Channels>
struct Items {
  int count, rows, columns;
  Divider by_columns, by_rows;

  __device__ explicit Items(const Part& part)
      : count(part.images * part.rows * part.columns * Channels), rows(part.rows), columns(part.columns),
        by_columns(part.columns), by_rows(part.rows) {}
  __device__ void locate(int item, int* image, int* row, int* column) const {
    const int cell = item / Channels, line = by_columns(cell);
    *image = by_rows(line);
    *row = line - *image * rows;
    *column = cell - line * columns;
  }
};

template <typename T, bool ChannelsLast>
__global__ void __launch_bounds__(kThreads, ChannelsLast || sizeof(T) == 8 ? 2 : 4) gather(const Params p) {
  using F = Format<T, ChannelsLast>;
  using A = Accumulator<T>;
  constexpr int kSlotBytes = sizeof(SlotOf<T, ChannelsLast>);
  auto& head = *reinterpret_cast<Head<F::kChannels>*>(leanconv::dynamic_shared());
  auto* list = reinterpret_cast<WeightedTap<A>*>(leanconv::dynamic_shared() + kHeadBytes);  // [place][channel]
  const int list_bytes = p.list_taps * F::kChannels * static_cast<int>(sizeof(WeightedTap<A>));
  auto* slots = reinterpret_cast<SlotOf<T, ChannelsLast>*>(leanconv::dynamic_shared() + kHeadBytes + list_bytes);
  const int tile_bytes = p.shared_bytes - kHeadBytes - list_bytes;

  const int units = unit_count(p), channel = static_cast<int>(blockIdx.x / units) * F::kChannels;
  const int lane_channel = threadIdx.x % F::kChannels, own_channel = channel + lane_channel;
  const bool channel_exists = own_channel < p.channels;
  const A bias = p.bias && channel_exists ? widen(static_cast<const T*>(p.bias)[own_channel]) : A(0);
  const int phases_h = p.grad_input ? p.stride_h : 1, phases_w = p.grad_input ? p.stride_w : 1;

  int last;
  Tile tile = fit<T, ChannelsLast>(p, channel, 0, p.list_taps, &last, tile_bytes, head);
  const bool whole = last == p.taps;  // else sums wait in registers while one tile follows the other: one row at a time
  for_each_part<F::kImages>(
      Unit(p, blockIdx.x % units), channel, whole ? tile.images : 1, whole ? tile.rows : 1, [&](const Part& part) {
        const Items<F::kChannels> items(part);
        for (int phase = 0; phase < phases_h * phases_w; ++phase) {
          for (int base = 0; base < items.count; base += kThreads * kItems) {
            A sum[kItems][F::kImages];
#pragma unroll
            for (int i = 0; i < kItems; ++i) {
#pragma unroll
              for (int v = 0; v < F::kImages; ++v) sum[i][v] = bias;
            }
            for (int first = 0; first < p.taps; first = last) {
              if (!whole) tile = fit<T, ChannelsLast>(p, channel, first, p.list_taps, &last, tile_bytes, head);
              if (!whole || base == 0) {
                __syncthreads();  // everyone has done with the last tile and list
                if (!whole || phase == 0) stage<T, ChannelsLast>(p, tile, part, head, slots);
                for (int c = static_cast<int>(threadIdx.x) / 32; c < F::kChannels && channel + c < p.channels;
                     c += kWarps) {
                  const int length = list_taps(
                      p, channel + c, phase, first, last,
                      [&](int place, const Tap& tap, int s, int end) {
                        A weight = weight_of<T>(p, channel + c, s);
                        for (int t = s + 1; t < end; ++t) weight += weight_of<T>(p, channel + c, t);
                        list[place * F::kChannels + c] = {weight, kSlotBytes * tile.offset(p, head.boxes[c], tap)};
                      },
                      [](int, int) {});
                  if ((threadIdx.x & 31) == 0) head.lengths[c] = length;
                }
                __syncthreads();
              }
              int at[kItems];
#pragma unroll
              for (int i = 0; i < kItems; ++i) {  // threads beyond the last cell repeat the first
                const int item = base + i * kThreads + static_cast<int>(threadIdx.x);
                int slot, row, column;
                items.locate(item < items.count ? item : 0, &slot, &row, &column);
                at[i] = kSlotBytes *
                        ((slot * F::kChannels + lane_channel) * tile.plane + row * step_h(p) * tile.pitch + column);
              }
              const int length = channel_exists ? head.lengths[lane_channel] : 0;
#pragma unroll 2
              for (int k = 0; k < length; ++k) {
                const WeightedTap<A> tap = list[k * F::kChannels + lane_channel];
#pragma unroll
                for (int i = 0; i < kItems; ++i) {
                  const SlotOf<T, ChannelsLast> pixel = at_byte(slots, at[i] + tap.offset);
#pragma unroll
                  for (int v = 0; v < F::kImages; ++v) sum[i][v] += tap.weight * pixel.get(v);
                }
              }
            }
#pragma unroll
            for (int i = 0; i < kItems; ++i) {
              const int item = base + i * kThreads + static_cast<int>(threadIdx.x);
              int slot, row, column;
              items.locate(item, &slot, &row, &column);
              const int y = (part.row + row) * phases_h + phase / phases_w,
                        x = (part.column + column) * phases_w + phase % phases_w;
              if (item >= items.count || !channel_exists || y >= p.target_h || x >= p.target_w) continue;
              const int image = part.image + slot * F::kImages;
              T* target = static_cast<T*>(p.target) + target_index(p, image, own_channel, y, x);
#pragma unroll
              for (int v = 0; v < F::kImages; ++v) {
                if (image + v < p.batch) target[v * p.target_stride.n] = narrow<T>(sum[i][v]);
              }
            }
          }
        }
      });
}

// One block sums a share of the units for its channels, at most `Taps` taps at a time, in registers.
template <typename T, bool ChannelsLast, int Taps>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2) reduce(const Params p) {
  using F = Format<T, ChannelsLast>;
  using A = Accumulator<T>;
  constexpr int kSlotBytes = sizeof(SlotOf<T, ChannelsLast>);
  constexpr int kListBytes = 2 * Taps * F::kChannels * sizeof(int), kTileAt = (kHeadBytes + kListBytes + 15) / 16 * 16;
  auto& head = *reinterpret_cast<Head<F::kChannels>*>(leanconv::dynamic_shared());
  int* list = reinterpret_cast<int*>(leanconv::dynamic_shared() + kHeadBytes);  // byte offsets, [place][channel]
  int* places = list + Taps * F::kChannels;                                     // of each tap, [tap][channel]
  auto* slots = reinterpret_cast<SlotOf<T, ChannelsLast>*>(leanconv::dynamic_shared() + kTileAt);
  A* warp_sums = reinterpret_cast<A*>(leanconv::dynamic_shared() + kTileAt);  // [warp][place][channel], after the tile

  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, lane_channel = threadIdx.x % F::kChannels;
  const int split = blockIdx.x % p.splits, channel = static_cast<int>(blockIdx.x / p.splits) * F::kChannels;
  const bool channel_exists = channel + lane_channel < p.channels;
  const int units = unit_count(p);
  const int begin = static_cast<int>(static_cast<long long>(units) * split / p.splits);
  const int end = static_cast<int>(static_cast<long long>(units) * (split + 1) / p.splits);

  for (int first = 0, last; first < p.taps; first = last) {
    const Tile tile = fit<T, ChannelsLast>(p, channel, first, Taps, &last, p.shared_bytes - kTileAt, head);
    for (int c = warp; c < F::kChannels && channel + c < p.channels; c += kWarps) {
      const int length = list_taps(
          p, channel + c, 0, first, last,
          [&](int place, const Tap& tap, int, int) {
            list[place * F::kChannels + c] = kSlotBytes * tile.offset(p, head.boxes[c], tap);
          },
          [&](int s, int place) { places[(s - first) * F::kChannels + c] = place; });
      if (lane == 0) head.lengths[c] = length;
    }
    A sum[Taps] = {}, bias = 0;
    for (int unit = begin; unit < end; ++unit) {
      for_each_part<F::kImages>(Unit(p, unit), channel, tile.images, tile.rows, [&](const Part& part) {
        __syncthreads();  // the list is there, and everyone has done with the last tile
        stage<T, ChannelsLast>(p, tile, part, head, slots);
        __syncthreads();
        const Items<F::kChannels> items(part);
        const int length = head.lengths[lane_channel];
        for (int base = static_cast<int>(threadIdx.x); base < items.count && channel_exists;
             base += kThreads * kItems) {
          int at[kItems];
          A grad[kItems][F::kImages];
#pragma unroll
          for (int i = 0; i < kItems; ++i) {
            const int item = base + i * kThreads;
            const bool exists = item < items.count;  // else repeat the thread's first cell with a gradient of zero
            int slot, row, column;
            items.locate(exists ? item : base, &slot, &row, &column);
            at[i] = kSlotBytes *
                    ((slot * F::kChannels + lane_channel) * tile.plane + row * p.stride_h * tile.pitch + column);
            const int image = part.image + slot * F::kImages;
            const T* target = static_cast<const T*>(p.target) +
                              target_index(p, image, channel + lane_channel, part.row + row, part.column + column);
#pragma unroll
            for (int v = 0; v < F::kImages; ++v) {
              grad[i][v] = exists && image + v < p.batch ? widen(target[v * p.target_stride.n]) : A(0);
              bias += grad[i][v];
            }
          }
#pragma unroll
          for (int k = 0; k < Taps; ++k) {
            if (k >= length) break;
            const int offset = list[k * F::kChannels + lane_channel];
#pragma unroll
            for (int i = 0; i < kItems; ++i) {
              const SlotOf<T, ChannelsLast> pixel = at_byte(slots, at[i] + offset);
#pragma unroll
              for (int v = 0; v < F::kImages; ++v) sum[k] += grad[i][v] * pixel.get(v);
            }
          }
        }
      });
    }
    __syncthreads();  // the tile becomes the warps' sums
#pragma unroll
    for (int k = 0; k <= Taps; ++k) {
      A value = k < Taps ? sum[k % Taps] : bias;
#pragma unroll
      for (int distance = 16; distance >= F::kChannels; distance /= 2)
        value += __shfl_xor_sync(kWarpMask, value, distance);
      if (lane < F::kChannels) warp_sums[(warp * (Taps + 1) + k) * F::kChannels + lane] = value;
    }
    __syncthreads();
    const int wanted = last - first + (first == 0);  // the taps, and the bias in the first round
    for (int item = threadIdx.x; item < wanted * F::kChannels && channel_exists; item += kThreads) {
      const int s = item / F::kChannels;
      const bool is_bias = s == last - first;
      const int place = is_bias ? Taps : places[item];
      A total = 0;
      for (int w = 0; w < kWarps && place >= 0; ++w)
        total += warp_sums[(w * (Taps + 1) + place) * F::kChannels + lane_channel];
      const long long row = static_cast<long long>(split) * p.channels + channel + lane_channel;
      static_cast<A*>(p.partial)[row * (p.taps + 1) + (is_bias ? p.taps : first + s)] = total;
    }
  }
}

// Adds the blocks' sums in order: the same result every time.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish(const Params p) {
  using A = Accumulator<T>;
  const int columns = p.taps + 1;
  const long long count = static_cast<long long>(p.channels) * columns;
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  A total = 0;
  for (int split = 0; split < p.splits; ++split) total += static_cast<const A*>(p.partial)[split * count + i];
  const long long channel = i / columns, s = i % columns;
  T* out = s < p.taps ? static_cast<T*>(p.grad_weight) + channel * p.taps + s : static_cast<T*>(p.grad_bias) + channel;
  *out = narrow<T>(total);
}

}  // namespace dwoconv1d
