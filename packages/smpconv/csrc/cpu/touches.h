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

// The taps of one axis, in order of their coordinates, which `turned` negates.
class Axis {
 public:
  Axis(int64_t taps, bool turned) : taps_(taps), x_(taps) {
    for (int64_t i = 0; i < taps; ++i) x_[i] = (turned ? -1.0 : 1.0) * tap_coordinate(i, taps);
    if (taps < 2) return;
    scale_ = (turned ? -0.5 : 0.5) * static_cast<double>(taps - 1);
  }
  int64_t taps() const { return taps_; }
  double at(int64_t i) const { return x_[i]; }

  // [begin, end) holds all taps that are less than `reach` from p, and perhaps a neighbour on either side.
  void near(double p, double reach, int64_t* begin, int64_t* end) const {
    const double middle = 0.5 * static_cast<double>(taps_ - 1) + p * scale_, spread = reach * std::fabs(scale_);
    const double last = static_cast<double>(taps_);
    *begin = static_cast<int64_t>(std::min(std::max(std::floor(middle - spread), 0.0), last));
    *end = static_cast<int64_t>(std::min(std::max(std::ceil(middle + spread) + 1, 0.0), last));
    if (taps_ < 2) *begin = 0, *end = taps_;
  }

 private:
  int64_t taps_;
  double scale_ = 0;
  std::vector<double> x_;
};

// The lists behind Touches, with room that is used again from group to group. A is the type of the sums.
template <class A>
class TouchList {
 public:
  TouchList(const RasterizeParams& p, int64_t lanes, bool backward)
      : params_(p), lanes_(lanes), backward_(backward), rows_(p.height, p.flip), columns_(p.width, false),
        starts_(p.points + 1), live_((p.height * p.width + lanes - 1) / lanes) {}

  // Lists what the points touch; false where one is not finite.
  template <class T>
  bool find(const T* coords, const T* radius) {
    using leanconv::cpu::widen;
    taps_.clear();
    shapes_.clear();
    const int row_part = params_.flip ? 1 : 0, column_part = params_.dims == 1 || params_.flip ? 0 : 1;
    for (int64_t i = 0; i < params_.points; ++i) {
      starts_[i] = static_cast<int64_t>(taps_.size());
      const double r = widen(radius[i]), q = widen(coords[i * params_.dims + column_part]);
      const double p = params_.dims == 1 ? 0.0 : static_cast<double>(widen(coords[i * params_.dims + row_part]));
      if (!std::isfinite(r) || !std::isfinite(q) || !std::isfinite(p)) return false;
      if (r > 0) find_taps(p, q, r);
    }
    starts_[params_.points] = static_cast<int64_t>(taps_.size());
    weigh();
    return true;
  }

  Touches touches() const {
    return {starts_.data(), taps_.data(), phi_.data(), {pull_[0].data(), pull_[1].data(), pull_[2].data()},
            live_.data()};
  }

 private:
  struct Shape {
    double phi, row, column, distance;
  };

  static double sign(double v) { return static_cast<double>((v > 0) - (v < 0)); }

  void find_taps(double p, double q, double r) {
    int64_t row = 0, row_end = 1;
    if (params_.dims == 2) rows_.near(p, r, &row, &row_end);
    for (; row < row_end; ++row) {
      const double across = params_.dims == 2 ? p - rows_.at(row) : 0.0, left = r - std::fabs(across);
      if (left <= 0) continue;
      int64_t column, end;
      columns_.near(q, left, &column, &end);
      for (; column < end; ++column) {
        const double along = q - columns_.at(column);
        const double distance = params_.flip ? std::fabs(along) + std::fabs(across) : std::fabs(across) + std::fabs(along);
        if (!(distance < r)) continue;
        taps_.push_back(static_cast<int32_t>(row * params_.width + column));
        shapes_.push_back({1 - distance / r, sign(across), sign(along), distance});
      }
    }
  }

  void weigh() {
    std::fill(live_.begin(), live_.end(), uint8_t{0});
    if (params_.average) counts_.assign(params_.height * params_.width, 0);
    for (const int32_t tap : taps_) {
      live_[tap / lanes_] = 1;
      if (params_.average) ++counts_[tap];
    }
    phi_.resize(taps_.size());
    for (auto& numbers : pull_) numbers.resize(backward_ ? taps_.size() : 0);
    const bool swapped = params_.dims == 1 || params_.flip;  // component 0 is the column's
    for (size_t j = 0; j < taps_.size(); ++j) {
      const Shape& s = shapes_[j];
      const double n = params_.average ? counts_[taps_[j]] + 1e-6 : 1.0;
      phi_[j] = static_cast<A>(s.phi / n);
      if (!backward_) continue;
      pull_[0][j] = static_cast<A>((swapped ? s.column : s.row) / n);
      if (params_.dims == 2) pull_[1][j] = static_cast<A>((swapped ? s.row : s.column) / n);
      pull_[params_.dims][j] = static_cast<A>(s.distance / n);
    }
  }

  RasterizeParams params_;
  int64_t lanes_;
  bool backward_;
  Axis rows_, columns_;
  std::vector<int64_t> starts_;
  std::vector<int32_t> taps_, counts_;
  std::vector<Shape> shapes_;
  std::vector<A> phi_, pull_[3];
  std::vector<uint8_t> live_;
};

}  // namespace smpconv
