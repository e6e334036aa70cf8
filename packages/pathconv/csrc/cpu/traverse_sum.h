// The sums that turn what was gathered along paths back into images, for one level. Included once by each
// traverse_level_*.cpp, after its target pragma.
#pragma once

#include "cpu/traverse_gather.h"

namespace pathconv::traversal {
namespace {

// P paths where their number is known, else 0.
template <class T, class O, int P, bool stream>
void sum_planes_by(const PlaneSum& job) {
  using A = typename AccumulatorOf<T>::type;
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t paths = P > 0 ? P : job.paths, length = job.length, next = job.next;
  const int32_t* const inverse = job.inverse;
  const T* known[P > 0 ? P : 1];
  for (int64_t p = 0; p < P; ++p) known[p] = static_cast<const T*>(job.planes[p]);
  const auto plane = [&](int64_t p) { return P > 0 ? known[p] : static_cast<const T*>(job.planes[p]); };
  O* const out = static_cast<O*>(job.out);
  const auto sum = [&](int64_t q) ALWAYS_INLINE {
    Vector<A> total = read(plane(0), inverse + q);
#pragma GCC unroll 4
    for (int64_t p = 1; p < paths; ++p) total += read(plane(p), inverse + p * length + q);
    put(out + q, total, stream);
  };
  int64_t q = 0;
  for (; q + kLine <= length; q += kLine) {
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) ask_for(reinterpret_cast<const char*>(plane(p) + q) + next);
    stream ? ask_for_page(out + q, 64) : ask_to_write(out + q);
    for (int64_t i = 0; i < kLine; i += kLanes<A>) sum(q + i);
  }
  for (; q + kLanes<A> <= length; q += kLanes<A>) sum(q);
  for (; q < length; ++q) {
    A total = widen(plane(0)[inverse[q]]);
#pragma GCC unroll 4
    for (int64_t p = 1; p < paths; ++p) total += widen(plane(p)[inverse[p * length + q]]);
    narrow(total, out + q);
  }
  if (stream) finish_streaming();
}

#if LEVEL_BYTES == 64
template <int P, bool stream>
void sum_picked_by(const PlaneSum& job) {
  const int64_t paths = P > 0 ? P : job.paths, length = job.length, next = job.next, lines = length / kPicked;
  const int32_t* const inverse = job.inverse;
  const Picks* const picks = job.picks;
  const float* known[P > 0 ? P : 1];
  for (int64_t p = 0; p < P; ++p) known[p] = static_cast<const float*>(job.planes[p]);
  const auto plane = [&](int64_t p) { return P > 0 ? known[p] : static_cast<const float*>(job.planes[p]); };
  float* const out = static_cast<float*>(job.out);
  for (int64_t i = 0, q = 0; i < lines; ++i, q += kPicked) {
    stream ? ask_for_page(out + q, 64) : ask_to_write(out + q);
    FloatVector total = {};
#pragma GCC unroll 4
    for (int64_t p = 0; p < paths; ++p) {
      ask_for(reinterpret_cast<const char*>(plane(p) + q) + next);
      const FloatVector part = pick(plane(p), picks[p * lines + i], inverse + p * length + q);
      total = p == 0 ? part : total + part;
    }
    put(out + q, total, stream);
  }
  for (int64_t q = lines * kPicked; q < length; ++q) {
    float total = plane(0)[inverse[q]];
    for (int64_t p = 1; p < paths; ++p) total += plane(p)[inverse[p * length + q]];
    out[q] = total;
  }
  if (stream) finish_streaming();
}

// A path's plane, the numbers that it has of each pixel, and sums on their way to `out`.
struct Path {
  const float* plane;
  const int32_t* inverse;
  float *sums, *out;
  bool stream;
};

// Some lines of a block, all in N pieces, or gathered: of the first path, the last one, or one between.
template <int N, bool first, bool last>
ALWAYS_INLINE inline void sum_lines(const Path& path, const Picks* picks, int64_t count, const char* soon) {
  for (int64_t i = 0; i < count; ++i) {
    ask_for(soon + i * 64);
    const uint64_t at = picks[i].at[0];
    const int64_t q = place_of(at, 2) * kPicked;
    FloatVector sum;
    if constexpr (N > 0) {
      sum = pick_from<N>(path.plane, at, picks[i]);
    } else {
      sum = read(path.plane, path.inverse + q);
    }
    if (!first) sum = load(path.sums + q) + sum;
    last ? put(path.out + q, sum, path.stream) : store(path.sums + q, sum);
  }
}

template <bool first, bool last>
void sum_path(const PlaneSum& job, int64_t p) {
  const int64_t length = job.length, lines = length / kPicked, blocks = (lines + kBlock - 1) / kBlock;
  const Path path = {static_cast<const float*>(job.planes[p]), job.inverse + p * length, static_cast<float*>(job.sums),
                     static_cast<float*>(job.out), job.stream};
  const char* const plane = static_cast<const char*>(job.planes[p]);
  const char* const next = static_cast<const char*>(job.planes[last ? 0 : p + 1]) + (last ? job.next : 0) - lines * 64;
  for (const PickBlock* block = job.blocks + p * blocks; block < job.blocks + (p + 1) * blocks; ++block) {
    const char* soon = (block->ask < lines ? plane : next) + block->ask * 64;
    if (first && path.stream) ask_for(path.out + (block - job.blocks) * (kBlock * kPicked));  // its pages, one by one
    const Picks* picks = block->picks;
    const auto done = [&](int64_t count) ALWAYS_INLINE { picks += count, soon += count * 64; };
    sum_lines<4, first, last>(path, picks, block->counts[0], soon), done(block->counts[0]);
    sum_lines<6, first, last>(path, picks, block->counts[1], soon), done(block->counts[1]);
    sum_lines<8, first, last>(path, picks, block->counts[2], soon), done(block->counts[2]);
    sum_lines<0, first, last>(path, picks, block->counts[3], soon);
  }
  for (int64_t q = lines * kPicked; q < length; ++q)
    path.out[q] = first ? path.plane[path.inverse[q]] : path.out[q] + path.plane[path.inverse[q]];
}

// One plane after the other, each from one end to the other, which is what memory is quick at.
void sum_apart(const PlaneSum& job) {
  sum_path<true, false>(job, 0);
  for (int64_t p = 1; p + 1 < job.paths; ++p) sum_path<false, false>(job, p);
  sum_path<false, true>(job, job.paths - 1);
  if (job.stream) finish_streaming();
}

void sum_picked(const PlaneSum& job) {
  if (job.stream) return job.paths == 3 ? sum_picked_by<3, true>(job) : sum_picked_by<0, true>(job);
  return job.paths == 3 ? sum_picked_by<3, false>(job) : sum_picked_by<0, false>(job);
}
#endif

template <class T, class O>
void sum_planes_of(const PlaneSum& job) {
  if (job.stream) return job.paths == 3 ? sum_planes_by<T, O, 3, true>(job) : sum_planes_by<T, O, 0, true>(job);
  return job.paths == 3 ? sum_planes_by<T, O, 3, false>(job) : sum_planes_by<T, O, 0, false>(job);
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
#if LEVEL_BYTES == 64
  if (job.blocks != nullptr) return sum_apart(job);
  if (job.picks != nullptr) return sum_picked(job);
#endif
  by_dtypes(in, out, [&](auto from, auto to) { sum_planes_of<decltype(from), decltype(to)>(job); });
}

}  // namespace
}  // namespace pathconv::traversal
