// The sums that turn what was gathered along paths back into images, for one level. Included once by each
// traverse_level_*.cpp, after its target pragma.
#pragma once

#include "cpu/traverse_gather.h"

namespace pathconv::traversal {
namespace {

template <class T, class O>
void sum_planes_of(const PlaneSum& job) {
  using A = typename AccumulatorOf<T>::type;
  constexpr int64_t kLine = 64 / sizeof(T);
  O* out = static_cast<O*>(job.out);
  int64_t q = 0;
  for (; q + kLanes<A> <= job.length; q += kLanes<A>) {
    Vector<A> sum = read(static_cast<const T*>(job.planes[0]), job.inverse + q);
    for (int64_t p = 1; p < job.paths; ++p)
      sum += read(static_cast<const T*>(job.planes[p]), job.inverse + p * job.length + q);
    if (job.next != 0 && q % kLine == 0)
      for (int64_t p = 0; p < job.paths; ++p)
        ask_for(static_cast<const char*>(job.planes[p]) + job.next + q * sizeof(T));
    put(out + q, sum, job.stream);
  }
  for (; q < job.length; ++q) {
    A sum = widen(static_cast<const T*>(job.planes[0])[job.inverse[q]]);
    for (int64_t p = 1; p < job.paths; ++p)
      sum += widen(static_cast<const T*>(job.planes[p])[job.inverse[p * job.length + q]]);
    narrow(sum, out + q);
  }
  if (job.stream) finish_streaming();
}

// A run of pixels with few channels: the parts of each path one behind the other, then their sum.
template <class Pieces, class T, class O>
void sum_small_pixels_by(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  constexpr int64_t kNumbers = kRun * kLanes<A>;
  T part[kNumbers + kLanes<A>];
  A sums[kNumbers + kLanes<A>];
  O* out = static_cast<O*>(job.out);
  const int64_t bytes = job.channels * sizeof(T);
  for (int64_t q = 0; q < job.length; q += kRun, out += kRun * job.channels) {
    const int64_t pixels = job.length - q < kRun ? job.length - q : kRun, count = pixels * job.channels;
    for (int64_t p = 0; p < job.paths; ++p) {
      const T* positions = static_cast<const T*>(job.positions) + p * job.path;
      const int32_t* inverse = job.inverse + p * job.length + q;
      char* copy = reinterpret_cast<char*>(part);
      for (int64_t i = 0; i < pixels; ++i, copy += bytes)
        Pieces::copy(reinterpret_cast<const char*>(positions + inverse[i] * job.position), copy, bytes);
      for (int64_t i = 0; i < count; i += kLanes<A>)
        store(sums + i, p == 0 ? load(part + i) : load(sums + i) + load(part + i));
    }
    for (int64_t i = 0; i < count; i += kLanes<A>) store_up_to(out + i, load(sums + i), count - i);
    if (job.next != 0) {
      const char* next = static_cast<const char*>(job.positions) + job.next + q * job.position * sizeof(T);
      for (int64_t i = 0; i < static_cast<int64_t>(job.position * sizeof(T)); ++i) ask_for(next + 64 * i);
    }
  }
}

// A sample of more bytes does not stay in the cache while the one before is read: of it, what lies so many positions
// ahead is asked for.
constexpr int64_t kLargeSample = 1 << 19, kAhead = 64;

// The pixels in the order of path 0, whose parts lie one behind the other.
template <class A, int B>
void sum_pixels_along(const PixelSum& job) {
  typedef A Piece __attribute__((vector_size(B)));  // two of which, that may overlap, are a pixel
  const int64_t length = job.length, paths = job.paths, channels = job.channels, position = job.position;
  const int64_t path = job.path, tail = channels - B / static_cast<int64_t>(sizeof(A));
  const bool ahead = length * position * static_cast<int64_t>(sizeof(A)) > kLargeSample;
  const int64_t next = ahead ? 0 : job.next;
  const A* const positions = static_cast<const A*>(job.positions);
  const int32_t *const order = job.order, *const along = job.along;
  A* const out = static_cast<A*>(job.out);
  for (int64_t l = 0; l < length; ++l) {
    const A* part = positions + l * position;
    if (next != 0) ask_for(reinterpret_cast<const char*>(part) + next);
    Piece head, end, more;
    __builtin_memcpy(&head, part, B);
    __builtin_memcpy(&end, part + tail, B);
    for (int64_t p = 1; p < paths; ++p) {
      const int32_t* at = along + p * length + l;
      if (ahead && l + kAhead < length) ask_for(positions + at[kAhead] * position + p * path);
      part = positions + *at * position + p * path;
      __builtin_memcpy(&more, part, B);
      head += more;
      __builtin_memcpy(&more, part + tail, B);
      end += more;
    }
    A* pixel = out + order[l] * channels;
    __builtin_memcpy(pixel, &head, B);
    __builtin_memcpy(pixel + tail, &end, B);
  }
}

template <class T, class O>
void sum_large_pixels(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t length = job.length, paths = job.paths, channels = job.channels, position = job.position;
  const int64_t path = job.path;
  const int32_t *const order = job.order, *const inverse = order == nullptr ? job.inverse : job.along;
  const T* const positions = static_cast<const T*>(job.positions);
  O* const pixels = static_cast<O*>(job.out);
  const int64_t next = order == nullptr ? 0 : job.next, size = position * sizeof(T);
  for (int64_t l = 0; l < length; ++l) {
    if (next != 0)
      for (int64_t i = 0; i < size; i += 64) ask_for(reinterpret_cast<const char*>(positions) + l * size + next + i);
    O* out = pixels + (order == nullptr ? l : order[l]) * channels;
    for (int64_t c = 0; c < channels; c += kLanes<A>) {
      const int64_t live = channels - c;
      Vector<A> sum = load_up_to(positions + inverse[l] * position + c, live);
      for (int64_t p = 1; p < paths; ++p)
        sum += load_up_to(positions + inverse[p * length + l] * position + p * path + c, live);
      store_up_to(out + c, sum, live);
    }
  }
}

template <class T, class O>
void sum_pixels_of(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t bytes = job.channels * sizeof(T);
  if (job.channels >= kLanes<A>) return sum_large_pixels<T, O>(job);
  if constexpr (__is_same(T, O) && __is_same(T, A)) {
    if (job.order != nullptr && bytes >= 8) {
      if (bytes < 16) return sum_pixels_along<A, 8>(job);
      if (bytes < 32) return sum_pixels_along<A, 16>(job);
      return sum_pixels_along<A, 32>(job);
    }
  }
  if (bytes < 4) return sum_small_pixels_by<TwoPieces<2>, T, O>(job);
  if (bytes < 8) return sum_small_pixels_by<TwoPieces<4>, T, O>(job);
  if (bytes < 16) return sum_small_pixels_by<TwoPieces<8>, T, O>(job);
  if (bytes < 32) return sum_small_pixels_by<TwoPieces<16>, T, O>(job);
  return sum_small_pixels_by<TwoPieces<32>, T, O>(job);
}

// Sums stay in their dtype, or come from accumulators.
template <class F>
void by_dtypes(DType in, DType out, const F& f) {
  switch (out) {
    case DType::float32: return f(float(), float());
    case DType::float64: return f(double(), double());
    case DType::float16: return in == out ? f(Half(), Half()) : f(float(), Half());
    case DType::bfloat16: return in == out ? f(BFloat16(), BFloat16()) : f(float(), BFloat16());
  }
}
void sum_planes(DType in, DType out, const PlaneSum& job) {
  by_dtypes(in, out, [&](auto from, auto to) { sum_planes_of<decltype(from), decltype(to)>(job); });
}
void sum_pixels(DType in, DType out, const PixelSum& job) {
  by_dtypes(in, out, [&](auto from, auto to) { sum_pixels_of<decltype(from), decltype(to)>(job); });
}

}  // namespace
}  // namespace pathconv::traversal
