// The backward pass at one level: what flows to p, and what flows to x.
#pragma once

#include "cpu/pick_lanes.h"

namespace pix {
namespace {

template <class A>
inline Vector<A> sign(Vector<A> v) {
  const Vector<A> zero = {}, one = splat(A{1});
  return v > 0 ? one : (v < 0 ? -one : zero);
}
template <class A>
inline A sign(A v) {
  return static_cast<A>(v > 0) - static_cast<A>(v < 0);
}

// Where the gradient is larger than the caches near the processor, it is written past them: else every line of it would
// be read before it is written, which is most of what this pass moves.
constexpr int64_t kStreamedBytes = 1 << 22;

template <class A, class T>
inline bool streams(const Params& a, const void* out) {
  if (LEVEL_BYTES == 16 || sizeof(T) != sizeof(A)) return false;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % LEVEL_BYTES == 0;
  const bool even = a.channels_last ? a.channels % (a.zeta * kLanes<A>) == 0 : a.pixels % kLanes<A> == 0;
  return aligned && even && a.batch * a.channels * a.pixels >= kStreamedBytes / static_cast<int64_t>(sizeof(T));
}

template <class T, class V>
inline void put(T* out, V v, int64_t lanes, bool) {
  store_lanes(out, v, lanes);
}
#if LEVEL_BYTES == 64
inline void put(float* out, FloatVector v, int64_t lanes, bool stream) {
  stream ? _mm512_stream_ps(out, (__m512)v) : store_lanes(out, v, lanes);
}
inline void put(double* out, DoubleVector v, int64_t lanes, bool stream) {
  stream ? _mm512_stream_pd(out, (__m512d)v) : store_lanes(out, v, lanes);
}
#elif LEVEL_BYTES == 32
inline void put(float* out, FloatVector v, int64_t lanes, bool stream) {
  stream ? _mm256_stream_ps(out, (__m256)v) : store_lanes(out, v, lanes);
}
inline void put(double* out, DoubleVector v, int64_t lanes, bool stream) {
  stream ? _mm256_stream_pd(out, (__m256d)v) : store_lanes(out, v, lanes);
}
#endif

// What the context's gradient adds: nothing, a number per channel, or this number times the sign of x.
enum class Added { nothing, mean, l1 };

// One vector of pixels of the subset of output c.
template <int Z, Added added, bool picked, class T, class Index>
inline void scatter_lanes(const T* grad, const Index* choice, Sum<T> scale, const Sum<T>* shift, const T* x,
                          int64_t x_step, int64_t size, T* out, int64_t out_step, int64_t lanes, bool stream) {
  using A = Sum<T>;
  const Vector<A> flow = load_lanes(grad, lanes) * scale;
  const Chosen<A, Index> chosen(choice, picked ? lanes : 0);
#pragma GCC unroll 4
  for (int64_t i = 0; i < (Z > 0 ? Z : size); ++i) {
    Vector<A> v = flow;
    if constexpr (picked) v = chosen.only(flow, i);
    if constexpr (added == Added::mean) v += shift[i];
    if constexpr (added == Added::l1) v += shift[i] * sign<A>(load_lanes(x + i * x_step, lanes));
    put(out + i * out_step, v, lanes, stream);
  }
}

template <int Z, Added added, bool picked, class T, class Index>
void scatter_plane(const Params& a, const Backward& b, int64_t n, int64_t c, Sum<T> scale) {
  constexpr int64_t lanes = kLanes<Sum<T>>;
  const int64_t first = c * a.zeta, size = size_of(a, c), step = b.x_strides.step;
  const T* grad = at<T>(b.grad, b.grad_strides, n, c);
  const T* x = added == Added::l1 ? at<T>(b.x, b.x_strides, n, first) : grad;
  const Index* choice = static_cast<const Index*>(b.choice) + (n * a.outputs + c) * a.pixels;
  const Sum<T>* shift = added == Added::nothing ? &scale : static_cast<const Sum<T>*>(b.shift) + n * a.channels + first;
  T* out = static_cast<T*>(b.grad_x) + (n * a.channels + first) * a.pixels;
  const bool stream = streams<Sum<T>, T>(a, b.grad_x);
  for (int64_t q = 0; q < a.pixels; q += lanes) {
    int64_t left = a.pixels - q;
    if (left >= lanes) {
      left = lanes;
    } else if (a.pixels >= lanes) {  // the last vector ends with the plane and overlaps its neighbour
      left = lanes;
      q = a.pixels - lanes;
    }
    scatter_lanes<Z, added, picked>(grad + q, choice + q, scale, shift, x + q, step, size, out + q, a.pixels, left,
                                    stream);
  }
}

// One vector of subsets of Z channels that lie side by side.
template <int Z, Added added, class T, class Index>
inline void scatter_subsets(const T* grad, const Index* choice, const Sum<T>* p, Sum<T> tau, const Sum<T>* shift,
                            const T* x, T* out, bool stream) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const Vector<A> probability = load(p);
  const Integers<A> pick = probability < tau;
  const Vector<A> flow = load(grad) * (pick ? probability : probability * (A{1} / Z));
  const Chosen<A, Index> chosen(choice, lanes);
  Vector<A> parts[Z];
#pragma GCC unroll 8
  for (int i = 0; i < Z; ++i) parts[i] = pick ? chosen.only(flow, i) : flow;
  interleave<Z>(parts);
#pragma GCC unroll 8
  for (int i = 0; i < Z; ++i) {
    if constexpr (added == Added::mean) parts[i] += load(shift + i * lanes);
    if constexpr (added == Added::l1) parts[i] += load(shift + i * lanes) * sign<A>(load(x + i * lanes));
    put(out + i * lanes, parts[i], lanes, stream);
  }
}

template <Added added, class T, class Index>
inline void scatter_one(T grad, Index choice, Sum<T> p, float tau, int64_t divisor, const Sum<T>* shift, const T* x,
                        int64_t size, T* out) {
  using A = Sum<T>;
  const bool pick = picks(p, tau);
  const A flow = widen(grad) * (pick ? p : p / static_cast<A>(divisor));
  for (int64_t i = 0; i < size; ++i) {
    A v = !pick || static_cast<int64_t>(choice) == i ? flow : A{0};
    if constexpr (added == Added::mean) v += shift[i];
    if constexpr (added == Added::l1) v += shift[i] * sign<A>(widen(x[i]));
    narrow(v, out + i);
  }
}

template <int Z, Added added, class T, class Index>
void scatter_pixels(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t whole = a.channels / a.zeta;
  const A tau = static_cast<A>(a.tau), *p = static_cast<const A*>(b.p) + n * a.outputs;
  const A* shift = added == Added::nothing ? p : static_cast<const A*>(b.shift) + n * a.channels;
  const bool stream = streams<A, T>(a, b.grad_x);
  for (int64_t q = begin; q < end; ++q) {
    const T* grad = at<T>(b.grad, b.grad_strides, n, q);
    const T* x = added == Added::l1 ? at<T>(b.x, b.x_strides, n, q) : grad;
    const Index* choice = static_cast<const Index*>(b.choice) + (n * a.pixels + q) * a.outputs;
    T* out = static_cast<T*>(b.grad_x) + (n * a.pixels + q) * a.channels;
    int64_t c = 0;
    if constexpr (Z > 0) {
      while (c < whole && whole >= lanes) {
        c = c + lanes <= whole ? c : whole - lanes;
        scatter_subsets<Z, added>(grad + c, choice + c, p + c, tau, shift + c * Z, x + c * Z, out + c * Z, stream);
        c += lanes;
      }
    }
    for (; c < a.outputs; ++c) {
      const int64_t first = c * a.zeta;
      scatter_one<added>(grad[c], choice[c], p[c], a.tau, divisor_of(a, c), shift + first, x + first, size_of(a, c),
                         out + first);
    }
  }
}

template <int Z, Added added, class T, class Index>
void scatter_range(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end) {
  using A = Sum<T>;
  if (a.channels_last) return scatter_pixels<Z, added, T, Index>(a, b, n, begin, end);
  for (int64_t c = begin; c < end; ++c) {
    const A p = static_cast<const A*>(b.p)[n * a.outputs + c];
    constexpr int size = added == Added::l1 ? 0 : kUnrolled<Z>;
    const bool known = size_of(a, c) == size;
    if (picks(p, a.tau)) {
      known ? scatter_plane<size, added, true, T, Index>(a, b, n, c, p)
            : scatter_plane<0, added, true, T, Index>(a, b, n, c, p);
    } else {
      const A scale = p / static_cast<A>(divisor_of(a, c));
      known ? scatter_plane<size, added, false, T, Index>(a, b, n, c, scale)
            : scatter_plane<0, added, false, T, Index>(a, b, n, c, scale);
    }
  }
}

template <Added added, class T, class Index>
void scatter_added(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end) {
  if constexpr (sizeof(Index) == 1) {
    if (a.zeta == 1) return scatter_range<1, added, T, Index>(a, b, n, begin, end);
    if (a.zeta == 2) return scatter_range<2, added, T, Index>(a, b, n, begin, end);
    if (a.zeta == 4) return scatter_range<4, added, T, Index>(a, b, n, begin, end);
    if (a.zeta == 8) return scatter_range<8, added, T, Index>(a, b, n, begin, end);
  }
  scatter_range<0, added, T, Index>(a, b, n, begin, end);
}

template <class T, class Index>
void scatter_of(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end) {
  if (b.shift == nullptr) return scatter_added<Added::nothing, T, Index>(a, b, n, begin, end);
  if (b.x == nullptr) return scatter_added<Added::mean, T, Index>(a, b, n, begin, end);
  scatter_added<Added::l1, T, Index>(a, b, n, begin, end);
}

void scatter(const Params& a, const Backward& b, int64_t n, int64_t begin, int64_t end) {
  PIX_DISPATCH_CHOICE(a, scatter_of, a, b, n, begin, end);
}

// Before other threads may read what was written past the caches.
void fence() {
#if LEVEL_BYTES > 16
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace pix
