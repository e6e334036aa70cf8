#include "cpu/rasterize_kernel.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/half.h"
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

std::vector<double> coordinates(int64_t taps, bool turned) {
  std::vector<double> at(taps + kSlack, std::numeric_limits<double>::infinity());
  const double last = static_cast<double>(taps - 1), sign = turned ? -1.0 : 1.0;
  for (int64_t i = 0; i < taps; ++i) at[i] = sign * (taps == 1 ? -1.0 : (2.0 * static_cast<double>(i) - last) / last);
  return at;
}

// The lists of one group after another. A is the type of the sums.
template <class A>
class Room {
 public:
  Room(const RasterizeParams& p, int64_t lanes, bool backward)
      : p_(p), backward_(backward), rows_(coordinates(p.height, p.flip)), columns_(coordinates(p.width, false)),
        starts_(p.points + 1), share_(p.average ? p.height * p.width + kStep : 0),
        live_((p.height * p.width + kStep - 1) / lanes + 1) {}

  template <class T>
  bool find(const RasterizeLevel& level, const T* coords, const T* radius) {
    const int64_t count = most(radius);
    make_room(count);
    // Less is never worth a dense product; a bound on the density is enough to make room.
    if (!backward_ && !dense_ && 4 * count > p_.points * p_.height * p_.width) dense_.reset(new A[dense_numbers(p_)]);
    touches_ = {{rows_.data(), p_.height, p_.flip},
                {columns_.data(), p_.width, false},
                starts_.data(),
                taps_.get(),
                phi_.get(),
                signs_[0].get(),
                signs_[1].get(),
                share_.data(),
                dense_.get(),
                live_.data()};
    return level.find(p_, coords, radius, backward_, touches_);
  }
  const Touches& touches() const { return touches_; }

 private:
  // A bound on the number of all touches: a point's diamond is no wider than a row's share of 2 b (1 - distance / a).
  template <class T>
  int64_t most(const T* radius) const {
    const double height = static_cast<double>(p_.height), width = static_cast<double>(p_.width);
    int64_t count = kSlack;
    if (p_.height * p_.width == 0) return count;  // the bound below would be negative
    for (int64_t i = 0; i < p_.points; ++i) {
      const double r = widen(radius[i]);
      if (!(r > 0)) continue;
      const double a = 0.5 * r * (height - 1), b = 0.5 * r * (width - 1), rows = std::min(height, 2 * a + 2);
      const double bound = p_.dims == 1 ? 2 * b + 2 : rows + 2 * b * (a + 1) + 2;
      count += static_cast<int64_t>(std::min(height * width, bound)) + kStep;  // all taps where it is no number
    }
    return count;
  }

  void make_room(int64_t count) {
    if (count <= room_) return;
    room_ = count + count / 4;
    taps_.reset(new int32_t[room_]);
    phi_.reset(new A[room_]);
    for (auto& signs : signs_)
      if (backward_) signs.reset(new A[room_]);
  }

  RasterizeParams p_;
  bool backward_;
  int64_t room_ = 0;
  std::vector<double> rows_, columns_;
  std::vector<int64_t> starts_;
  std::unique_ptr<int32_t[]> taps_;
  std::unique_ptr<A[]> phi_, signs_[2], dense_;
  std::vector<A> share_;
  std::vector<uint8_t> live_;
  Touches touches_ = {};
};

// body(task, first channel of all, finite) for every task, which has touches, channels and scratch.
template <class T, class F>
void each_task(const RasterizeParams& p, const T* coords, const T* radius, bool backward, const Place& place,
               const F& body) {
  const RasterizeLevel& level = place.level.rasterize;
  const int64_t bytes = place.level.depthwise.bytes, lanes = bytes / static_cast<int64_t>(sizeof(Sum<T>));
  const int64_t most = kTaskVectors * lanes, tasks = ceil_div(p.channels, most);
  const int64_t cost = (p.height * p.width + 8 * p.points) * std::min(most, p.channels);
  run(place, p.groups * tasks, cost, [&](int64_t begin, int64_t end) {
    Room<Sum<T>> room(p, lanes, backward);
    const Vectors scratch(level.scratch(p), bytes);
    int64_t found = -1;
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t g = i / tasks, channel = i % tasks * most;
      if (found != g) {
        finite = room.find(level, coords + g * p.points * p.dims, radius + g * p.points);
        found = g;
      }
      RasterizeTask task = {};
      task.touches = &room.touches();
      task.channels = std::min(most, p.channels - channel);
      task.scratch = scratch.at(0);
      body(task, i, g * p.channels + channel, finite);
    }
  });
}

}  // namespace

void rasterize_points(const RasterizeParams& p, const void* coords, const void* radius, const void* weight,
                      void* kernel, const Place& place) {
  with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t taps = p.height * p.width;
    each_task(p, static_cast<const T*>(coords), static_cast<const T*>(radius), false, place,
              [&](RasterizeTask& task, int64_t, int64_t channel, bool finite) {
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
    const int64_t tasks = ceil_div(p.channels, kTaskVectors * lanes), pulls = (p.dims + 1) * p.points;
    const Vectors sums(p.groups * tasks * pulls, sizeof(A));
    const auto sums_at = [&](int64_t i) { return reinterpret_cast<A*>(sums.at(i * pulls)); };
    each_task(p, static_cast<const T*>(coords), static_cast<const T*>(radius), true, place,
              [&](RasterizeTask& task, int64_t i, int64_t channel, bool finite) {
                T* out = static_cast<T*>(grad_weight) + channel * p.points;
                if (!finite) {
                  fill_nan(out, task.channels * p.points);
                  return fill_nan(sums_at(i), pulls);
                }
                task.weight = static_cast<const T*>(weight) + channel * p.points;
                task.grad = static_cast<const T*>(grad) + channel * taps;
                task.out = out;
                task.pulls = sums_at(i);
                place.level.rasterize.backward(p, task);
              });
    const bool column_first = p.dims == 1 || p.flip;
    for (int64_t g = 0; g < p.groups; ++g) {
      for (int64_t i = 0; i < p.points; ++i) {
        const int64_t point = g * p.points + i;
        const double r = widen(static_cast<const T*>(radius)[point]), inverse = 1 / (r > 0 ? r : 1.0);
        for (int64_t q = 0; q <= p.dims; ++q) {
          const A* first = sums_at(g * tasks) + q * p.points + i;
          double sum = 0;
          for (int64_t task = 0; task < tasks; ++task) sum += first[task * pulls];
          T* to = static_cast<T*>(grad_radius) + point;
          if (q < p.dims) to = static_cast<T*>(grad_coords) + point * p.dims + (column_first ? q : 1 - q);
          narrow(static_cast<A>(q < p.dims ? -sum * inverse : sum * inverse), to);
        }
      }
    }
  });
}

}  // namespace smpconv
