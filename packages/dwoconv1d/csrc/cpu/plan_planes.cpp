// How planes that are read in place are cut, and how their taps are ordered.
#include <algorithm>

#include "cpu/plan.h"

namespace dwoconv1d {
namespace {

// What one unit reads: of small planes several, so that memory is asked for early enough; of large ones a part that
// leaves room in a second-level cache, but is large beside the rows that two parts share.
constexpr int64_t kSmallBytes = 16 << 10, kLargeBytes = 250 << 10;

// Which of 64 neighbouring columns, the first at `column`, lie in an image.
uint64_t live_columns(int64_t column, int64_t width) {
  const auto below = [](int64_t n) { return n >= 64 ? ~uint64_t{0} : n <= 0 ? 0 : (uint64_t{1} << n) - 1; };
  return below(width - column) & ~below(-column);
}

}  // namespace

Plan::Columns Plan::find_columns(const TapSet& set) const {
  Columns found;
  const int64_t taps = static_cast<int64_t>(set.dy.size());
  for (int64_t first = 0, count; first < taps; first += count) {
    const auto below = [&](int64_t t) { return set.dy[t] == set.dy[first] + t - first && set.dx[t] == set.dx[first]; };
    for (count = 1; count < kMostTaps && first + count < taps && below(first + count);) ++count;
    found.columns.push_back({set.dy[first], set.dx[first], first, count});
  }
  std::stable_sort(found.columns.begin(), found.columns.end(),
                   [](const TapColumn& a, const TapColumn& b) { return a.count < b.count; });
  for (int64_t t = 0; t <= kMostTaps; ++t)
    found.ends[t] = std::count_if(found.columns.begin(), found.columns.end(),
                                  [t](const TapColumn& column) { return column.count <= t; });
  for (int64_t q = 0; q < reads_.out_width; q += kTileColumns) {
    const int64_t vectors = (std::min(kTileColumns, reads_.out_width - q) + vector_ - 1) / vector_;
    for (int64_t strip = 0; strip < strips_of(vectors); ++strip) {
      const int64_t first = q + strip_begin(vectors, strip) * vector_;
      for (const TapColumn& column : found.columns) found.live.push_back(live_columns(first + column.dx, reads_.width));
    }
  }
  return found;
}

void Plan::find_plane_tiles() {
  tile_cols_ = std::min(reads_.out_width, kTileColumns);
  tiles_across_ = (reads_.out_width + tile_cols_ - 1) / tile_cols_;
  const int64_t row = tile_cols_ * static_cast<int64_t>(number_);
  tiles_down_ = (reads_.out_height * row + kLargeBytes - 1) / kLargeBytes;
  tile_rows_ = (reads_.out_height + tiles_down_ - 1) / tiles_down_;
  tiles_down_ = (reads_.out_height + tile_rows_ - 1) / tile_rows_;
  const int64_t blocks = static_cast<int64_t>(blocks_.size());
  range_ = std::max<int64_t>(1, kSmallBytes / (tile_rows_ * row));
  ranges_ = (blocks + range_ - 1) / range_;
  range_ = (blocks + ranges_ - 1) / ranges_;
  ranges_ = (blocks + range_ - 1) / range_;
  for (const TapSet& set : sets_) {
    if (!set.dy.empty()) bottom_ = std::max(bottom_, set.dy.back());
    columns_.push_back(find_columns(set));
  }
}

std::vector<Plane> Plan::planes(const float* weights) const {
  std::vector<Plane> planes;
  for (const Block& block : blocks_) {
    const Columns& c = columns_[block.set];
    Plane plane = {c.columns.data(), {}, c.live.data(), weights + block.weights};
    std::copy_n(c.ends, kMostTaps + 1, plane.ends);
    planes.push_back(plane);
  }
  return planes;
}

}  // namespace dwoconv1d
