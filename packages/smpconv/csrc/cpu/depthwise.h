// Depthwise convolution and its gradients at one level.
#pragma once

#include "cpu/correlate.h"
#include "cpu/depthwise_job.h"

namespace smpconv {
namespace {

// f(T{}) with the type of the images' numbers.
template <class F>
inline void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    default: return f(float{});
  }
}

// An odd number of cache lines, so that rows spread over the sets of the cache.
inline int64_t pitch(int64_t pixels) { return pixels | 1; }

// As many rows as leave room in the first-level cache.
inline int64_t rows_in_cache(int64_t row) {
  constexpr int64_t kBytes = 24 << 10;
  return max(1, min(8, kBytes / (row * LEVEL_BYTES)));
}

int64_t conv_scratch(const Params& p, int64_t rows) {
  return (rows + p.kernel_h - 1) * pitch(p.width) + rows * pitch(Cover(p.width).sums);
}

int64_t sum_row(const Params& p) { return Cover(p.kernel_w).sums; }

int64_t grad_scratch(const Params& p, int64_t rows, int64_t taps) {
  return rows * pitch(p.width) + (rows + taps - 1) * pitch(p.width) + taps * sum_row(p);
}

template <class T>
void pack_rows(const Params& p, const void* from, const Strides& s, int64_t channels, int64_t begin, int64_t end,
               Sum<T>* out) {
  for (int64_t row = begin; row < end; ++row, out += pitch(p.width) * kLanes<Sum<T>>)
    pack_pixels(static_cast<const T*>(from) + row * s.h, s.w, s.c, channels, p.width, out);
}

template <class T>
void conv_of(const Params& p, const ConvTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t reach_h = p.kernel_h / 2, reach_w = p.kernel_w / 2;
  const int64_t first = max(0, task.begin - reach_h), last = min(p.height, task.end + reach_h);
  const Cover cover(p.width);
  const int64_t in_row = pitch(p.width) * lanes, out_row = pitch(cover.sums) * lanes;
  A* in = static_cast<A*>(task.scratch);
  A* out = in + (last - first) * in_row;
  pack_rows<T>(p, task.in, task.in_strides, task.channels, first, last, in);
  const Vector<A> start = task.bias == nullptr ? Vector<A>{} : load(static_cast<const A*>(task.bias));
  for (int64_t y = task.begin; y < task.end; ++y)
    for (int64_t q = 0; q < cover.sums; ++q) store(out + (y - task.begin) * out_row + q * lanes, start);
  const int64_t step = rows_in_cache(p.width + p.kernel_w), weight_row = p.kernel_w * lanes;
  for (int64_t k0 = 0; k0 < p.kernel_h; k0 += step) {
    const int64_t k1 = min(p.kernel_h, k0 + step);
    for (int64_t y = task.begin; y < task.end; ++y) {
      const int64_t begin = max(k0, reach_h - y), end = min(k1, p.height + reach_h - y);
      if (begin >= end) continue;
      const Rows<A> rows = {in + (y + begin - reach_h - first) * in_row,
                            in_row,
                            static_cast<const A*>(task.weight) + begin * weight_row,
                            weight_row,
                            end - begin,
                            p.width,
                            p.kernel_w};
      correlate(rows, -reach_w, cover, out + (y - task.begin) * out_row);
    }
  }
  for (int64_t y = task.begin; y < task.end; ++y, out += out_row)
    unpack_pixels(out, task.out_strides.w, task.out_strides.c, task.channels, p.width,
                  static_cast<T*>(task.out) + y * task.out_strides.h);
}

