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

// A sample of more bytes does not stay in the cache while the one before is read: of it, what so many pixels further on
// read is asked for.
constexpr int64_t kLargeSample = 1 << 19, kAhead = 128;

template <class Piece>
inline Piece piece_at(const void* p) {
  Piece v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <class Piece>
__attribute__((noinline)) Piece start_of_piece_at(const void* p, int64_t bytes) {
  Piece v = {};
  __builtin_memcpy(&v, p, bytes);
  return v;
}

// Pixels of B / 2 to B bytes, which are read and written with what follows them where something does, or of B to 2 B
// bytes, which are two pieces that may overlap. P is the number of paths where it is known, else 0.
template <int P, class A, int B, bool whole>
void sum_pieces(const PixelSum& job) {
  typedef A Piece __attribute__((vector_size(B)));
  const int64_t length = job.length, paths = P > 0 ? P : job.paths, channels = job.channels, position = job.position;
  const int64_t path = job.path, tail = channels - B / static_cast<int64_t>(sizeof(A)), bytes = channels * sizeof(A);
  const bool ahead = length * position * static_cast<int64_t>(sizeof(A)) > kLargeSample;
  const int64_t next = ahead ? 0 : job.next;
  const A* const positions = static_cast<const A*>(job.positions);
  const int32_t* const inverse = job.inverse;
  A* out = static_cast<A*>(job.out);
  const auto piece = [&](int64_t q, int64_t first) {
    Piece sum = {};
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      const int64_t at = inverse[p * length + q];
      const A* part = positions + at * position + p * path + first;
      const bool last = whole && p == paths - 1 && at == length - 1;  // nothing may follow
      const Piece more = __builtin_expect(last, false) ? start_of_piece_at<Piece>(part, bytes) : piece_at<Piece>(part);
      sum = p == 0 ? more : sum + more;
    }
    return sum;
  };
  const int64_t end = whole ? length - 1 : length;
  for (int64_t q = 0; q < end; ++q, out += channels) {
    if (next != 0) ask_for(reinterpret_cast<const char*>(positions + q * position) + next);
    if (ahead && q + kAhead < length)
      for (int64_t p = 0; p < paths; ++p) ask_for(positions + inverse[p * length + q + kAhead] * position + p * path);
    const Piece head = piece(q, 0);
    __builtin_memcpy(out, &head, B);
    if constexpr (!whole) {
      const Piece rest = piece(q, tail);
      __builtin_memcpy(out + tail, &rest, B);
    }
  }
  if constexpr (whole) {
    const Piece head = piece(end, 0);
    __builtin_memcpy(out, &head, bytes);
  }
}

template <class A, int B, bool whole>
void sum_by_pieces(const PixelSum& job) {
  job.paths == 3 ? sum_pieces<3, A, B, whole>(job) : sum_pieces<0, A, B, whole>(job);
}

template <class T, class O>
void sum_large_pixels(const PixelSum& job) {
  using A = typename AccumulatorOf<T>::type;
  const int64_t length = job.length, paths = job.paths, channels = job.channels, position = job.position;
  const int64_t path = job.path;
  const int32_t* const inverse = job.inverse;
  const T* const positions = static_cast<const T*>(job.positions);
  O* out = static_cast<O*>(job.out);
  const int64_t next = job.next, size = position * sizeof(T);
  for (int64_t q = 0; q < length; ++q, out += channels) {
    if (next != 0)
      for (int64_t i = 0; i < size; i += 64) ask_for(reinterpret_cast<const char*>(positions) + q * size + next + i);
    for (int64_t c = 0; c < channels; c += kLanes<A>) {
      const int64_t live = channels - c;
      Vector<A> sum = load_up_to(positions + inverse[q] * position + c, live);
      for (int64_t p = 1; p < paths; ++p)
        sum += load_up_to(positions + inverse[p * length + q] * position + p * path + c, live);
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
    if (bytes >= 32) return sum_by_pieces<A, 32, false>(job);
    if (bytes > 16) return sum_by_pieces<A, 16, false>(job);
    const bool apart = job.position >= job.paths * job.channels;  // not so where a gradient is one number, expanded
    if (bytes >= 8 && apart) return sum_by_pieces<A, 16, true>(job);
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
