// Layer norm and GELU of one row after the other, at one level. A row stays in the first cache between its three
// visits: the mean, the variance about it, the result.
#pragma once

#include "common/vector.h"
#include "cpu/norm_gelu_kernel.h"

namespace pathconv::norm_gelu {
namespace {

// q(y) = erfc(y / sqrt(2)) / 2 for y >= 0 as 2^p(y) with a polynomial p, to 6e-8. Where p ends, q is 0 for float32.
constexpr float kEnd = 13;
constexpr float kLog[] = {-0.99999994f,    -1.1511091f,    -0.45917374f,    -0.052608695f,
                          0.0072329873f,   -0.0002647091f, -0.00013969326f, 3.358321e-05f,
                          -3.5306962e-06f, 1.8302714e-07f, -3.7716736e-09f};
// 2^f for f in [-1/2, 1/2], to 2e-9 of it
constexpr float kExp[] = {1.0f, 0.6931472f, 0.24022646f, 0.055503286f, 0.009618489f, 0.0013399936f, 0.00015345823f};

// Several vectors at once, in turn: each is one long chain of sums.
template <int terms, int n>
inline void polynomial(const float (&coefficients)[terms], const FloatVector (&x)[n], FloatVector (&sums)[n]) {
  for (int i = 0; i < n; ++i) sums[i] = splat(coefficients[terms - 1]);
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k)
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) sums[i] = sums[i] * x[i] + coefficients[k];
}

// y * (1 + erf(y / sqrt(2))) / 2 = max(y, 0) - |y| * q(|y|), which loses no digits where y is negative.
template <int n>
inline void gelu(FloatVector (&y)[n]) {
  FloatVector size[n], power[n], q[n];
  BitsVector exponent[n];
  for (int i = 0; i < n; ++i) {
    size[i] = (FloatVector)((BitsVector)y[i] & 0x7fffffff);
    size[i] = size[i] > kEnd ? splat(kEnd) : size[i];
  }
  polynomial(kLog, size, power);
  for (int i = 0; i < n; ++i) {
    const FloatVector rounded = power[i] + 12582912.0f;  // 1.5 * 2^23: the sum has no digits behind the point
    exponent[i] = (BitsVector)rounded << 23;
    power[i] -= rounded - 12582912.0f;
  }
  polynomial(kExp, power, q);
  for (int i = 0; i < n; ++i) {
    const FloatVector positive = y[i] < 0 ? FloatVector{} : y[i];  // NaN stays
    y[i] = positive - size[i] * (FloatVector)((BitsVector)q[i] + exponent[i]);
  }
}

template <int n>
inline void gelu(DoubleVector (&y)[n]) {
  for (int i = 0; i < n; ++i)
    for (int64_t k = 0; k < kLanes<double>; ++k) y[i][k] *= 0.5 * (1 + __builtin_erf(y[i][k] * 0.70710678118654752440));
}

inline float root(float value) { return __builtin_sqrtf(value); }
inline double root(double value) { return __builtin_sqrt(value); }

template <class A>
inline A total(const Vector<A> (&sums)[4]) {
  const Vector<A> sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  A lanes[kLanes<A>];
  store(lanes, sum);
  for (int64_t n = kLanes<A> / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  return lanes[0];
}

template <class T>
struct Row {
  using A = typename AccumulatorOf<T>::type;
  using V = Vector<A>;
  static constexpr int64_t kStep = kLanes<A>;

  const T *x, *shift;
  int64_t channels;

  inline V at(int64_t c) const { return shift == nullptr ? load(x + c) : load(x + c) + load(shift + c); }
  inline V end(int64_t c) const {  // the lanes that are left, and zeros
    const V v = load_part(x + c, channels - c);
    return shift == nullptr ? v : v + load_part(shift + c, channels - c);
  }

  // v - mean, squared or not. (No lambda: GCC would compile it for the oldest processor.)
  template <bool squared>
  static inline V term(V v, A mean) {
    return squared ? (v - mean) * (v - mean) : v - mean;
  }

  // Their sum over the row.
  template <bool squared>
  inline A sum(A mean) const {
    V sums[4] = {};
    int64_t c = 0;
    for (; c + 4 * kStep <= channels; c += 4 * kStep)
      for (int i = 0; i < 4; ++i) sums[i] += term<squared>(at(c + i * kStep), mean);
    for (; c + kStep <= channels; c += kStep) sums[0] += term<squared>(at(c), mean);
    if (c < channels) {
      static constexpr Ones ones{};
      sums[1] += term<squared>(end(c), mean) * load_part(ones.of, channels - c);
    }
    return total<A>(sums);
  }

 private:
  struct Ones {
    A of[kStep];
    constexpr Ones() : of() {
      for (int64_t i = 0; i < kStep; ++i) of[i] = 1;
    }
  };
};

template <int n, class T, class A>
inline void vectors(const Row<T>& row, int64_t c, A mean, A scale, const T* weight, const T* bias, T* out) {
  constexpr int64_t step = kLanes<A>;
  Vector<A> y[n];
  for (int i = 0; i < n; ++i)
    y[i] = (row.at(c + i * step) - mean) * scale * load(weight + c + i * step) + load(bias + c + i * step);
  gelu(y);
  for (int i = 0; i < n; ++i) store(out + c + i * step, y[i]);
}

template <class T>
void rows_of(const Params& a, int64_t begin, int64_t end) {
  using A = typename AccumulatorOf<T>::type;
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  for (int64_t r = begin; r < end; ++r) {
    const Row<T> row = {static_cast<const T*>(a.x) + r * a.channels, static_cast<const T*>(a.shift), a.channels};
    T* out = static_cast<T*>(a.out) + r * a.channels;
    const A mean = row.template sum<false>(0) / static_cast<A>(a.channels);
    const A variance = row.template sum<true>(mean) / static_cast<A>(a.channels);
    const A scale = 1 / root(variance + static_cast<A>(a.eps));
    int64_t c = 0;
    for (; c + 4 * kLanes<A> <= a.channels; c += 4 * kLanes<A>) vectors<4>(row, c, mean, scale, weight, bias, out);
    for (; c + kLanes<A> <= a.channels; c += kLanes<A>) vectors<1>(row, c, mean, scale, weight, bias, out);
    if (const int64_t n = a.channels - c; n > 0) {
      Vector<A> y[1] = {(row.end(c) - mean) * scale * load_part(weight + c, n) + load_part(bias + c, n)};
      gelu(y);
      store_part(out + c, y[0], n);
    }
  }
}

void rows(const Params& a, int64_t begin, int64_t end) {
  switch (a.dtype) {
    case DType::float32: return rows_of<float>(a, begin, end);
    case DType::float64: return rows_of<double>(a, begin, end);
    case DType::float16: return rows_of<Half>(a, begin, end);
    case DType::bfloat16: return rows_of<BFloat16>(a, begin, end);
  }
}

}  // namespace
}  // namespace pathconv::norm_gelu
