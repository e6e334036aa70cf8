#include "cpu/pick_kernel.h"

#include <cfloat>

#include "common/half.h"

namespace pix {
namespace {

using namespace leanconv::cpu;

// The sum of grad * m for the subset of one output, from the input itself: one number after the other, for gates that
// are exactly 0.
template <class T, class A>
A from_input(const Params& a, const Backward& b, int64_t n, int64_t c) {
  const int64_t size = std::min(a.zeta, a.channels - c * a.zeta);
  const int64_t channel = a.channels_last ? 1 : b.x_strides.step, pixel = a.channels_last ? b.x_strides.step : 1;
  const int64_t out_channel = a.channels_last ? 1 : b.grad_strides.step;
  const int64_t out_pixel = a.channels_last ? b.grad_strides.step : 1;
  const T* x = static_cast<const T*>(b.x) + n * b.x_strides.n + c * a.zeta * channel;
  const T* grad = static_cast<const T*>(b.grad) + n * b.grad_strides.n + c * out_channel;
  const bool pick = A{0} < static_cast<A>(a.tau);
  A sum = 0;
  for (int64_t q = 0; q < a.pixels; ++q) {
    A m = 0;
    if (pick) {
      const int64_t i = n * a.outputs * a.pixels + (a.channels_last ? q * a.outputs + c : c * a.pixels + q);
      const int64_t at = a.zeta > 256 ? static_cast<const int32_t*>(b.choice)[i] : static_cast<const uint8_t*>(b.choice)[i];
      m = widen(x[std::clamp<int64_t>(at, 0, size - 1) * channel + q * pixel]);
      m = m >= -FLT_MAX ? m : -FLT_MAX;
    } else {
      for (int64_t i = 0; i < size; ++i) m += widen(x[i * channel + q * pixel]);
      m /= static_cast<A>(a.count_short ? size : a.zeta);
    }
    sum += widen(grad[q * out_pixel]) * m;
  }
  return sum;
}

template <class A>
A from_input(const Params& a, const Backward& b, int64_t n, int64_t c, A) {
  switch (a.dtype) {
    case DType::float64: return from_input<double, A>(a, b, n, c);
    case DType::float16: return from_input<Half, A>(a, b, n, c);
    case DType::bfloat16: return from_input<BFloat16, A>(a, b, n, c);
    default: return from_input<float, A>(a, b, n, c);
  }
}

}  // namespace

void forward(const Params& a, const Forward& f, const Place& place) {
  if (a.pixels == 0 || a.outputs == 0) return;
  const int64_t units = a.channels_last ? a.pixels : a.outputs;
  run(place, a.batch * units, a.channels * a.pixels / units, [&](int64_t begin, int64_t end) {
    each_sample(begin, end, units, [&](int64_t n, int64_t b, int64_t e) { place.level.pick(a, f, n, b, e); });
  });
}

void backward(const Params& a, const Backward& b, void* grad_p, const Place& place) {
  const Reduction products(a, a.outputs);
  const int64_t parts = products.parts(), bytes = leanconv::sum_bytes_of(a.dtype);
  const Sums scratch(a.batch * products.scratch(), a.dtype);
  const auto sums_of = [&](int64_t n) { return static_cast<char*>(grad_p) + n * a.outputs * bytes; };
  // Every part is read and written once: what its sums have read is still in the cache.
  run(place, a.batch * parts, products.numbers() * a.zeta, [&](int64_t begin, int64_t end) {
    each_sample(begin, end, parts, [&](int64_t n, int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        products.parts(part, part + 1, sums_of(n), scratch.at(n * products.scratch()),
                       [&](int64_t i, int64_t j, void* out) { place.level.dots(a, b, n, i, j, out); });
        place.level.scatter(a, b, n, products.first(part), products.first(part + 1));
      }
    });
  });
  with_sums(a.dtype, [&](auto zero) {
    using A = decltype(zero);
    for (int64_t n = 0; n < a.batch; ++n) {
      A* sums = static_cast<A*>(grad_p) + n * a.outputs;
      products.finish(sums, scratch.at(n * products.scratch()));
      const A* p = static_cast<const A*>(b.p) + n * a.outputs;
      for (int64_t c = 0; c < a.outputs; ++c) {
        if (p[c] != 0) {
          sums[c] /= p[c];
        } else {
          sums[c] = b.x == nullptr ? A{0} : from_input(a, b, n, c, zero);
        }
      }
    }
  });
}

}  // namespace pix
