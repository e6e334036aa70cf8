// What the dispatchers of the traversal share: threads, scratch memory, and images brought to another layout.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/traverse_kernel.h"

namespace pathconv::traversal {

constexpr int64_t kGrain = 1 << 15;     // numbers that are worth a thread
constexpr int64_t kStreamed = 1 << 24;  // bytes of a result that goes past the cache, which it would only flush

inline bool is_wide(DType dtype) { return dtype == DType::float64; }
inline DType accumulator_of(DType dtype) { return is_wide(dtype) ? DType::float64 : DType::float32; }
inline bool is_accumulator(DType dtype) { return bytes_of(dtype) >= 4; }
inline int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }  // to whole vectors of any level

inline const void* at(const void* data, int64_t element, DType dtype) {
  return static_cast<const char*>(data) + element * bytes_of(dtype);
}
inline void* at(void* data, int64_t element, DType dtype) {
  return static_cast<char*>(data) + element * bytes_of(dtype);
}

// Whether rows that start `row` bytes apart at `data` may be written past the cache.
inline bool streams(const void* data, int64_t row, int64_t bytes) {
  return bytes >= kStreamed && row % 64 == 0 && reinterpret_cast<uintptr_t>(data) % 64 == 0;
}

// Zeros, aligned for any vector and readable beyond the end by one.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_(new unsigned char[bytes + 128]()) {}
  void* data() const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory_.get());
    return memory_.get() + (64 - address % 64);
  }

 private:
  std::unique_ptr<unsigned char[]> memory_;
};

// body(begin, end) on pieces of [0, count) of which each item handles `numbers` numbers.
template <class F>
void run(ParallelFor parallel, int64_t count, int64_t numbers, const F& body) {
  const auto call = [](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); };
  parallel(count, kGrain / std::max(numbers, int64_t{1}) + 1, call, &body);
}

// The distance of neighbouring pixels where pixel q = row * width + column lies q times as far; else 0.
inline int64_t pixel_stride(const Params& a, ImageStrides s) {
  if (a.width == 1) return a.height == 1 ? 1 : s.h;
  return a.height == 1 || s.h == a.width * s.w ? s.w : 0;
}

// Whether an image, known to be dense, has the channels of a pixel side by side.
inline bool dense_pixels(const Params& a, ImageStrides s) {
  return a.channels == 1 || (s.c == 1 && pixel_stride(a, s) == a.channels);
}

template <class T>
void copy_image_of(const T* in, ImageStrides from, T* out, ImageStrides to, int64_t channels, const Params& a) {
  for (int64_t h = 0; h < a.height; ++h) {
    for (int64_t c = 0; c < channels; ++c) {
      const T* source = in + c * from.c + h * from.h;
      T* target = out + c * to.c + h * to.h;
      if (from.w == 1 && to.w == 1) {
        std::memcpy(target, source, a.width * sizeof(T));
      } else {
        for (int64_t w = 0; w < a.width; ++w) target[w * to.w] = source[w * from.w];
      }
    }
  }
}

// One sample, or some channels of it, from one layout to another.
inline void copy_image(const Params& a, const void* in, ImageStrides from, void* out, ImageStrides to,
                       int64_t channels) {
  switch (bytes_of(a.dtype)) {
    case 8: return copy_image_of(static_cast<const double*>(in), from, static_cast<double*>(out), to, channels, a);
    case 4: return copy_image_of(static_cast<const float*>(in), from, static_cast<float*>(out), to, channels, a);
    default: return copy_image_of(static_cast<const uint16_t*>(in), from, static_cast<uint16_t*>(out), to, channels, a);
  }
}

inline ImageStrides planes_of(const Params& a) { return {a.channels * a.length(), a.length(), a.width, 1}; }
inline ImageStrides pixels_of(const Params& a) {
  return {a.channels * a.length(), 1, a.width * a.channels, a.channels};
}

}  // namespace pathconv::traversal
