// GELU and its slope, on vectors of one level.
#pragma once

#include "common/vector.h"

namespace pathconv::bottleneck {
namespace {

using namespace leanconv::cpu;

// q(y) = erfc(y / sqrt(2)) / 2 for y >= 0 as 2^p(y) with a polynomial p, to 6e-8. Where p ends, q is 0 for float32.
constexpr float kEnd = 13;
constexpr float kLog[] = {-0.99999994f,    -1.1511091f,    -0.45917374f,    -0.052608695f,
                          0.0072329873f,   -0.0002647091f, -0.00013969326f, 3.358321e-05f,
                          -3.5306962e-06f, 1.8302714e-07f, -3.7716736e-09f};
// 2^f for f in [-1/2, 1/2], to 2e-9 of it
constexpr float kExp[] = {1.0f, 0.6931472f, 0.24022646f, 0.055503286f, 0.009618489f, 0.0013399936f, 0.00015345823f};
// exp(-y^2 / 2) = 2^(kSquare y^2); the density of the normal distribution at 0
constexpr double kSquare = -0.72134752044448170368, kDensity = 0.39894228040143267794;

// Several vectors at once, in turn: each is one long chain of sums.
template <int terms, int n>
inline void polynomial(const float (&coefficients)[terms], const FloatVector (&x)[n], FloatVector (&sums)[n]) {
  for (int i = 0; i < n; ++i) sums[i] = splat(coefficients[terms - 1]);
#pragma GCC unroll 16
  for (int k = terms - 2; k >= 0; --k)
#pragma GCC unroll 4
    for (int i = 0; i < n; ++i) sums[i] = sums[i] * x[i] + coefficients[k];
}

// 2^x for x in [-126, 126]
template <int n>
inline void power_of_two(FloatVector (&x)[n], FloatVector (&out)[n]) {
  BitsVector exponent[n];
  for (int i = 0; i < n; ++i) {
    const FloatVector rounded = x[i] + 12582912.0f;  // 1.5 * 2^23: the sum has no digits behind the point
    exponent[i] = (BitsVector)rounded << 23;
    x[i] -= rounded - 12582912.0f;
  }
  polynomial(kExp, x, out);
  for (int i = 0; i < n; ++i) out[i] = (FloatVector)((BitsVector)out[i] + exponent[i]);
}

// y becomes y * (1 + erf(y / sqrt(2))) / 2 = max(y, 0) - |y| * q(|y|), which loses no digits where y is negative.
// Its derivative is (1 + erf(y / sqrt(2))) / 2 + y * density(y).
template <bool with_slope, int n>
inline void gelu(FloatVector (&y)[n], FloatVector (&slope)[n]) {
  FloatVector size[n], power[n], q[n];
  for (int i = 0; i < n; ++i) {
    size[i] = (FloatVector)((BitsVector)y[i] & 0x7fffffff);
    size[i] = size[i] > kEnd ? splat(kEnd) : size[i];
  }
  polynomial(kLog, size, power);
  power_of_two(power, q);
  if (with_slope) {
    for (int i = 0; i < n; ++i) power[i] = size[i] * size[i] * static_cast<float>(kSquare);
    power_of_two(power, slope);
  }
  for (int i = 0; i < n; ++i) {
    const FloatVector positive = y[i] < 0 ? FloatVector{} : y[i];  // NaN stays
    if (with_slope) {
      const FloatVector bell = size[i] * slope[i] * static_cast<float>(kDensity);
      slope[i] = y[i] < 0 ? q[i] - bell : 1 - q[i] + bell;
    }
    y[i] = positive - size[i] * q[i];
  }
}

template <bool with_slope, int n>
inline void gelu(DoubleVector (&y)[n], DoubleVector (&slope)[n]) {
  for (int i = 0; i < n; ++i) {
    for (int64_t k = 0; k < kLanes<double>; ++k) {
      const double value = y[i][k], share = 0.5 * __builtin_erfc(-value * 0.70710678118654752440);
      if (with_slope) slope[i][k] = share + value * kDensity * __builtin_exp(-0.5 * value * value);
      y[i][k] = value * share;
    }
  }
}

}  // namespace
}  // namespace pathconv::bottleneck
