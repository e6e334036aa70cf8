// The kernels of `bottleneck_kernel.h` for one level. Included once by each bottleneck_level_*.cpp, after its target
// pragma. A row stays in the first cache between the visits that its mean, its variance and its result take.
#pragma once

#include "cpu/bottleneck_gelu.h"
#include "cpu/bottleneck_kernel.h"

namespace pathconv::bottleneck {
namespace {

inline float root(float value) { return __builtin_sqrtf(value); }
inline double root(double value) { return __builtin_sqrt(value); }

template <class A>
inline A total(Vector<A> sum) {
  A lanes[kLanes<A>];
  store(lanes, sum);
  for (int64_t n = kLanes<A> / 2; n > 0; n /= 2)
    for (int64_t i = 0; i < n; ++i) lanes[i] += lanes[i + n];
  return lanes[0];
}

// Numbers of a row: a vector of them, or, at its end, as many as live.
template <bool whole, class A>
inline Vector<A> read(const A* p, int64_t live) {
  return whole ? load(p) : load_up_to(p, live);
}
template <bool whole, class A>
inline void write(A* p, Vector<A> v, int64_t live) {
  whole ? store(p, v) : store_up_to(p, v, live);
}

// One row, with `shift` added where there is one.
template <class A>
struct Row {
  using V = Vector<A>;
  static constexpr int64_t kStep = kLanes<A>;

  const A *x, *shift;
  int64_t channels;
  A mean, scale;

  Row(const A* x, const A* shift, int64_t channels, double eps) : x(x), shift(shift), channels(channels), mean(0) {
    mean = sum<false>() / static_cast<A>(channels);
    scale = 1 / root(sum<true>() / static_cast<A>(channels) + static_cast<A>(eps));
  }

  // Beyond the end of the row, zeros are read.
  template <bool whole>
  inline V at(int64_t c) const {
    const V v = read<whole>(x + c, channels - c);
    return shift == nullptr ? v : v + read<whole>(shift + c, channels - c);
  }
  template <bool whole>
  inline V normalized(int64_t c) const {
    return (at<whole>(c) - mean) * scale;
  }

 private:
  // Of all x - mean, or their squares. (No lambda: GCC would compile it for the oldest processor.)
  template <bool squared>
  inline A sum() const {
    V sums[4] = {};
    int64_t c = 0;
    for (; c + 4 * kStep <= channels; c += 4 * kStep)
      for (int i = 0; i < 4; ++i) add<squared>(sums[i], at<true>(c + i * kStep) - mean);
    for (int i = 0; c < channels; c += kStep, ++i) add<squared>(sums[i], keep_lanes(at<false>(c) - mean, live(c)));
    return total<A>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  template <bool squared>
  static inline void add(V& sum, V v) {
    sum += squared ? v * v : v;
  }
  inline int64_t live(int64_t c) const { return channels - c < kStep ? channels - c : kStep; }
};

template <class A>
void normalize_of(const Normalize& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const Row<A> row(static_cast<const A*>(a.x) + r * a.channels, nullptr, a.channels, a.eps);
    A* out = static_cast<A*>(a.out) + r * a.channels;
    for (int64_t c = 0; c < a.channels; c += kLanes<A>)
      store_up_to(out + c, row.template normalized<false>(c), a.channels - c);
    if (a.scale != nullptr) static_cast<A*>(a.scale)[r] = row.scale;
  }
}

template <class A>
void normalize_grad_of(const NormalizeGrad& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const A* normalized = static_cast<const A*>(a.normalized) + r * a.channels;
    A* grad = static_cast<A*>(a.grad) + r * a.channels;
    Vector<A> sum{}, product{};
    for (int64_t c = 0; c < a.channels; c += kLanes<A>) {
      const Vector<A> g = load_up_to(grad + c, a.channels - c);
      sum += g;
      product += g * load_up_to(normalized + c, a.channels - c);
    }
    const A count = static_cast<A>(a.channels), mean = total<A>(sum) / count, slope = total<A>(product) / count;
    const A scale = static_cast<const A*>(a.scale)[r];
    for (int64_t c = 0; c < a.channels; c += kLanes<A>) {
      const int64_t live = a.channels - c;
      const Vector<A> g = load_up_to(grad + c, live), n = load_up_to(normalized + c, live);
      store_up_to(grad + c, scale * (g - mean - n * slope), live);
    }
  }
}

// Where there are several vectors, these are whole.
template <int n, class A>
inline void activate_vectors(const Row<A>& row, const A* weight, const A* bias, int64_t c, A* out) {
  constexpr int64_t step = kLanes<A>;
  Vector<A> y[n], unused[n];
  for (int i = 0; i < n; ++i) {
    const int64_t at = c + i * step, live = row.channels - at;
    y[i] = row.template normalized<(n > 1)>(at) * read<(n > 1)>(weight + at, live) + read<(n > 1)>(bias + at, live);
  }
  gelu<false>(y, unused);
  for (int i = 0; i < n; ++i) write<(n > 1)>(out + c + i * step, y[i], row.channels - c - i * step);
}

template <class A>
void activate_of(const Activate& a) {
  const A *const weight = static_cast<const A*>(a.weight), *const bias = static_cast<const A*>(a.bias);
  for (int64_t r = 0; r < a.rows; ++r) {
    const Row<A> row(static_cast<const A*>(a.x) + r * a.channels, static_cast<const A*>(a.shift), a.channels, a.eps);
    A* out = static_cast<A*>(a.out) + r * a.channels;
    int64_t c = 0;
    for (; c + 4 * kLanes<A> <= row.channels; c += 4 * kLanes<A>) activate_vectors<4>(row, weight, bias, c, out);
    for (; c < row.channels; c += kLanes<A>) activate_vectors<1>(row, weight, bias, c, out);
  }
}

template <bool whole, class A>
inline void grow(void* sums, int64_t c, int64_t live, Vector<A> by) {
  A* place = static_cast<A*>(sums) + c;
  write<whole>(place, read<whole>(place, live) + by, live);
}

// Of one row: its results, and the gradients of what was normalized, with their sums. Dead lanes hold zeros, as their
// gradients are zeros.
template <int n, class A>
inline void activate_grad_vectors(const ActivateGrad& a, const Row<A>& row, int64_t c, A* out, A* grad, Vector<A>& sum,
                                  Vector<A>& product) {
  constexpr int64_t step = kLanes<A>;
  constexpr bool whole = n > 1;
  const A *const weight = static_cast<const A*>(a.weight), *const bias = static_cast<const A*>(a.bias);
  Vector<A> normalized[n], y[n], slope[n];
  for (int i = 0; i < n; ++i) {
    const int64_t at = c + i * step, live = row.channels - at;
    normalized[i] = row.template normalized<whole>(at);
    y[i] = normalized[i] * read<whole>(weight + at, live) + read<whole>(bias + at, live);
  }
  gelu<true>(y, slope);
  for (int i = 0; i < n; ++i) {
    const int64_t at = c + i * step, live = row.channels - at;
    const Vector<A> d = read<whole>(grad + at, live) * slope[i];
    write<whole>(out + at, y[i], live);
    grow<whole, A>(a.grad_weight, at, live, d * normalized[i]);
    grow<whole, A>(a.grad_bias, at, live, d);
    const Vector<A> g = d * read<whole>(weight + at, live);
    write<whole>(grad + at, g, live);
    sum += g;
    product += g * normalized[i];
  }
}

template <class A>
void activate_grad_of(const ActivateGrad& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const Row<A> row(static_cast<const A*>(a.x) + r * a.channels, static_cast<const A*>(a.shift), a.channels, a.eps);
    A *out = static_cast<A*>(a.out) + r * a.channels, *grad = static_cast<A*>(a.grad) + r * a.channels;
    Vector<A> sum{}, product{};
    int64_t c = 0;
    for (; c + 2 * kLanes<A> <= a.channels; c += 2 * kLanes<A>)
      activate_grad_vectors<2>(a, row, c, out, grad, sum, product);
    for (; c < a.channels; c += kLanes<A>) activate_grad_vectors<1>(a, row, c, out, grad, sum, product);
    const A count = static_cast<A>(a.channels), mean = total<A>(sum) / count, slope = total<A>(product) / count;
    for (c = 0; c < a.channels; c += kLanes<A>) {
      const int64_t live = a.channels - c;
      const Vector<A> g = row.scale * (load_up_to(grad + c, live) - mean - row.template normalized<false>(c) * slope);
      store_up_to(grad + c, g, live);
      grow<false, A>(a.grad_shift, c, live, g);
    }
  }
}