// The gradient of a weight is a correlation too: a row of grad takes the place of the weights.
template <class T>
void grad_of(const Params& p, const GradTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t reach_h = p.kernel_h / 2, reach_w = p.kernel_w / 2, row = pitch(p.width) * lanes;
  const int64_t first = min(p.height, max(0, task.begin + task.tap_begin - reach_h));
  const int64_t last = max(first, min(p.height, task.end - 1 + task.tap_end - reach_h));
  const int64_t taps = task.tap_end - task.tap_begin;
  const Cover cover(p.kernel_w);
  A* grad = static_cast<A*>(task.scratch);
  A* in = grad + (task.end - task.begin) * row;
  A* sums = in + (last - first) * row;
  pack_rows<T>(p, task.grad, task.grad_strides, task.channels, task.begin, task.end, grad);
  pack_rows<T>(p, task.in, task.in_strides, task.channels, first, last, in);
  fill_zero(sums, taps * cover.sums);  // of this sample, so that long sums are sums of sums
  const int64_t step = rows_in_cache(2 * p.width);
  for (int64_t y0 = task.begin; y0 < task.end; y0 += step) {
    const int64_t y1 = min(task.end, y0 + step);
    for (int64_t k = task.tap_begin; k < task.tap_end; ++k) {
      const int64_t begin = max(y0, reach_h - k), end = min(y1, p.height + reach_h - k);
      if (begin >= end) continue;
      const Rows<A> rows = {in + (begin + k - reach_h - first) * row,
                            row,
                            grad + (begin - task.begin) * row,
                            row,
                            end - begin,
                            p.width,
                            p.width};
      correlate(rows, -reach_w, cover, sums + (k - task.tap_begin) * cover.sums * lanes);
    }
  }
  A* out = static_cast<A*>(task.sums);
  for (int64_t i = 0; i < taps * cover.sums * lanes; i += lanes) store(out + i, load(out + i) + load(sums + i));
  if (task.bias_sums == nullptr) return;
  Vector<A> total = {};
  for (int64_t y = task.begin; y < task.end; ++y, grad += row) {
    Vector<A> parts[4] = {};
    for (int64_t q = 0; q < p.width; ++q) parts[q % 4] += load(grad + q * lanes);
    total += (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
  A* bias = static_cast<A*>(task.bias_sums);
  store(bias, load(bias) + total);
}

void conv(const Params& p, const ConvTask& task) {
  with_type(p.dtype, [&](auto zero) { conv_of<decltype(zero)>(p, task); });
}
void grad(const Params& p, const GradTask& task) {
  with_type(p.dtype, [&](auto zero) { grad_of<decltype(zero)>(p, task); });
}

void pack_weight(const Params& p, const void* weight, int64_t channels, bool turned, void* to) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = Sum<T>;
    const int64_t taps = p.kernel_h * p.kernel_w;
    A* out = static_cast<A*>(to);
    // A single tap has channels side by side, and any step from tap to tap.
    pack_pixels(static_cast<const T*>(weight), taps == 1 ? channels : 1, taps, channels, taps, out);
    for (int64_t i = 0, j = taps - 1; turned && i < j; ++i, --j) {
      const Vector<A> kept = load(out + i * kLanes<A>);
      store(out + i * kLanes<A>, load(out + j * kLanes<A>));
      store(out + j * kLanes<A>, kept);
    }
  });
}

void pack_bias(const Params& p, const void* bias, int64_t channels, void* out) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    pack_pixels(static_cast<const T*>(bias), 1, 1, channels, 1, static_cast<Sum<T>*>(out));
  });
}

void unpack_sums(const Params& p, const void* sums, int64_t tap_begin, int64_t tap_end, int64_t channels, void* to) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = Sum<T>;
    const A* from = static_cast<const A*>(sums);
    T* out = static_cast<T*>(to) + tap_begin * p.kernel_w;
    for (int64_t k = tap_begin; k < tap_end; ++k, from += sum_row(p) * kLanes<A>, out += p.kernel_w)
      unpack_pixels(from, channels, p.kernel_h * p.kernel_w, channels, p.kernel_w, out);
  });
}

void unpack_bias(const Params& p, const void* sums, int64_t channels, void* out) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    unpack_pixels(static_cast<const Sum<T>*>(sums), channels, 1, channels, 1, static_cast<T*>(out));
  });
}

}  // namespace
}  // namespace smpconv

#define SMPCONV_DEPTHWISE_LEVEL                                                                                  \
  {LEVEL_BYTES,        smpconv::conv_scratch, smpconv::grad_scratch, smpconv::sum_row,     smpconv::pack_weight, \
   smpconv::pack_bias, smpconv::conv,         smpconv::grad,         smpconv::unpack_sums, smpconv::unpack_bias}
