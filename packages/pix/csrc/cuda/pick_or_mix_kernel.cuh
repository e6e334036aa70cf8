// Device code of the forward pass: the largest of a subset of channels, or their mean, times a gate. It compiles under
// nvcc, NVRTC (CuPy) and tests/emulator.
//
// Every element of x is read once. Channels first, a team of threads serves one plane of y, so that all of them decide
// alike, except where planes are small and odd, such as 7 x 7. Channels last, a thread serves the same channels at
// several pixels; where subsets of 1, 2, 4 or 8 channels fill 16 bytes it reads whole subsets at once.
#pragma once

#include "cuda/walk.cuh"

namespace pix::maps {

// The decision of an output channel and what its maximum or sum is scaled by: p, or p / zeta.
template <typename T>
struct Gate {
  using A = Accumulator<T>;
  A p, divisor, factor;
  bool picks, exact;

  Gate() = default;
  __device__ Gate(const Params& params, int image, int output) {
    p = static_cast<const A*>(params.gates)[static_cast<long long>(image) * params.outputs + output];
    picks = p < static_cast<A>(params.tau);  // not so if p is NaN
    const int share = params.count_short ? size(params, output) : params.zeta;
    divisor = picks ? A(1) : static_cast<A>(share);
    exact = picks || (share & (share - 1)) == 0;  // then a multiplication rounds as the division does
    factor = exact ? p / divisor : A(0);
  }
  __device__ A operator()(A value) const { return exact ? value * factor : value * p / divisor; }

  // Channels of the subset.
  __device__ static int size(const Params& params, int output) {
    return minimum(params.zeta, params.channels - output * params.zeta);
  }
};

// The authors' maximum starts here in every dtype, so that it is never NaN.
constexpr float kLowest = -3.402823466e+38f;

// What a thread knows of the subsets that it reads: Count outputs.
template <typename T, int Count>
struct Best {
  using A = Accumulator<T>;
  A value[Count];
  int which[Count];

