// Rasterizing points and its gradients at one level.
#pragma once

#include "cpu/pack.h"
#include "cpu/rasterize_job.h"

namespace smpconv {
namespace {

inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// Tiles of as many taps as a vector has lanes, turned one at a time: most are touched by no point.
int64_t rasterize_scratch(const RasterizeParams& p) {
  constexpr int64_t most = LEVEL_BYTES / sizeof(float);
  return round_up(p.height * p.width, most) + round_up(p.points, most) * (p.dims + 2);
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

template <class T>
void rasterize_of(const RasterizeParams& p, const RasterizeTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t taps = p.height * p.width;
  const Touches& touches = *task.touches;
  const A* phi = static_cast<const A*>(touches.phi);
  A* image = static_cast<A*>(task.scratch);
  A* weight = image + round_up(taps, lanes) * lanes;
  pack_numbers(static_cast<const T*>(task.weight), p.points, task.channels, p.points, weight);
  for (int64_t t = 0; t < taps; t += lanes)
    if (touches.live[t / lanes])
      for (int64_t i = 0; i < lanes; ++i) store(image + (t + i) * lanes, Vector<A>{});
  for (int64_t i = 0; i < p.points; ++i) {
    const Vector<A> w = load(weight + i * lanes);
    for (int64_t j = touches.starts[i]; j < touches.starts[i + 1]; ++j) {
      A* at = image + touches.taps[j] * lanes;
      store(at, load(at) + w * phi[j]);
    }
  }
  T* out = static_cast<T*>(task.out);
  for (int64_t t = 0; t < taps; t += lanes) {
    const int64_t n = min(lanes, taps - t);
    if (touches.live[t / lanes]) {
      unpack_numbers(image + t * lanes, taps, task.channels, n, out + t);
    } else {
      for (int64_t c = 0; c < task.channels; ++c) store_up_to(out + c * taps + t, Vector<A>{}, n);
    }
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
    turn<A>(block);
    for (int64_t j = 1; j < lanes; ++j) block[0] += block[j];
    store_up_to(out + i, block[0], n);
  }
}

template <int dims, class T>
void rasterize_backward_of(const RasterizeParams& p, const RasterizeTask& task) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t taps = p.height * p.width, points = round_up(p.points, lanes);
  const Touches& touches = *task.touches;
  const A* phi = static_cast<const A*>(touches.phi);
  const A* pull[dims + 1];
  for (int q = 0; q <= dims; ++q) pull[q] = static_cast<const A*>(touches.pull[q]);
  A* image = static_cast<A*>(task.scratch);
  A* weight = image + round_up(taps, lanes) * lanes;
  A* pulls = weight + points * lanes;
  const T* grad = static_cast<const T*>(task.grad);
  for (int64_t t = 0; t < taps; t += lanes)
    if (touches.live[t / lanes]) pack_numbers(grad + t, taps, task.channels, min(lanes, taps - t), image + t * lanes);
  pack_numbers(static_cast<const T*>(task.weight), p.points, task.channels, p.points, weight);
  for (int64_t i = 0; i < p.points; ++i) {
    Vector<A> to_weight = {}, sums[dims + 1] = {};
    for (int64_t j = touches.starts[i]; j < touches.starts[i + 1]; ++j) {
      const Vector<A> g = load(image + touches.taps[j] * lanes);
      to_weight += g * phi[j];
#pragma GCC unroll 4
      for (int q = 0; q <= dims; ++q) sums[q] += g * pull[q][j];
    }
    const Vector<A> w = load(weight + i * lanes);
#pragma GCC unroll 4
    for (int q = 0; q <= dims; ++q) store(pulls + (q * points + i) * lanes, w * sums[q]);
    store(weight + i * lanes, to_weight);
  }
  unpack_numbers(weight, p.points, task.channels, p.points, static_cast<T*>(task.out));
  for (int q = 0; q <= dims; ++q)
    sum_lanes(pulls + q * points * lanes, p.points, static_cast<A*>(task.pulls) + q * p.points);
}

void rasterize_forward(const RasterizeParams& p, const RasterizeTask& task) {
  switch (p.dtype) {
    case DType::float64: return rasterize_of<double>(p, task);
    case DType::float16: return rasterize_of<Half>(p, task);
    case DType::bfloat16: return rasterize_of<BFloat16>(p, task);
    default: return rasterize_of<float>(p, task);
  }
}

template <class T>
inline void rasterize_backward_in(const RasterizeParams& p, const RasterizeTask& task) {
  p.dims == 1 ? rasterize_backward_of<1, T>(p, task) : rasterize_backward_of<2, T>(p, task);
}

void rasterize_backward(const RasterizeParams& p, const RasterizeTask& task) {
  switch (p.dtype) {
    case DType::float64: return rasterize_backward_in<double>(p, task);
    case DType::float16: return rasterize_backward_in<Half>(p, task);
    case DType::bfloat16: return rasterize_backward_in<BFloat16>(p, task);
    default: return rasterize_backward_in<float>(p, task);
  }
}

}  // namespace
}  // namespace smpconv

#define SMPCONV_RASTERIZE_LEVEL {smpconv::rasterize_scratch, smpconv::rasterize_forward, smpconv::rasterize_backward}
