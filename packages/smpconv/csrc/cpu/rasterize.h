// Rasterizing points and its gradients at one level.
#pragma once

#include "cpu/touches.h"

namespace smpconv {
namespace {

inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// Vectors of channels whose gradients are read together: what they say of a point's place is added up once.
constexpr int64_t kPulled = 2;

int64_t rasterize_scratch(const RasterizeParams& p) {
  constexpr int64_t most = LEVEL_BYTES / sizeof(float);
  const int64_t taps = round_up(p.height * p.width + kStep, most), points = round_up(p.points, most);
  return kPulled * (taps + points) + (p.dims + 1) * points;
}

// Steps of one number from point to point, or from tap to tap, and `count` between channels.
template <class T>
inline void pack_numbers(const T* in, int64_t count, int64_t channels, int64_t n, Sum<T>* out) {
  pack_pixels(in, count == 1 ? channels : 1, count, channels, n, out);
}
template <class T>
inline void unpack_numbers(const Sum<T>* in, int64_t count, int64_t channels, int64_t n, T* out) {
  unpack_pixels(in, count == 1 ? channels : 1, count, channels, n, out);
}

// Asks for the lines of `rows` rows, `step` apart, that are about to be written: stores that wait for their lines, and
// straddle two of them, hold up all others.
template <class T>
inline void prefetch_rows(const T* at, int64_t step, int64_t rows) {
  for (int64_t k = 0; k < rows; ++k) __builtin_prefetch(at + k * step, 1);
}

// image[t] *= share[t] for n taps.
template <class A>
inline void share_out(A* image, const A* share, int64_t n) {
  for (int64_t t = 0; t < n; ++t) store(image + t * kLanes<A>, load(image + t * kLanes<A>) * share[t]);
}

// image[tap] += w * phi for all points and their taps.
template <class A>
inline void add_tents(const RasterizeParams& p, const Touches& touches, const A* weight, A* image) {
  constexpr int64_t lanes = kLanes<A>;
  const A* phi = static_cast<const A*>(touches.phi);
  const int64_t* starts = touches.starts;
  const int32_t* taps = touches.taps;
  for (int64_t i = 0; i < p.points; ++i) {
    const Vector<A> w = load(weight + i * lanes);
    for (int64_t j = starts[i]; j < starts[i + 1]; j += kStep) {
#pragma GCC unroll 8
      for (int64_t k = 0; k < kStep; ++k) {
        A* at = image + taps[j + k] * lanes;
        store(at, load(at) + w * phi[j + k]);
      }
    }
  }
}

// The same as a product with a dense matrix, which starts from zero.
template <class A>
inline void multiply_dense(const RasterizeParams& p, const A* dense, const A* weight, A* image) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t t = 0; t < p.height * p.width; t += kStep) {
    Vector<A> sums[kStep] = {};
    for (int64_t i = 0; i < p.points; ++i, dense += kStep) {
      const Vector<A> w = load(weight + i * lanes);
#pragma GCC unroll 8
      for (int64_t k = 0; k < kStep; ++k) sums[k] += w * dense[k];
    }
    for (int64_t k = 0; k < kStep; ++k) store(image + (t + k) * lanes, sums[k]);
  }
}

// Tiles of as many taps as a vector has lanes are turned one at a time: most are touched by no point.
template <class T>
void rasterize_of(const RasterizeParams& p, const RasterizeTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t taps = p.height * p.width;
  const Touches& touches = *task.touches;
  A* image = static_cast<A*>(task.scratch);
  A* weight = image + round_up(taps + kStep, lanes) * lanes;
  for (int64_t c = 0; c < task.channels; c += lanes) {
    const int64_t channels = min(lanes, task.channels - c);
    pack_numbers(static_cast<const T*>(task.weight) + c * p.points, p.points, channels, p.points, weight);
    if (touches.dense != nullptr) {
      multiply_dense(p, static_cast<const A*>(touches.dense), weight, image);
    } else {
      for (int64_t t = 0; t < taps + kStep; t += lanes)
        if (touches.live[t / lanes]) fill_zero(image + t * lanes, lanes);
      add_tents(p, touches, weight, image);
    }
    T* out = static_cast<T*>(task.out) + c * taps;
    for (int64_t t = 0; t < taps; t += lanes) {
      const int64_t n = min(lanes, taps - t);
      prefetch_rows(out + min(t + 2 * lanes, taps - 1), taps, channels);
      if (touches.live[t / lanes]) {
        if (p.average) share_out(image + t * lanes, static_cast<const A*>(touches.share) + t, n);
        unpack_numbers(image + t * lanes, taps, channels, n, out + t);
      } else {
        for (int64_t k = 0; k < channels; ++k) store_up_to(out + k * taps + t, Vector<A>{}, n);
      }
    }
  }
}