  __device__ void start(bool picks) {
#pragma unroll
    for (int i = 0; i < Count; ++i) start(i, picks);
  }
  __device__ void start(int i, bool picks) {
    value[i] = picks ? static_cast<A>(kLowest) : A(0);
    which[i] = 0;
  }
  __device__ void add(int i, int k, T element, bool picks) {
    const A wide = widen(element);
    if (!picks) {
      value[i] += wide;
    } else if (wide > value[i]) {
      value[i] = wide;
      which[i] = k;
    }
  }
};

template <typename T, int Count>
__device__ Vector<T, Count>& neighbours(void* data, long long at) {
  return *reinterpret_cast<Vector<T, Count>*>(static_cast<T*>(data) + at);
}
template <typename T, int Count>
__device__ const Vector<T, Count>& neighbours(const void* data, long long at) {
  return *reinterpret_cast<const Vector<T, Count>*>(static_cast<const T*>(data) + at);
}

template <int Count>
__device__ void store_choice(const Params& p, long long at, const int (&which)[Count]) {
  if (p.wide) {
#pragma unroll
    for (int i = 0; i < Count; ++i) static_cast<int*>(p.choice)[at + i] = which[i];
    return;
  }
  Vector<unsigned char, Count> bytes;
#pragma unroll
  for (int i = 0; i < Count; ++i) bytes.value[i] = static_cast<unsigned char>(which[i]);
  neighbours<unsigned char, Count>(p.choice, at) = bytes;
}

// Writes Count outputs, scaled by gate(number, value).
template <typename T, int Count, typename Scale>
__device__ void store(const Params& p, long long at, const Best<T, Count>& best, Scale gate) {
  Vector<T, Count> y;
#pragma unroll
  for (int i = 0; i < Count; ++i) y.value[i] = narrow<T>(gate(i, best.value[i]));
  neighbours<T, Count>(p.y, at) = y;
  if (p.choice) store_choice(p, at, best.which);
}

// One output channel at AtOnce places of Width neighbours: place i of y is at + i * step, that of the subset's first
// channel source + i * source_step, and the next channel's is `stride` away. Only `count` places exist. So many
// channels are read at once.
template <typename T, int Width, int AtOnce, int Channels>
__device__ void pick_subset(const Params& p, const Gate<T>& gate, int size, long long source, long long source_step,
                            long long stride, long long at, long long step, int count) {
  Best<T, Width> best[AtOnce];
#pragma unroll
  for (int i = 0; i < AtOnce; ++i) best[i].start(gate.picks);
  for (int first = 0; first < size; first += Channels) {
    Vector<T, Width> loaded[AtOnce][Channels];
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
#pragma unroll
      for (int k = 0; k < Channels; ++k) {
        if (i < count && first + k < size)
          loaded[i][k] = neighbours<T, Width>(p.x, source + i * source_step + (first + k) * stride);
      }
    }
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
#pragma unroll
      for (int k = 0; k < Channels; ++k) {
        if (i >= count || first + k >= size) continue;
#pragma unroll
        for (int w = 0; w < Width; ++w) best[i].add(w, first + k, loaded[i][k].value[w], gate.picks);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < AtOnce; ++i) {
    if (i < count) store<T, Width>(p, at + i * step, best[i], [&](int, Accumulator<T> value) { return gate(value); });
  }
}

// How many of the items from `item` on in steps of `step` lie below `last`.
__device__ inline int left(int item, int last, int step) { return (last - item + step - 1) / step; }

// One plane of y, of which a thread has several reads of x under way, the more places at once the fewer channels.
template <typename T, int Width, int Channels>
__device__ void pick_plane(const Params& p, const Team& t) {
  constexpr int kReads = Width == 1 ? 8 : Width == 8 ? 2 : 4, kAtOnce = Channels < kReads ? kReads / Channels : 1;
  const Gate<T> gate(p, t.image, t.channel);
  const int size = Gate<T>::size(p, t.channel), step = p.team * Width;
  const long long channel = static_cast<long long>(t.image) * p.channels + static_cast<long long>(t.channel) * p.zeta;
  const long long source = channel * p.pixels;
  const long long target = (static_cast<long long>(t.image) * p.outputs + t.channel) * p.pixels;
  for (int i = t.first; i < t.last; i += kAtOnce * p.team) {
    const long long offset = static_cast<long long>(i) * Width;
    pick_subset<T, Width, kAtOnce, Channels>(p, gate, size, source + offset, step, p.pixels, target + offset, step,
                                             left(i, t.last, p.team));
  }
}

template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) pick_planes(const Params p) {
  const Team t(p, p.outputs, Width);
  if (!t.works) return;
  if (p.zeta == 1) return pick_plane<T, Width, 1>(p, t);
  if (p.zeta == 2) return pick_plane<T, Width, 2>(p, t);
  pick_plane<T, Width, 4>(p, t);
}

// Planes so small, and of so odd a size, that a block takes `span` of them at once: threads run along the pixels of all
// of them, which follow each other in memory.
struct Packed {
  static constexpr int kAtOnce = 4;  // pixels of a thread
  int count;                         // pixels of the block
  long long begin;                   // of y
  leanconv::Divider by_pixels;

  __device__ explicit Packed(const Params& p) : by_pixels(p.pixels) {
    const int first = static_cast<int>(blockIdx.x) * p.span;
    count = minimum(p.span, p.batch * p.outputs - first) * p.pixels;
    begin = static_cast<long long>(first) * p.pixels;
  }
};

// One pixel of them: where it lies in the first channel of its subset, and that one among all channels.
template <typename T>
struct PackedPixel {
  Gate<T> gate;
  int size;
  long long channel, source;

