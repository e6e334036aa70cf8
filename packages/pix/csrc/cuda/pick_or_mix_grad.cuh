// Device code of the gradient: every element of grad_x is written once, p * grad at the chosen channel of a picked
// pixel, p * grad / zeta at all channels of a mixed one, plus what the layer adds to all pixels of a channel. The same
// pass adds up grad * y, of which the gates' gradient is made, where that is wanted.
#pragma once

#include "cuda/channel_sums.cuh"

namespace pix::maps {

// d loss / d p = sum(grad * y) / p: y says nothing of x where p is 0.
template <typename A>
__device__ A gate_gradient(A sum, A gate) {
  return gate == 0 ? A(0) : sum / gate;
}

// The sum of a piece, which is all there is if an image has one piece.
template <typename A>
__device__ void store_sum(const Params& p, int image, int piece, int output, A sum) {
  const long long at = partial_at(p, image, piece, output, p.outputs);
  if (p.pieces == 1) {
    static_cast<A*>(p.grad_gates)[at] = gate_gradient(sum, static_cast<const A*>(p.gates)[at]);
  } else {
    static_cast<A*>(p.partial)[at] = sum;
  }
}

template <int Count>
__device__ void load_choice(const Params& p, long long at, int (&which)[Count]) {
  if (p.wide) {
#pragma unroll
    for (int i = 0; i < Count; ++i) which[i] = static_cast<const int*>(p.choice)[at + i];
    return;
  }
  const Vector<unsigned char, Count> bytes = neighbours<unsigned char, Count>(p.choice, at);
#pragma unroll
  for (int i = 0; i < Count; ++i) which[i] = bytes.value[i];
}

// What a channel adds to a pixel, given x there if its sign matters.
template <typename T>
__device__ Accumulator<T> signed_shift(Accumulator<T> shift, T x) {
  const Accumulator<T> value = widen(x);
  return value > 0 ? shift : value < 0 ? -shift : shift * value;  // 0 for 0, NaN for NaN
}

// What Count neighbouring outputs read: grad, the choice, and y for the sums.
template <typename T, int Count>
struct Upstream {
  using A = Accumulator<T>;
  Vector<T, Count> grad, y;
  int which[Count];

  __device__ void load(const Params& p, long long at, bool picks) {
    grad = neighbours<T, Count>(p.grad, at);
    if (p.grad_gates) y = neighbours<T, Count>(p.y, at);
    if (picks) load_choice<Count>(p, at, which);
  }
  __device__ A product(int i) const { return widen(grad.value[i]) * widen(y.value[i]); }
};

// The gradient of one subset, at places as in pick_subset; returns the sum of grad * y.
template <typename T, int Width, int AtOnce>
__device__ Accumulator<T> scatter_subset(const Params& p, const Gate<T>& gate, int size, const Accumulator<T>* shift,
                                         long long target, long long target_step, long long stride, long long at,
                                         long long step, int count) {
  using A = Accumulator<T>;
  Upstream<T, Width> up[AtOnce];
#pragma unroll
  for (int i = 0; i < AtOnce; ++i) {
    if (i < count) up[i].load(p, at + i * step, gate.picks);
  }
  A share[AtOnce][Width], sum = 0;
#pragma unroll
  for (int i = 0; i < AtOnce; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (int w = 0; w < Width; ++w) {
      share[i][w] = gate(widen(up[i].grad.value[w]));
      if (p.grad_gates) sum += up[i].product(w);
    }
  }
  for (int k = 0; k < size; ++k) {
    const A added = shift ? shift[k] : A(0);
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      if (i >= count) continue;
      const long long to = target + i * target_step + k * stride;
      Vector<T, Width> x, out;
      if (p.x) x = neighbours<T, Width>(p.x, to);
#pragma unroll
      for (int w = 0; w < Width; ++w) {
        const A own = !gate.picks || up[i].which[w] == k ? share[i][w] : A(0);
        out.value[w] = narrow<T>(own + (p.x ? signed_shift(added, x.value[w]) : added));
      }
      neighbours<T, Width>(p.grad_x, to) = out;
    }
  }
  return sum;
}

// Where the numbers of an output's subset begin.
template <typename A>
__device__ const A* shift_of(const Params& p, long long channel) {
  return p.shift ? static_cast<const A*>(p.shift) + channel : nullptr;
}

// Places that a thread serves at once where it reads single elements.
template <int Width>
constexpr int kAtOnce = Width == 1 ? 2 : 1;

template <typename T, int Width>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) scatter_planes(const Params p) {
  using A = Accumulator<T>;
  const Team t(p, p.outputs, Width);
  const Gate<T> gate(p, t.image, t.channel);
  const int size = Gate<T>::size(p, t.channel), step = p.team * Width;
  const long long channel = static_cast<long long>(t.image) * p.channels + static_cast<long long>(t.channel) * p.zeta;
  const long long target = channel * p.pixels;
  const long long source = (static_cast<long long>(t.image) * p.outputs + t.channel) * p.pixels;
  A sum = 0;
  for (int i = t.first; i < t.last; i += kAtOnce<Width> * p.team) {
    const long long offset = static_cast<long long>(i) * Width;
    sum += scatter_subset<T, Width, kAtOnce<Width>>(p, gate, size, shift_of<A>(p, channel), target + offset, step,
                                                    p.pixels, source + offset, step, left(i, t.last, p.team));
  }
  if (!p.grad_gates) return;
  sum = team_sum(p, sum);
  if (t.works && threadIdx.x % p.team == 0) store_sum(p, t.image, t.piece, t.channel, sum);
}

