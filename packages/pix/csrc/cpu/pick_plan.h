// How the passes are cut into pieces that threads share. Results do not depend on who computes which piece: sums are
// cut where the shapes say, never where the threads do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "common/isa.h"
#include "cpu/pick_job.h"

namespace pix {

// Runs body(context, begin, end) over disjoint pieces of [0, count), each at least `grain` long, on any number of
// threads.
using ParallelFor = void (*)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t),
                             const void* context);

// Where kernels run.
struct Place {
  const Level& level;
  ParallelFor parallel;
  int64_t threads;
};

inline const Level& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return level_avx512;
  if (isa == leanconv::Isa::avx2) return level_avx2;
#endif
  return level_baseline;
}

// body(begin, end) on pieces of [0, count); `numbers` of them are touched by each of the count.
template <class F>
void run(const Place& place, int64_t count, int64_t numbers, const F& body) {
  constexpr int64_t kNumbersPerThread = 1 << 15;
  if (count == 0) return;
  const auto call = [](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); };
  place.parallel(count, std::max<int64_t>(1, kNumbersPerThread / std::max<int64_t>(numbers, 1)), call, &body);
}

// body(n, begin, end) on the parts of every sample in pieces [begin, end) of `units` units per sample.
template <class F>
void each_sample(int64_t begin, int64_t end, int64_t units, const F& body) {
  while (begin < end) {
    const int64_t n = begin / units, first = n * units;
    body(n, begin - first, std::min(end - first, units));
    begin = std::min(end, first + units);
  }
}

// Uninitialised memory for sums.
class Sums {
 public:
  Sums(int64_t count, DType dtype) : step_(leanconv::sum_bytes_of(dtype)), memory_(new char[count * step_]) {}
  void* at(int64_t i) const { return memory_.get() + i * step_; }

 private:
  int64_t step_;
  std::unique_ptr<char[]> memory_;
};

// f(A{}) with the type of sums.
template <class F>
void with_sums(DType dtype, const F& f) {
  dtype == DType::float64 ? f(double{}) : f(float{});
}

// A sum over the pixels of every channel. Its parts are channels or, for channels_last, chunks of pixels, whose sums
// are added up in the end.
class Reduction {
 public:
  Reduction(const Params& a, int64_t channels) : params_(a), channels_(channels) {
    constexpr int64_t kNumbers = 1 << 14;  // of a chunk: it stays in the first cache, and there are many
    chunk_ = std::max<int64_t>(4, kNumbers / std::max<int64_t>(channels, 1) / 4 * 4);
    parts_ = a.channels_last ? (a.pixels + chunk_ - 1) / chunk_ : channels;
  }
  int64_t parts() const { return parts_; }                                                         // of a sample
  int64_t chunk() const { return chunk_; }                                                         // pixels
  int64_t numbers() const { return params_.channels_last ? chunk_ * channels_ : params_.pixels; }  // of a part
  int64_t scratch() const { return params_.channels_last ? parts_ * channels_ : 0; }               // of a sample

  // The pixels or channels of parts [begin, end).
  int64_t first(int64_t part) const { return params_.channels_last ? std::min(part * chunk_, params_.pixels) : part; }

  // sum(begin, end, out) for parts [begin, end) of a sample, whose sums and scratch are given.
  template <class F>
  void parts(int64_t begin, int64_t end, void* sums, void* scratch, const F& sum) const {
    const int64_t bytes = leanconv::sum_bytes_of(params_.dtype);
    if (!params_.channels_last) return sum(begin, end, static_cast<char*>(sums) + begin * bytes);
    for (int64_t k = begin; k < end; ++k)
      sum(first(k), first(k + 1), static_cast<char*>(scratch) + k * channels_ * bytes);
  }

  // What is left for channels_last.
  void finish(void* sums, const void* scratch) const {
    if (!params_.channels_last) return;
    with_sums(params_.dtype, [&](auto zero) {
      using A = decltype(zero);
      A* out = static_cast<A*>(sums);
      std::fill_n(out, channels_, zero);
      for (int64_t k = 0; k < parts_; ++k)
        for (int64_t c = 0; c < channels_; ++c) out[c] += static_cast<const A*>(scratch)[k * channels_ + c];
    });
  }

 private:
  Params params_;
  int64_t channels_, chunk_, parts_;
};

}  // namespace pix