  PackedPixel() = default;
  __device__ PackedPixel(const Params& p, const Packed& t, int item) {
    const int number = t.by_pixels(item), plane = static_cast<int>(blockIdx.x) * p.span + number;
    const int image = plane / p.outputs, output = plane - image * p.outputs;
    gate = Gate<T>(p, image, output);
    size = Gate<T>::size(p, output);
    channel = static_cast<long long>(image) * p.channels + static_cast<long long>(output) * p.zeta;
    source = channel * p.pixels + item - number * p.pixels;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) pick_packed(const Params p) {
  constexpr int kAtOnce = Packed::kAtOnce, kChannels = 4;  // read at once
  const Packed t(p);
  for (int begin = threadIdx.x; begin < t.count; begin += kAtOnce * kThreads) {
    const int count = left(begin, t.count, kThreads);
    PackedPixel<T> pixel[kAtOnce];
    Best<T, 1> best[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      pixel[i] = PackedPixel<T>(p, t, i < count ? begin + i * kThreads : begin);
      best[i].start(pixel[i].gate.picks);
    }
    for (int first = 0; first < minimum(p.zeta, p.channels); first += kChannels) {
      T loaded[kAtOnce][kChannels];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          if (i < count && first + k < pixel[i].size)
            loaded[i][k] = static_cast<const T*>(p.x)[pixel[i].source + static_cast<long long>(first + k) * p.pixels];
        }
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          if (i < count && first + k < pixel[i].size) best[i].add(0, first + k, loaded[i][k], pixel[i].gate.picks);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (i < count)
        store<T, 1>(p, t.begin + begin + i * kThreads, best[i],
                    [&](int, Accumulator<T> value) { return pixel[i].gate(value); });
    }
  }
}

// Output channels whose subsets fill a read.
template <typename T, int Zeta>
constexpr int kSubsets = Zeta * sizeof(T) < 16 && Zeta > 0 ? 16 / (Zeta * sizeof(T)) : 1;

// The gates of an item. Subsets of a fixed size are whole ones of 1, 2, 4 or 8, so that their factors are exact.
template <typename T, int Count>
struct Gates {
  Gate<T> first;
  Accumulator<T> factor[Count];
  bool picks[Count];

  __device__ Gates(const Params& p, int image, int item) : first(p, image, item * Count) {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      const Gate<T> gate(p, image, item * Count + i);
      factor[i] = gate.factor;
      picks[i] = gate.picks;
    }
  }
};

template <typename T, int Zeta>  // 0: any
__global__ void __launch_bounds__(kThreads, kBlocks<T>) pick_pixels(const Params p) {
  constexpr int kCount = kSubsets<T, Zeta>;
  const Columns t(p, p.outputs / kCount);
  if (!t.works) return;
  const Gates<T, kCount> gates(p, t.image, t.item);
  const long long image = static_cast<long long>(t.image) * p.pixels;
  const long long step = static_cast<long long>(t.rows) * p.channels,
                  y_step = static_cast<long long>(t.rows) * p.outputs;
  constexpr int kPixels = Zeta == 0 || kCount >= 4 ? 2 : 4;  // at once
  for (int q = t.first; q < t.last; q += kPixels * t.rows) {
    const long long source = (image + q) * p.channels + static_cast<long long>(t.item) * kCount * p.zeta;
    const long long target = (image + q) * p.outputs + t.item * kCount;
    const int count = left(q, t.last, t.rows);
    if constexpr (Zeta == 0) {
      const int size = Gate<T>::size(p, t.item);
      pick_subset<T, 1, kPixels, 4>(p, gates.first, size, source, step, 1, target, y_step, count);
    } else {
      Vector<T, kCount * Zeta> loaded[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (i < count) loaded[i] = neighbours<T, kCount * Zeta>(p.x, source + i * step);
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (i >= count) continue;
        Best<T, kCount> best;
#pragma unroll
        for (int s = 0; s < kCount; ++s) {
          best.start(s, gates.picks[s]);
#pragma unroll
          for (int k = 0; k < Zeta; ++k) best.add(s, k, loaded[i].value[s * Zeta + k], gates.picks[s]);
        }
        store<T, kCount>(p, target + i * y_step, best,
                         [&](int s, Accumulator<T> value) { return value * gates.factor[s]; });
      }
    }
  }
}

}  // namespace pix::maps
