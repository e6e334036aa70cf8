// Images and kernels in a block's shared memory: rows in accumulation precision, one after another, with the zeros
// between them that a window meets outside of the image.
#pragma once

#include "cuda/depthwise_params.h"
#include "cuda/depthwise_slide.cuh"

namespace smpconv::depthwise {

using leanconv::ceil_div;
using leanconv::Divider;

// Whole vectors for `count` numbers.
__host__ __device__ inline int whole(int count) { return (count + 3) / 4 * 4; }

// The same, an odd number of them: rows one below the other then lie in different banks.
__host__ __device__ inline int odd_whole(int count) { return ((count + 3) / 4 | 1) * 4; }

// The smallest length of at least `count` numbers that is `vectors` vectors more than a multiple of 8 of them.
__host__ __device__ inline int bank_aligned(int count, int vectors) {
  const int units = (count + 3) / 4;
  return (units + ((vectors - units) % 8 + 8) % 8) * 4;
}

// Rows of the image that a band of `rows` rows and as many rows of the kernel as are taken at once meet.
__host__ __device__ inline int rows_met(const Params& p) {
  int most = p.rows + p.kernel_rows - 1;
  // Every band is the first or the last one, and beyond the image there is nothing.
  if (p.kernel_rows == p.kernel_h && 2 * p.rows >= p.height) most = p.rows + p.kernel_h / 2;
  return most < p.height ? most : p.height;
}

// A box of pixels: `images` from `image` on, and so forth. All are pixels of the images.
struct Box {
  int image, images, channel, channels, row, rows, column, columns;
};

// A box in the order of memory, as lines that teams of threads take in turn. A line is what a box has of one channel of
// an image or, channels last, of one row of an image: number `outer` * inner + `in` of it has row `outer` and column
// `in`, or column `outer` and channel `in`.
struct Lines {
  const Params& p;
  const Box box;
  int count, length, inner, team;
  long long step;  // elements between neighbouring `outer`

  __device__ Lines(const Params& params, const Box& b) : p(params), box(b) {
    count = b.images * (p.last ? b.rows : b.channels);
    inner = p.last ? b.channels : b.columns;
    length = inner * (p.last ? b.columns : b.rows);
    step = p.last ? p.channels : p.width;
    team = 32;
    while (team < kThreads && count * team < kThreads) team *= 2;
  }

  // Calls visit(image, channel, row, offset) for each line of this thread's team, with the number of its first element.
  template <typename Visit>
  __device__ void each(Visit visit) const {
#pragma unroll 1
    for (int line = static_cast<int>(threadIdx.x) / team; line < count; line += kThreads / team) {
      const int others = p.last ? box.rows : box.channels, image = line / others, other = line - image * others;
      const int channel = p.last ? 0 : other, row = p.last ? other : 0;
      const long long n = box.image + image, c = box.channel + channel, y = box.row + row;
      visit(image, channel, row,
            p.last ? ((n * p.height + y) * p.width + box.column) * p.channels + c
                   : ((n * p.channels + c) * p.height + y) * p.width + box.column);
    }
  }

  __device__ int first() const { return static_cast<int>(threadIdx.x) % team; }
};

// Distances in a tile between neighbouring channels, rows and columns.
struct Steps {
  int channel, row, column;
};

// Copies a box to a tile; `place_of` says where in it an image begins.
template <typename T, typename PlaceOf>
__device__ void fill(const Params& p, const void* source, const Box& box, const Steps& steps, Accumulator<T>* tile,
                     PlaceOf place_of) {
  constexpr int kAtOnce = 4;  // loads under way
  const Lines lines(p, box);
  const Divider by_inner(lines.inner);
  const int outer_step = p.last ? steps.column : steps.row, inner_step = p.last ? steps.channel : steps.column;
  lines.each([&](int image, int channel, int row, long long offset) {
    const T* from = static_cast<const T*>(source) + offset;
    Accumulator<T>* to = tile + place_of(image) + channel * steps.channel + row * steps.row;
#pragma unroll 1
    for (int begin = lines.first(); begin < lines.length; begin += kAtOnce * lines.team) {
      T loaded[kAtOnce];
      int at[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int item = minimum(begin + k * lines.team, lines.length - 1), outer = by_inner(item);
        const int in = item - outer * lines.inner;
        loaded[k] = from[outer * lines.step + in];
        at[k] = outer * outer_step + in * inner_step;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (begin + k * lines.team < lines.length) to[at[k]] = widen(loaded[k]);
      }
    }
  });
}

template <typename A>
__device__ void clear(A* from, int count) {
  for (int i = 4 * static_cast<int>(threadIdx.x); i < count; i += 4 * kThreads)
    *reinterpret_cast<Vector<A, 4>*>(from + i) = Vector<A, 4>{};
}

}  // namespace smpconv::depthwise
