// Finds the taps that the points of one group touch. Distances are double whatever the dtype, so that it does not
// depend on rounding which these are.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/half.h"
#include "cpu/rasterize_job.h"

namespace smpconv {

// Where tap i of `taps` lies on [-1, 1].
inline double tap_coordinate(int64_t i, int64_t taps) {
  return taps == 1 ? -1.0 : static_cast<double>(2 * i - (taps - 1)) / static_cast<double>(taps - 1);
}

// The coordinates of the taps of one axis, which `turned` negates.
class Axis {
 public:
  Axis(int64_t taps, bool turned) : x_(taps) {
    for (int64_t i = 0; i < taps; ++i) x_[i] = (turned ? -1.0 : 1.0) * tap_coordinate(i, taps);
    last_ = static_cast<double>(taps);
    middle_ = 0.5 * (last_ - 1);
    size_ = middle_;
    scale_ = turned ? -middle_ : middle_;
  }
  double at(int64_t i) const { return x_[i]; }

  // [begin, end) holds all taps that are less than `reach` from p, and perhaps one that is no nearer on either side:
  // rounding must not lose one.
  void near(double p, double reach, int64_t* begin, int64_t* end) const {
    const double middle = middle_ + p * scale_, spread = reach * size_;
    constexpr double kRounding = 1e-5;
    *begin = static_cast<int64_t>(std::min(std::max(middle - spread + (1 - kRounding), 0.0), last_));
    *end = static_cast<int64_t>(std::min(std::max(middle + spread + (1 + kRounding), 0.0), last_));
  }

 private:
  double last_, middle_, size_, scale_;
  std::vector<double> x_;
};

// The lists behind Touches, with room that is used again from group to group. A is the type of the sums.
template <class A>
class TouchList {
 public:
  TouchList(const RasterizeParams& p, int64_t lanes, bool backward)
      : params_(p), shift_(__builtin_ctzll(lanes)), backward_(backward), rows_(p.height, p.flip),
        columns_(p.width, false), starts_(p.points + 1), radii_(p.points),
        live_((p.height * p.width + lanes - 1) / lanes) {
    make_room(4 * p.points);  // 8 taps each
  }

  // Lists what the points touch; false where one is not finite.
  template <class T>
  bool find(const T* coords, const T* radius) {
    using leanconv::cpu::widen;
    const int row_part = params_.flip ? 1 : 0, column_part = params_.dims == 1 || params_.flip ? 0 : 1;
    count_ = 0;
    for (int64_t i = 0; i < params_.points; ++i) {
      starts_[i] = count_;
      radii_[i] = widen(radius[i]);
      const double r = radii_[i], q = widen(coords[i * params_.dims + column_part]);
      const double p = params_.dims == 1 ? 0.0 : static_cast<double>(widen(coords[i * params_.dims + row_part]));
      if (!std::isfinite(r) || !std::isfinite(q) || !std::isfinite(p)) return false;
      if (r > 0) find_taps(p, q, r);
    }
    starts_[params_.points] = count_;
    weigh();
    return true;
  }

  Touches touches() const {
    return {
        starts_.data(), taps_.data(), phi_.data(), {pull_[0].data(), pull_[1].data(), pull_[2].data()}, live_.data()};
  }

 private:
  struct Shape {
    double across, along, distance;
  };

  static double sign(double v) { return static_cast<double>((v > 0) - (v < 0)); }

  void find_taps(double p, double q, double r) {
    int64_t row = 0, row_end = 1, column, end;
    if (params_.dims == 2) rows_.near(p, r, &row, &row_end);
    columns_.near(q, r, &column, &end);
    if (row >= row_end || column >= end) return;
    make_room(count_ + (row_end - row) * (end - column));
    int32_t* taps = taps_.data();
    Shape* shapes = shapes_.data();
    int64_t count = count_;
    for (; row < row_end; ++row) {
      const double across = params_.dims == 2 ? p - rows_.at(row) : 0.0, left = r - std::fabs(across);
      if (left <= 0) continue;
      columns_.near(q, left, &column, &end);
      for (int64_t i = column; i < end; ++i) {
        const double along = q - columns_.at(i), distance = std::fabs(across) + std::fabs(along);
        taps[count] = static_cast<int32_t>(row * params_.width + i);
        shapes[count] = {across, along, distance};
        count += distance < r;
      }
    }
    count_ = count;
  }

  void make_room(int64_t count) {
    if (count <= static_cast<int64_t>(taps_.size())) return;
    taps_.resize(2 * count);
    shapes_.resize(2 * count);
  }

  void weigh() {
    std::fill(live_.begin(), live_.end(), uint8_t{0});
    for (int64_t j = 0; j < count_; ++j) live_[static_cast<uint32_t>(taps_[j]) >> shift_] = 1;
    const int64_t room = static_cast<int64_t>(taps_.size());
    if (static_cast<int64_t>(phi_.size()) < count_) phi_.resize(room);
    for (int q = 0; q <= params_.dims && backward_; ++q)
      if (static_cast<int64_t>(pull_[q].size()) < count_) pull_[q].resize(room);
    if (!params_.average) return weigh_by([](int64_t) { return 1.0; });
    counts_.assign(params_.height * params_.width, 0);
    for (int64_t j = 0; j < count_; ++j) ++counts_[taps_[j]];
    weigh_by([this](int64_t j) { return counts_[taps_[j]] + 1e-6; });
  }

  template <class F>
  void weigh_by(const F& divisor) {
    for (int64_t i = 0; i < params_.points; ++i)
      for (int64_t j = starts_[i]; j < starts_[i + 1]; ++j)
        phi_[j] = static_cast<A>((1 - shapes_[j].distance / radii_[i]) / divisor(j));
    if (!backward_) return;
    const bool swapped = params_.dims == 1 || params_.flip;  // component 0 is the column's
    A *first = pull_[0].data(), *second = pull_[1].data(), *radial = pull_[params_.dims].data();
    for (int64_t j = 0; j < count_; ++j) {
      const Shape& s = shapes_[j];
      const double n = divisor(j);
      first[j] = static_cast<A>(sign(swapped ? s.along : s.across) / n);
      if (params_.dims == 2) second[j] = static_cast<A>(sign(swapped ? s.across : s.along) / n);
      radial[j] = static_cast<A>(s.distance / n);
    }
  }

  RasterizeParams params_;
  int shift_;  // taps of a tile, as a power of 2
  bool backward_;
  int64_t count_ = 0;
  Axis rows_, columns_;
  std::vector<int64_t> starts_;
  std::vector<double> radii_;
  std::vector<int32_t> taps_, counts_;
  std::vector<Shape> shapes_;
  std::vector<A> phi_, pull_[3];
  std::vector<uint8_t> live_;
};

}  // namespace smpconv
