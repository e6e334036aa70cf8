// The forward pass at one level: y = p * max where p < tau, p * sum / zeta elsewhere, and the choices.
#pragma once

#include "cpu/pick_lanes.h"

namespace pix {
namespace {

// One vector of `lanes` pixels of the planes x + i * step, i < size. Z is the size where it is known, else 0.
template <int Z, bool keep, class T, class Index>
inline void pick_lanes(const T* x, int64_t step, int64_t size, Sum<T> p, T* y, Index* choice, int64_t lanes) {
  Largest<Sum<T>, Index> largest;
#pragma GCC unroll 4
  for (int64_t i = 0; i < (Z > 0 ? Z : size); ++i) largest.take(load_lanes(x + i * step, lanes), i);
  store_lanes(y, largest.value * p, lanes);
  if constexpr (keep) largest.store_choice(choice, lanes);
}

template <int Z, class T>
inline void mix_lanes(const T* x, int64_t step, int64_t size, Sum<T> scale, T* y, int64_t lanes) {
  auto sum = load_lanes(x, lanes);
#pragma GCC unroll 4
  for (int64_t i = 1; i < (Z > 0 ? Z : size); ++i) sum += load_lanes(x + i * step, lanes);
  store_lanes(y, sum * scale, lanes);
}

// The last vector ends with the plane and overlaps its neighbour, unless the plane is shorter than one.
template <int Z, bool keep, class T, class Index>
void pick_plane(const T* x, int64_t step, int64_t size, int64_t pixels, Sum<T> p, T* y, Index* choice) {
  constexpr int64_t lanes = kLanes<Sum<T>>;
  int64_t q = 0;
  for (; q + lanes <= pixels; q += lanes) pick_lanes<Z, keep>(x + q, step, size, p, y + q, choice + q, lanes);
  if (q == pixels) return;
  if (pixels < lanes) return pick_lanes<Z, keep>(x, step, size, p, y, choice, pixels);
  q = pixels - lanes;
  pick_lanes<Z, keep>(x + q, step, size, p, y + q, choice + q, lanes);
}

template <int Z, class T>
void mix_plane(const T* x, int64_t step, int64_t size, int64_t pixels, Sum<T> scale, T* y) {
  constexpr int64_t lanes = kLanes<Sum<T>>;
  int64_t q = 0;
  for (; q + lanes <= pixels; q += lanes) mix_lanes<Z>(x + q, step, size, scale, y + q, lanes);
  if (q == pixels) return;
  if (pixels < lanes) return mix_lanes<Z>(x, step, size, scale, y, pixels);
  q = pixels - lanes;
  mix_lanes<Z>(x + q, step, size, scale, y + q, lanes);
}

template <int Z, class T, class Index>
inline void plane(const Params& a, const Forward& f, int64_t n, int64_t c) {
  using A = Sum<T>;
  const int64_t out = (n * a.outputs + c) * a.pixels, size = size_of(a, c), step = f.x_strides.step;
  const T* x = at<T>(f.x, f.x_strides, n, c * a.zeta);
  const A p = static_cast<const A*>(f.p)[n * a.outputs + c];
  T* y = static_cast<T*>(f.y) + out;
  Index* choice = static_cast<Index*>(f.choice);
  if (!picks(p, a.tau)) {
    mix_plane<Z>(x, step, size, a.pixels, p / static_cast<A>(divisor_of(a, c)), y);
    if (choice != nullptr) __builtin_memset(choice + out, 0, a.pixels * sizeof(Index));
  } else if (choice != nullptr) {
    pick_plane<Z, true>(x, step, size, a.pixels, p, y, choice + out);
  } else {
    pick_plane<Z, false>(x, step, size, a.pixels, p, y, choice);
  }
}

// One output of channels that lie side by side.
template <bool keep, class T, class Index>
inline void pick_one(const T* x, int64_t size, int64_t divisor, Sum<T> p, float tau, T* y, Index* choice) {
  using A = Sum<T>;
  A largest = -FLT_MAX, sum = widen(x[0]);
  Index at = 0;
  for (int64_t i = 0; i < size; ++i) {
    const A v = widen(x[i]);
    if (i > 0) sum += v;
    if (v > largest) {
      largest = v;
      at = static_cast<Index>(i);
    }
  }
  const bool pick = picks(p, tau);
  narrow(pick ? largest * p : sum * (p / static_cast<A>(divisor)), y);
  if constexpr (keep) *choice = pick ? at : Index{0};
}

// A vector of subsets of Z channels that lie side by side.
template <int Z, bool keep, class T, class Index>
inline void pick_subsets(const T* x, const Sum<T>* p, Sum<T> tau, T* y, Index* choice) {
  using A = Sum<T>;
  Vector<A> parts[Z];
  for (int i = 0; i < Z; ++i) parts[i] = load(x + i * kLanes<A>);
  deinterleave<Z>(parts);
  Largest<A, Index> largest;
  Vector<A> sum = parts[0];
#pragma GCC unroll 8
  for (int i = 0; i < Z; ++i) {
    largest.take(parts[i], i);
    if (i > 0) sum += parts[i];
  }
  const Vector<A> probability = load(p);
  const Integers<A> pick = probability < tau;
  store(y, (pick ? largest.value : sum) * (pick ? probability : probability * (A{1} / Z)));
  if constexpr (keep) {
    largest.keep(pick);
    largest.store_choice(choice, kLanes<A>);
  }
}

template <int Z, bool keep, class T, class Index>
void pick_pixels(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end) {
  using A = Sum<T>;
  constexpr int64_t lanes = kLanes<A>;
  const int64_t whole = a.channels / a.zeta;  // subsets that are not short
  const A tau = static_cast<A>(a.tau), *p = static_cast<const A*>(f.p) + n * a.outputs;
  for (int64_t q = begin; q < end; ++q) {
    const T* x = at<T>(f.x, f.x_strides, n, q);
    const int64_t out = (n * a.pixels + q) * a.outputs;
    T* y = static_cast<T*>(f.y) + out;
    Index* choice = keep ? static_cast<Index*>(f.choice) + out : nullptr;
    int64_t c = 0;
    if constexpr (Z > 0) {
      for (; c + lanes <= whole; c += lanes)
        pick_subsets<Z, keep>(x + c * Z, p + c, tau, y + c, keep ? choice + c : nullptr);
      if (c < whole && whole > lanes) {
        c = whole - lanes;
        pick_subsets<Z, keep>(x + c * Z, p + c, tau, y + c, keep ? choice + c : nullptr);
        c = whole;
      }
    }
    for (; c < a.outputs; ++c)
      pick_one<keep>(x + c * a.zeta, size_of(a, c), divisor_of(a, c), p[c], a.tau, y + c, keep ? choice + c : nullptr);
  }
}

template <int Z, class T, class Index>
void pick_range(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end) {
  if (!a.channels_last) {
    for (int64_t c = begin; c < end; ++c) {
      if (size_of(a, c) == kUnrolled<Z>) {
        plane<kUnrolled<Z>, T, Index>(a, f, n, c);
      } else {
        plane<0, T, Index>(a, f, n, c);
      }
    }
  } else if (f.choice != nullptr) {
    pick_pixels<Z, true, T, Index>(a, f, n, begin, end);
  } else {
    pick_pixels<Z, false, T, Index>(a, f, n, begin, end);
  }
}

template <class T, class Index>
void pick_of(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end) {
  if constexpr (sizeof(Index) == 1) {
    if (a.zeta == 1) return pick_range<1, T, Index>(a, f, n, begin, end);
    if (a.zeta == 2) return pick_range<2, T, Index>(a, f, n, begin, end);
    if (a.zeta == 4) return pick_range<4, T, Index>(a, f, n, begin, end);
    if (a.zeta == 8) return pick_range<8, T, Index>(a, f, n, begin, end);
  }
  pick_range<0, T, Index>(a, f, n, begin, end);
}

void pick(const Params& a, const Forward& f, int64_t n, int64_t begin, int64_t end) {
  PIX_DISPATCH_CHOICE(a, pick_of, a, f, n, begin, end);
}

}  // namespace
}  // namespace pix