template <class A>
inline A factor_of(const void* factor, int64_t row, int64_t length) {
  return factor == nullptr ? A{1} : static_cast<const A*>(factor)[row / length];
}

template <class A>
void residual_of(const Residual& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const A factor = factor_of<A>(a.factor, a.first + r, a.length);
    const A *x = static_cast<const A*>(a.x) + r * a.channels, *end = static_cast<const A*>(a.end);
    const A* z = static_cast<const A*>(a.z) + r * a.channels;
    A* out = static_cast<A*>(a.out) + r * a.channels;
    for (int64_t c = 0; c < a.channels; c += kLanes<A>) {
      const int64_t live = a.channels - c;
      const Vector<A> change = load_up_to(z + c, live) + load_up_to(end + c, live);
      store_up_to(out + c, load_up_to(x + c, live) + factor * change, live);
    }
  }
}

template <class A>
void residual_grad_of(const ResidualGrad& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const A factor = factor_of<A>(a.factor, a.first + r, a.length);
    const A* grad = static_cast<const A*>(a.grad) + r * a.channels;
    A* out = static_cast<A*>(a.out) + r * a.channels;
    for (int64_t c = 0; c < a.channels; c += kLanes<A>) {
      const int64_t live = a.channels - c;
      const Vector<A> g = factor * load_up_to(grad + c, live);
      if (a.factor != nullptr) store_up_to(out + c, g, live);
      grow<false, A>(a.grad_end, c, live, g);
    }
  }
}

void normalize(bool wide, const Normalize& a) { wide ? normalize_of<double>(a) : normalize_of<float>(a); }
void normalize_grad(bool wide, const NormalizeGrad& a) {
  wide ? normalize_grad_of<double>(a) : normalize_grad_of<float>(a);
}
void activate(bool wide, const Activate& a) { wide ? activate_of<double>(a) : activate_of<float>(a); }
void activate_grad(bool wide, const ActivateGrad& a) {
  wide ? activate_grad_of<double>(a) : activate_grad_of<float>(a);
}
void residual(bool wide, const Residual& a) { wide ? residual_of<double>(a) : residual_of<float>(a); }
void residual_grad(bool wide, const ResidualGrad& a) {
  wide ? residual_grad_of<double>(a) : residual_grad_of<float>(a);
}

constexpr Level kLevel = {normalize, normalize_grad, activate, activate_grad, residual, residual_grad};

}  // namespace
}  // namespace pathconv::bottleneck
