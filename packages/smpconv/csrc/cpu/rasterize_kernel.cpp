#include "cpu/rasterize_kernel.h"

#include <algorithm>
#include <limits>

#include "cpu/touches.h"
#include "cpu/vectors.h"

namespace smpconv {
namespace {

using leanconv::cpu::AccumulatorOf;
using leanconv::cpu::BFloat16;
using leanconv::cpu::Half;
using leanconv::cpu::narrow;
using leanconv::cpu::widen;

template <class T>
using Sum = typename AccumulatorOf<T>::type;

template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double{});
    case DType::float16: return f(Half{});
    case DType::bfloat16: return f(BFloat16{});
    default: return f(float{});
  }
}

template <class T>
void fill_nan(T* out, int64_t count) {
  T nan;
  narrow(std::numeric_limits<Sum<T>>::quiet_NaN(), &nan);
  std::fill_n(out, count, nan);
}

// body(task, g, block, finite) for every block of channels, the task with touches, channels and scratch.
template <class T, class F>
void each_block(const RasterizeParams& p, const T* coords, const T* radius, bool backward, const Place& place,
                const F& body) {
  const RasterizeLevel& level = place.level.rasterize;
  const int64_t bytes = place.level.depthwise.bytes, lanes = bytes / static_cast<int64_t>(sizeof(Sum<T>));
  const int64_t blocks = ceil_div(p.channels, lanes);
  const int64_t cost = (p.height * p.width + 8 * p.points) * lanes;
  run(place, p.groups * blocks, cost, [&](int64_t begin, int64_t end) {
    TouchList<Sum<T>> list(p, lanes, backward);
    const Vectors scratch(level.scratch(p), bytes);
    int64_t found = -1;
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / blocks, block = i % blocks;
      if (found != g) {
        finite = list.find(coords + g * p.points * p.dims, radius + g * p.points);
        found = g;
      }
      const Touches touches = list.touches();
      RasterizeTask task = {};
      task.touches = &touches;
      task.channels = std::min(lanes, p.channels - block * lanes);
      task.scratch = scratch.at(0);
      body(task, g, block, finite);
    }
  });
}

}  // namespace

void rasterize_points(const RasterizeParams& p, const void* coords, const void* radius, const void* weight,
                      void* kernel, const Place& place) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t taps = p.height * p.width, lanes = place.level.depthwise.bytes / static_cast<int64_t>(sizeof(Sum<T>));
    each_block(p, static_cast<const T*>(coords), static_cast<const T*>(radius), false, place,
               [&](RasterizeTask& task, int64_t g, int64_t block, bool finite) {
                 const int64_t channel = g * p.channels + block * lanes;
                 T* out = static_cast<T*>(kernel) + channel * taps;
                 if (!finite) return fill_nan(out, task.channels * taps);
                 task.weight = static_cast<const T*>(weight) + channel * p.points;
                 task.out = out;
                 place.level.rasterize.forward(p, task);
               });
  });
}

void rasterize_points_grad(const RasterizeParams& p, const void* grad, const void* coords, const void* radius,
                           const void* weight, void* grad_coords, void* grad_radius, void* grad_weight,
                           const Place& place) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = Sum<T>;
    const int64_t taps = p.height * p.width, lanes = place.level.depthwise.bytes / static_cast<int64_t>(sizeof(A));
    const int64_t blocks = ceil_div(p.channels, lanes), pulls = (p.dims + 1) * p.points;
    const Vectors sums(p.groups * blocks * pulls, sizeof(A));
    const auto sums_at = [&](int64_t g, int64_t block) {
      return reinterpret_cast<A*>(sums.at((g * blocks + block) * pulls));
    };
    each_block(p, static_cast<const T*>(coords), static_cast<const T*>(radius), true, place,
               [&](RasterizeTask& task, int64_t g, int64_t block, bool finite) {
                 const int64_t channel = g * p.channels + block * lanes;
                 T* out = static_cast<T*>(grad_weight) + channel * p.points;
                 A* pull = sums_at(g, block);
                 if (!finite) {
                   fill_nan(out, task.channels * p.points);
                   return fill_nan(pull, pulls);
                 }
                 task.weight = static_cast<const T*>(weight) + channel * p.points;
                 task.grad = static_cast<const T*>(grad) + channel * taps;
                 task.out = out;
                 task.pulls = pull;
                 place.level.rasterize.backward(p, task);
               });
    for (int64_t g = 0; g < p.groups; ++g) {
      for (int64_t i = 0; i < p.points; ++i) {
        const int64_t point = g * p.points + i;
        const double r = widen(static_cast<const T*>(radius)[point]), size = r > 0 ? r : 1.0;
        for (int64_t q = 0; q <= p.dims; ++q) {
          double sum = 0;
          for (int64_t block = 0; block < blocks; ++block) sum += sums_at(g, block)[q * p.points + i];
          if (q < p.dims) {
            narrow(static_cast<A>(-sum / size), static_cast<T*>(grad_coords) + point * p.dims + q);
          } else {
            narrow(static_cast<A>(sum / (size * size)), static_cast<T*>(grad_radius) + point);
          }
        }
      }
    }
  });
}

}  // namespace smpconv