// As pick_packed; it adds nothing up.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) scatter_packed(const Params p) {
  using A = Accumulator<T>;
  constexpr int kAtOnce = Packed::kAtOnce;
  const Packed t(p);
  for (int begin = threadIdx.x; begin < t.count; begin += kAtOnce * kThreads) {
    const int count = left(begin, t.count, kThreads);
    PackedPixel<T> pixel[kAtOnce];
    Upstream<T, 1> up[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int item = i < count ? begin + i * kThreads : begin;
      pixel[i] = PackedPixel<T>(p, t, item);
      up[i].load(p, t.begin + item, true);
    }
    for (int k = 0; k < minimum(p.zeta, p.channels); ++k) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (i >= count || k >= pixel[i].size) continue;
        const long long to = pixel[i].source + static_cast<long long>(k) * p.pixels;
        const A share = pixel[i].gate(widen(up[i].grad.value[0]));
        const A own = !pixel[i].gate.picks || up[i].which[0] == k ? share : A(0);
        const A added = p.shift ? static_cast<const A*>(p.shift)[pixel[i].channel + k] : A(0);
        static_cast<T*>(p.grad_x)[to] =
            narrow<T>(own + (p.x ? signed_shift(added, static_cast<const T*>(p.x)[to]) : added));
      }
    }
  }
}

template <typename T, int Zeta>  // 0: any
__global__ void __launch_bounds__(kThreads, kBlocks<T>) scatter_pixels(const Params p) {
  using A = Accumulator<T>;
  constexpr int kCount = kSubsets<T, Zeta>;
  constexpr int kPixels = kCount == 1 ? 4 : kCount == 8 ? 1 : 2;  // at once
  const Columns t(p, p.outputs / kCount);
  const int item = t.works ? t.item : 0;
  const Gates<T, kCount> gates(p, t.image, item);
  const long long channel = static_cast<long long>(item) * kCount * p.zeta;
  const A* shift = shift_of<A>(p, static_cast<long long>(t.image) * p.channels + channel);
  constexpr int kChannels = Zeta == 0 ? 1 : kCount * Zeta;
  A added[kChannels];  // of all pixels: read once
  bool any = false;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) added[i] = shift ? shift[i] : A(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) any |= Zeta != 1 && gates.picks[i];  // a subset of one has no choice
  const long long image = static_cast<long long>(t.image) * p.pixels;
  const long long step = static_cast<long long>(t.rows) * p.outputs,
                  x_step = static_cast<long long>(t.rows) * p.channels;
  A sum[kCount] = {};
  for (int q = t.first; q < t.last; q += kPixels * t.rows) {
    const long long target = (image + q) * p.channels + channel;
    const long long source = (image + q) * p.outputs + item * kCount;
    const int count = left(q, t.last, t.rows);
    if constexpr (Zeta == 0) {
      sum[0] += scatter_subset<T, 1, kPixels>(p, gates.first, Gate<T>::size(p, item), shift, target, x_step, 1, source,
                                              step, count);
    } else {
      Upstream<T, kCount> up[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (i < count) up[i].load(p, source + i * step, any);
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        if (i >= count) continue;
        const long long to = target + i * x_step;
        Vector<T, kChannels> x, out;
        if (p.x) x = neighbours<T, kChannels>(p.x, to);
#pragma unroll
        for (int s = 0; s < kCount; ++s) {
          const A share = widen(up[i].grad.value[s]) * gates.factor[s];
          if (p.grad_gates) sum[s] += up[i].product(s);
#pragma unroll
          for (int k = 0; k < Zeta; ++k) {
            const int c = s * Zeta + k;
            const A own = Zeta == 1 || !gates.picks[s] || up[i].which[s] == k ? share : A(0);
            out.value[c] = narrow<T>(own + (p.x ? signed_shift(added[c], x.value[c]) : added[c]));
          }
        }
        neighbours<T, kChannels>(p.grad_x, to) = out;
      }
    }
  }
  if (!p.grad_gates) return;
  column_sums<kCount>(p, t, sum, [&](int output, A total) { store_sum(p, t.image, t.piece, output, total); });
}

// Adds the pieces in order, a thread for each gate.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) finish(const Params p) {
  using A = Accumulator<T>;
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= p.batch * p.outputs) return;
  const int image = i / p.outputs, output = i - image * p.outputs;
  A sum = 0;
  for (int piece = 0; piece < p.pieces; ++piece)
    sum += static_cast<const A*>(p.partial)[partial_at(p, image, piece, output, p.outputs)];
  static_cast<A*>(p.grad_gates)[i] = gate_gradient(sum, static_cast<const A*>(p.gates)[i]);
}

}  // namespace pix::maps
