// The blend at one level: p = sigmoid(z weight^T + bias), and its gradients. Every number is summed in one order,
// whatever the tile it is computed in.
#pragma once

#include "cpu/pick_lanes.h"

namespace pix {
namespace {

inline float exponential(float v) { return __builtin_expf(v); }
inline double exponential(double v) { return __builtin_exp(v); }

// p of `samples` samples and `rows` output channels.
template <int rows, int samples, class T>
inline void blend_tile(const Params& a, const Blend& b, int64_t n, int64_t c) {
  using A = Sum<T>;
  const T* weight = static_cast<const T*>(b.weight) + c * a.channels;
  const A* z = static_cast<const A*>(b.z) + n * a.channels;
  Vector<A> sums[rows][samples] = {};
  for (int64_t k = 0; k < a.channels; k += kLanes<A>) {
    const int64_t lanes = a.channels - k < kLanes<A> ? a.channels - k : kLanes<A>;
    Vector<A> inputs[samples];
#pragma GCC unroll 4
    for (int s = 0; s < samples; ++s) inputs[s] = load_lanes(z + s * a.channels + k, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const Vector<A> w = load_lanes(weight + r * a.channels + k, lanes);
#pragma GCC unroll 4
      for (int s = 0; s < samples; ++s) sums[r][s] = multiply_add(w, inputs[s], sums[r][s]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const A start = b.bias == nullptr ? A{0} : static_cast<A>(widen(static_cast<const T*>(b.bias)[c + r]));
    for (int s = 0; s < samples; ++s)
      static_cast<A*>(b.p)[(n + s) * a.outputs + c + r] = 1 / (1 + exponential(-(total<A>(sums[r][s]) + start)));
  }
}

constexpr int kRows = 4;
constexpr int kSamples = LEVEL_BYTES == 64 ? 4 : 2;  // as many sums as registers hold

template <int rows, class T>
inline void blend_rows(const Params& a, const Blend& b, int64_t n0, int64_t n1, int64_t c) {
  int64_t n = n0;
  for (; n + kSamples <= n1; n += kSamples) blend_tile<rows, kSamples, T>(a, b, n, c);
  for (; n < n1; ++n) blend_tile<rows, 1, T>(a, b, n, c);
}

template <class T>
void blend_of(const Params& a, const Blend& b, int64_t n0, int64_t n1, int64_t begin, int64_t end) {
  int64_t c = begin;
  for (; c + kRows <= end; c += kRows) blend_rows<kRows, T>(a, b, n0, n1, c);
  for (; c < end; ++c) blend_rows<1, T>(a, b, n0, n1, c);
}

// d_z[begin, end) += `rows` rows of the weight times their d_logit
template <int rows, class T>
inline void spread_rows(const Params& a, const Blend& b, int64_t n, int64_t c, int64_t begin, int64_t end) {
  using A = Sum<T>;
  const T* weight = static_cast<const T*>(b.weight) + c * a.channels;
  const A* d_logit = static_cast<const A*>(b.d_logit) + n * a.outputs + c;
  A* d_z = static_cast<A*>(b.d_z) + n * a.channels;
  for (int64_t k = begin; k < end; k += kLanes<A>) {
    const int64_t lanes = end - k < kLanes<A> ? end - k : kLanes<A>;
    Vector<A> sum = load_lanes(d_z + k, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
      sum = multiply_add(load_lanes(weight + r * a.channels + k, lanes), splat(d_logit[r]), sum);
    store_lanes(d_z + k, sum, lanes);
  }
}

template <class T>
void spread_of(const Params& a, const Blend& b, int64_t n0, int64_t n1, int64_t begin, int64_t end) {
  using A = Sum<T>;
  for (int64_t n = n0; n < n1; ++n)
    for (int64_t k = begin; k < end; ++k) static_cast<A*>(b.d_z)[n * a.channels + k] = 0;
  int64_t c = 0;
  for (; c + kRows <= a.outputs; c += kRows)
    for (int64_t n = n0; n < n1; ++n) spread_rows<kRows, T>(a, b, n, c, begin, end);
  for (; c < a.outputs; ++c)
    for (int64_t n = n0; n < n1; ++n) spread_rows<1, T>(a, b, n, c, begin, end);
}

template <int rows, class T>
inline void outer_rows(const Params& a, const Blend& b, int64_t c) {
  using A = Sum<T>;
  const A *d_logit = static_cast<const A*>(b.d_logit) + c, *z = static_cast<const A*>(b.z);
  T* out = static_cast<T*>(b.grad_weight) + c * a.channels;
  for (int64_t k = 0; k < a.channels; k += kLanes<A>) {
    const int64_t lanes = a.channels - k < kLanes<A> ? a.channels - k : kLanes<A>;
    Vector<A> sums[rows] = {};
    for (int64_t n = 0; n < a.batch; ++n) {
      const Vector<A> input = load_lanes(z + n * a.channels + k, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) sums[r] = multiply_add(input, splat(d_logit[n * a.outputs + r]), sums[r]);
    }
    for (int r = 0; r < rows; ++r) store_lanes(out + r * a.channels + k, sums[r], lanes);
  }
  for (int r = 0; r < rows; ++r) {
    A sum = 0;
    for (int64_t n = 0; n < a.batch; ++n) sum += d_logit[n * a.outputs + r];
    narrow(sum, static_cast<T*>(b.grad_bias) + c + r);
  }
}

template <class T>
void outer_of(const Params& a, const Blend& b, int64_t begin, int64_t end) {
  int64_t c = begin;
  for (; c + kRows <= end; c += kRows) outer_rows<kRows, T>(a, b, c);
  for (; c < end; ++c) outer_rows<1, T>(a, b, c);
}

void blend(const Params& a, const Blend& b, int64_t n0, int64_t n1, int64_t begin, int64_t end) {
  PIX_DISPATCH(a, blend_of, a, b, n0, n1, begin, end);
}
void spread(const Params& a, const Blend& b, int64_t n0, int64_t n1, int64_t begin, int64_t end) {
  PIX_DISPATCH(a, spread_of, a, b, n0, n1, begin, end);
}
void outer(const Params& a, const Blend& b, int64_t begin, int64_t end) { PIX_DISPATCH(a, outer_of, a, b, begin, end); }

}  // namespace
}  // namespace pix
