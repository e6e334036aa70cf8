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

Plan::Groups Plan::find_groups(const TapSet& set) const {
  Groups found;
  const int64_t taps = static_cast<int64_t>(set.dy.size());
  // Taps side by side share registers, see tap_groups.h, unless a tile's only vector may be full.
  const int64_t rest = reads_.out_width % kTileColumns;
  const bool share = rest == 0 || rest > vector_ || rest + kMostTaps - 1 <= vector_;
  const auto count_from = [&](int64_t first, int64_t down, int64_t across) {
    const auto follows = [&](int64_t n) {
      return set.dy[first + n] == set.dy[first] + n * down && set.dx[first + n] == set.dx[first] + n * across;
    };
    int64_t n = 1;
    while (first + n < taps && follows(n)) ++n;
    return n;
  };
  for (int64_t first = 0; first < taps;) {
    const int64_t down = count_from(first, 1, 0), side = share ? count_from(first, 0, 1) : 1,
                  count = std::max(down, side);
    const int64_t parts = (count + kMostTaps - 1) / kMostTaps;
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t from = first + count * i / parts;
      const int size = static_cast<int>(first + count * (i + 1) / parts - from);
      found.groups.push_back({set.dy[from], set.dx[from], from, down >= side ? shape_of(size, 1) : shape_of(1, size)});
    }
    first += count;
  }
  std::stable_sort(found.groups.begin(), found.groups.end(),
                   [](const TapGroup& a, const TapGroup& b) { return a.shape < b.shape; });
  for (int s = 0; s <= kShapes; ++s)
    found.ends[s] =
        std::count_if(found.groups.begin(), found.groups.end(), [s](const TapGroup& group) { return group.shape < s; });
  for (int64_t q = 0; q < reads_.out_width; q += kTileColumns) {
    const int64_t vectors = (std::min(kTileColumns, reads_.out_width - q) + vector_ - 1) / vector_;
    for (int64_t strip = 0; strip < strips_of(vectors); ++strip) {
      const int64_t first = q + strip_begin(vectors, strip) * vector_;
      for (int64_t dx : set.dx) found.live.push_back(live_columns(first + dx, reads_.width));
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
    groups_.push_back(find_groups(set));
  }
}

std::vector<Plane> Plan::planes(const float* weights) const {
  std::vector<Plane> planes;
  for (const Block& block : blocks_) {
    const Groups& g = groups_[block.set];
    Plane plane = {
        g.groups.data(), {}, g.live.data(), static_cast<int64_t>(sets_[block.set].dy.size()), weights + block.weights};
    std::copy_n(g.ends, kShapes + 1, plane.ends);
    planes.push_back(plane);
  }
  return planes;
}

}  // namespace dwoconv1d
