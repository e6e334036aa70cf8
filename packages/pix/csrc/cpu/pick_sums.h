// Sums over the pixels at one level: of x or |x| for the context, of grad * y for the gradient of p.
#pragma once

#include "cpu/pick_lanes.h"

namespace pix {
namespace {

template <class A>
inline Vector<A> size_of_each(Vector<A> v) {
  return v < 0 ? -v : v;
}

enum class Term { itself, size, product };

template <Term term, class T>
inline auto term_at(const T* x, const T* y, int64_t lanes) {
  const auto v = load_lanes(x, lanes);
  if constexpr (term == Term::size) return size_of_each<Sum<T>>(v);
  if constexpr (term == Term::product) return v * load_lanes(y, lanes);
  return v;
}

template <Term term, class T>
inline Sum<T> plane_sum(const T* x, const T* y, int64_t pixels) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> sums[4] = {};
  int64_t q = 0;
  for (; q + 4 * lanes <= pixels; q += 4 * lanes)
    for (int i = 0; i < 4; ++i) sums[i] += term_at<term>(x + q + i * lanes, y + q + i * lanes, lanes);
  for (; q + lanes <= pixels; q += lanes) sums[0] += term_at<term>(x + q, y + q, lanes);
  if (q < pixels) sums[1] += term_at<term>(x + q, y + q, pixels - q);
  return total<A>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// sums[c] += the terms of n neighbouring pixels, whose channels lie side by side
template <Term term, int n, class T>
inline void add_pixels(const T* x, int64_t x_step, const T* y, int64_t y_step, int64_t channels, Sum<T>* sums) {
  using A = Sum<T>;
  for (int64_t c = 0; c < channels; c += kLanes<A>) {
    const int64_t lanes = channels - c < kLanes<A> ? channels - c : kLanes<A>;
    Vector<A> v = term_at<term>(x + c, y + c, lanes);
#pragma GCC unroll 4
    for (int i = 1; i < n; ++i) v += term_at<term>(x + i * x_step + c, y + i * y_step + c, lanes);
    store_lanes(sums + c, load_lanes(sums + c, lanes) + v, lanes);
  }
}

template <Term term, class T>
void sum_pixels(const T* x, int64_t x_step, const T* y, int64_t y_step, int64_t pixels, int64_t channels, void* out) {
  auto* sums = static_cast<Sum<T>*>(out);
  for (int64_t c = 0; c < channels; ++c) sums[c] = 0;
  int64_t q = 0;
  for (; q + 4 <= pixels; q += 4) add_pixels<term, 4>(x + q * x_step, x_step, y + q * y_step, y_step, channels, sums);
  for (; q < pixels; ++q) add_pixels<term, 1>(x + q * x_step, x_step, y + q * y_step, y_step, channels, sums);
}

template <Term term, class T>
void sums_of_terms(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end, void* out) {
  const int64_t step = f.x_strides.step;
  const T* x = at<T>(f.x, f.x_strides, n, begin);
  if (a.channels_last) return sum_pixels<term>(x, step, x, step, end - begin, a.channels, out);
  for (int64_t c = begin; c < end; ++c, x += step)
    static_cast<Sum<T>*>(out)[c - begin] = plane_sum<term>(x, x, a.pixels);
}

template <class T>
void sums_of(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end, void* out) {
  a.l1 ? sums_of_terms<Term::size, T>(a, f, n, begin, end, out)
       : sums_of_terms<Term::itself, T>(a, f, n, begin, end, out);
}

template <class T>
void dots_of(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end, void* out) {
  const int64_t grad_step = b.grad_strides.step, y_step = b.y_strides.step;
  const T *grad = at<T>(b.grad, b.grad_strides, n, begin), *y = at<T>(b.y, b.y_strides, n, begin);
  if (a.channels_last) return sum_pixels<Term::product>(grad, grad_step, y, y_step, end - begin, a.outputs, out);
  for (int64_t c = begin; c < end; ++c, grad += grad_step, y += y_step)
    static_cast<Sum<T>*>(out)[c - begin] = plane_sum<Term::product>(grad, y, a.pixels);
}

void sums(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end, void* out) {
  PIX_DISPATCH(a, sums_of, a, f, n, begin, end, out);
}
void dots(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end, void* out) {
  PIX_DISPATCH(a, dots_of, a, b, n, begin, end, out);
}

}  // namespace
}  // namespace pix