// What `vectors` vectors of channels, `image_step` and `weight_step` numbers apart, say of every point: the sums over
// its taps of grad * phi become the gradient of the weight, in its place, and the sums of weight * grad, times each
// sign and times the distance over the radius, 1 - phi, are added to `pulls`.
template <int dims, int vectors, class A>
inline void pull_points(const RasterizeParams& p, const Touches& touches, const A* image, int64_t image_step, A* weight,
                        int64_t weight_step, A* pulls) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t step = round_up(p.points, lanes) * lanes;
  const A *phi = static_cast<const A*>(touches.phi), *column_sign = static_cast<const A*>(touches.column_sign),
          *row_sign = static_cast<const A*>(touches.row_sign);
  const int64_t* starts = touches.starts;
  const int32_t* taps = touches.taps;
  for (int64_t i = 0; i < p.points; ++i) {
    Vector<A> w[vectors], to_weight[vectors] = {}, away = {}, column = {}, row = {};
    for (int v = 0; v < vectors; ++v) w[v] = load(weight + i * lanes + v * weight_step);
    for (int64_t j = starts[i]; j < starts[i + 1]; j += kStep) {
#pragma GCC unroll 8
      for (int64_t k = 0; k < kStep; ++k) {
        const A* from = image + taps[j + k] * lanes;
        Vector<A> sum = {};
        for (int v = 0; v < vectors; ++v) {
          const Vector<A> g = load(from + v * image_step);
          to_weight[v] += g * phi[j + k];
          sum = v == 0 ? g * w[v] : sum + g * w[v];
        }
        away += sum;
        column += sum * column_sign[j + k];
        if (dims == 2) row += sum * row_sign[j + k];
      }
    }
    for (int v = 0; v < vectors; ++v) {
      store(weight + i * lanes + v * weight_step, to_weight[v]);
      away -= w[v] * to_weight[v];
    }
    A* pull = pulls + i * lanes;
    store(pull, load(pull) + column);
    if (dims == 2) store(pull + step, load(pull + step) + row);
    store(pull + dims * step, load(pull + dims * step) + away);
  }
}

// Sums over the lanes of each of `count` vectors.
template <class A>
inline void sum_lanes(const A* in, int64_t count, A* out) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t n = min(lanes, count - i);
    Vector<A> block[lanes];
    for (int64_t j = 0; j < lanes; ++j) block[j] = j < n ? load(in + (i + j) * lanes) : Vector<A>{};
#pragma GCC unroll 4
    for (int64_t left = lanes / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < left; ++j) {
        const Vector<A> a = block[2 * j], b = block[2 * j + 1];
        block[j] = rearrange<Order::even>(a, b) + rearrange<Order::odd>(a, b);
      }
    }
    store_up_to(out + i, block[0], n);
  }
}

template <int dims, class T>
void rasterize_backward_of(const RasterizeParams& p, const RasterizeTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t taps = p.height * p.width, points = round_up(p.points, lanes);
  const int64_t image_step = round_up(taps + kStep, lanes) * lanes, weight_step = points * lanes;
  const Touches& touches = *task.touches;
  A* images = static_cast<A*>(task.scratch);
  A* weights = images + kPulled * image_step;
  A* pulls = weights + kPulled * weight_step;
  fill_zero(pulls, (dims + 1) * points);
  for (int64_t c = 0; c < task.channels; c += kPulled * lanes) {
    const int64_t vectors = min(kPulled, (task.channels - c + lanes - 1) / lanes);
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t first = c + v * lanes, channels = min(lanes, task.channels - first);
      const T* grad = static_cast<const T*>(task.grad) + first * taps;
      A* image = images + v * image_step;
      for (int64_t t = 0; t < taps; t += lanes) {
        if (!touches.live[t / lanes]) continue;
        const int64_t n = min(lanes, taps - t);
        pack_numbers(grad + t, taps, channels, n, image + t * lanes);
        if (p.average) share_out(image + t * lanes, static_cast<const A*>(touches.share) + t, n);
      }
      fill_zero(image + taps * lanes, kStep);
      pack_numbers(static_cast<const T*>(task.weight) + first * p.points, p.points, channels, p.points,
                   weights + v * weight_step);
    }
    vectors == kPulled ? pull_points<dims, kPulled>(p, touches, images, image_step, weights, weight_step, pulls)
                       : pull_points<dims, 1>(p, touches, images, image_step, weights, weight_step, pulls);
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t first = c + v * lanes, channels = min(lanes, task.channels - first);
      unpack_numbers(weights + v * weight_step, p.points, channels, p.points,
                     static_cast<T*>(task.out) + first * p.points);
    }
  }
  for (int q = 0; q <= dims; ++q)
    sum_lanes(pulls + q * weight_step, p.points, static_cast<A*>(task.pulls) + q * p.points);
}

// f(zero) with a zero of the dtype.
template <class F>
inline auto with_zero(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    default: return f(float{});
  }
}

bool rasterize_find(const RasterizeParams& p, const void* coords, const void* radius, bool backward, Touches& out) {
  return with_zero(p.dtype, [&](auto zero) { return find_of<decltype(zero)>(p, coords, radius, backward, out); });
}

void rasterize_forward(const RasterizeParams& p, const RasterizeTask& task) {
  with_zero(p.dtype, [&](auto zero) { rasterize_of<decltype(zero)>(p, task); });
}

void rasterize_backward(const RasterizeParams& p, const RasterizeTask& task) {
  with_zero(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    p.dims == 1 ? rasterize_backward_of<1, T>(p, task) : rasterize_backward_of<2, T>(p, task);
  });
}

}  // namespace
}  // namespace smpconv

#define SMPCONV_RASTERIZE_LEVEL \
  {smpconv::rasterize_scratch, smpconv::rasterize_find, smpconv::rasterize_forward, smpconv::rasterize_backward}
