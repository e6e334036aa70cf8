#include "cpu/plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dwoconv1d {

bool resolve(const Reads& r, int64_t channel, int64_t s, Tap* tap) {
  int64_t dy = r.offsets[channel * r.taps + s], dx = r.offsets[(r.channels + channel) * r.taps + s];
  if (r.transposed) {
    dy = r.row_class - dy;
    dx = r.column_class - dx;
    if (dy % r.op_stride_h != 0 || dx % r.op_stride_w != 0) return false;
    dy /= r.op_stride_h;
    dx /= r.op_stride_w;
  }
  *tap = {dy, dx};
  return dy < r.height && dx < r.width && dy + (r.out_height - 1) * r.stride_h >= 0 &&
         dx + (r.out_width - 1) * r.stride_w >= 0;
}

namespace {

// Scratch that one block may fill, and memory that one unit may read: parts of a second-level cache. Measured.
constexpr int64_t kScratchBytes = 300 << 10, kUnitBytes = 250 << 10;
// Vectors of channels in a unit: neighbours share cache lines of channels_last pixels.
constexpr int64_t kRange = 8;
// Pieces that sums over all images are made of: enough for many threads.
constexpr int64_t kSumTasks = 32;
// In units of one tap for one pixel of one vector: the rest of the work for that pixel, and all of it for one channel
// of it where pixels fill the lanes though channels lie side by side. Measured.
constexpr double kBlockCost = 20, kPlaneCost = 12;
// Multiply-adds that are worth handing to another thread: a few microseconds.
constexpr int64_t kGrainWork = 1 << 18;

TapSet make_set(std::vector<Tap> taps) {
  std::sort(taps.begin(), taps.end());
  taps.erase(std::unique(taps.begin(), taps.end()), taps.end());
  TapSet set;
  for (const Tap& tap : taps) {
    set.dy.push_back(tap.dy);
    set.dx.push_back(tap.dx);
  }
  return set;
}

}  // namespace

// The taps of a run of channels, one per weight; those that never reach the image are left out of `live`.
struct Plan::Run {
  int64_t first, channels;
  std::vector<Tap> taps;
  std::vector<bool> alive;
  std::vector<Tap> live;
};

Plan::Plan(const Reads& reads, int64_t batch, Strides source, Strides target, int64_t vector_bytes, DType dtype,
           bool in_place)
    : reads_(reads), batch_(batch), dtype_(dtype) {
  number_ = dtype == DType::float64 ? sizeof(double) : sizeof(float);
  vector_ = vector_bytes / static_cast<int64_t>(number_);
  in_place_ = in_place && dtype == DType::float32 && reads.stride_h == 1 && reads.stride_w == 1 && source.w == 1 &&
              target.w == 1;
  find_blocks(find_runs(), source, target);
  in_place_ ? find_plane_tiles() : find_tiles(source.c == 1);
}

std::vector<Plan::Run> Plan::find_runs() const {
  const size_t row = reads_.taps * sizeof(int32_t);
  const int32_t *dy = reads_.offsets, *dx = dy + reads_.channels * reads_.taps;
  std::vector<Run> runs;
  for (int64_t c = 0; c < reads_.channels; ++c, dy += reads_.taps, dx += reads_.taps) {
    if (c > 0 && std::memcmp(dy, dy - reads_.taps, row) == 0 && std::memcmp(dx, dx - reads_.taps, row) == 0) {
      ++runs.back().channels;
      continue;
    }
    Run run = {c, 1, {}, {}, {}};
    for (int64_t s = 0; s < reads_.taps; ++s) {
      Tap tap;
      run.alive.push_back(resolve(reads_, c, s, &tap));
      run.taps.push_back(tap);
      if (run.alive.back()) run.live.push_back(tap);
    }
    runs.push_back(std::move(run));
  }
  return runs;
}

size_t Plan::add_map(const Run& run, const TapSet& set) {
  std::vector<int64_t> map;
  for (size_t s = 0; s < run.taps.size(); ++s) {
    int64_t low = 0;
    if (run.alive[s]) {
      const Tap& tap = run.taps[s];
      low = std::lower_bound(set.dy.begin(), set.dy.end(), tap.dy) - set.dy.begin();
      while (set.dx[low] != tap.dx) ++low;
    }
    map.push_back(run.alive[s] ? low : -1);
  }
  maps_.push_back(std::move(map));
  return maps_.size() - 1;
}

// Blocks of channels that all have the run's taps.
void Plan::add_blocks(const Run& run, int64_t step) {
  sets_.push_back(make_set(run.live));
  const size_t map = add_map(run, sets_.back());
  for (int64_t c = 0; c < run.channels; c += step) {
    const int64_t channels = std::min(step, run.channels - c);
    pieces_.push_back({run.first + c, channels, map});
    blocks_.push_back({static_cast<int64_t>(sets_.size()) - 1, run.first + c, channels, weights_, pieces_.size() - 1,
                       pieces_.size()});
    weights_ += sets_.back().dy.size() * step;
  }
}

// Blocks that fill every lane: each has the taps of all its channels, with weight zero where a channel lacks one.
void Plan::add_mixed_blocks(const std::vector<Run>& runs) {
  size_t from = 0;
  for (int64_t c = 0; c < reads_.channels; c += vector_) {
    const int64_t end = std::min(c + vector_, reads_.channels);
    while (runs[from].first + runs[from].channels <= c) ++from;
    std::vector<Tap> taps;
    for (size_t r = from; r < runs.size() && runs[r].first < end; ++r)
      taps.insert(taps.end(), runs[r].live.begin(), runs[r].live.end());
    sets_.push_back(make_set(std::move(taps)));
    const size_t first_piece = pieces_.size();
    for (size_t r = from; r < runs.size() && runs[r].first < end; ++r) {
      const int64_t begin = std::max(c, runs[r].first), stop = std::min(end, runs[r].first + runs[r].channels);
      pieces_.push_back({begin, stop - begin, add_map(runs[r], sets_.back())});
    }
    blocks_.push_back({static_cast<int64_t>(sets_.size()) - 1, c, end - c, weights_, first_piece, pieces_.size()});
    weights_ += sets_.back().dy.size() * vector_;
  }
}

void Plan::find_blocks(const std::vector<Run>& runs, Strides source, Strides target) {
  int64_t blocks = 0;
  for (const Run& run : runs) blocks += (run.channels + vector_ - 1) / vector_;
  lanes_ = Lanes::channels;
  if (source.c == 1 && target.c == 1 && !in_place_) {
    const auto cost = [this](double per_block) {
      double sum = 0;
      for (const Block& block : blocks_) sum += per_block + sets_[block.set].dy.size();
      return sum;
    };
    const auto clear = [this] {
      sets_.clear();
      maps_.clear();
      pieces_.clear();
      blocks_.clear();
      weights_ = 0;
    };
    double mixed = 0, separate = kBlockCost * blocks;
    for (const Run& run : runs) separate += (run.channels + vector_ - 1) / vector_ * make_set(run.live).dy.size();
    add_mixed_blocks(runs);
    mixed = cost(kBlockCost);
    const double single = kPlaneCost * reads_.channels;
    if (mixed <= separate && mixed <= single) return;
    clear();
    if (separate > single) lanes_ = Lanes::pixels;
  } else {
    // Turning squares of 16 x 16 numbers pays for small planes, whose rows fill vectors badly, and up to middling ones
    // for many taps when all lanes are live. Wider tiles of 16 channels overlap too much, or leave the cache. Measured.
    const bool turns = vector_ == 16 && reads_.stride_w == 1 && source.w == 1 && target.w == 1;
    const double filled = static_cast<double>(reads_.channels) / static_cast<double>(blocks * vector_);
    const bool pays =
        reads_.out_width <= 28 ? filled >= 0.66 : reads_.out_width < 64 && filled >= 0.9 && reads_.taps >= 12;
    // Without copies rows need only be somewhat full.
    const int64_t lanes = (reads_.out_width + vector_ - 1) / vector_ * vector_;
    in_place_ = in_place_ && (!turns || !pays || reads_.out_width > 28 || 10 * reads_.out_width >= 7 * lanes);
    if (!turns || !pays || in_place_) lanes_ = Lanes::pixels;
  }
  for (const Run& run : runs) add_blocks(run, lanes_ == Lanes::channels ? vector_ : 1);
}

Window Plan::window(const TapSet& set) const {
  int64_t first = 0, last = 0;
  for (int64_t dx : set.dx) {
    first = std::min(first, floor_div(dx, reads_.stride_w));
    last = std::max(last, floor_div(dx, reads_.stride_w));
  }
  const int64_t top = set.dy.empty() ? 0 : std::min<int64_t>(0, set.dy.front());
  const int64_t bottom = set.dy.empty() ? 0 : std::max<int64_t>(0, set.dy.back());
  const int64_t round = lanes_ == Lanes::pixels ? vector_ : 1;
  return {(tile_rows_ - 1) * reads_.stride_h + 1 + bottom - top,
          (tile_cols_ + round - 1) / round * round + last - first, first};
}

void Plan::find_tiles(bool channels_last) {
  const int64_t blocks = static_cast<int64_t>(blocks_.size());
  range_ = !channels_last ? 1 : lanes_ == Lanes::channels ? kRange : kMaxBatch;
  ranges_ = (blocks + range_ - 1) / range_;
  range_ = (blocks + ranges_ - 1) / ranges_;
  const int64_t lanes = lanes_ == Lanes::channels ? vector_ : 1, unit = lanes * static_cast<int64_t>(number_);
  const int64_t strip = 14 * (lanes_ == Lanes::channels ? 1 : vector_);
  const int64_t pixel = (reads_.channels + ranges_ - 1) / ranges_ * static_cast<int64_t>(number_);
  // Whole rows where enough of them fit, else narrower tiles: neither should be much smaller than what it overlaps.
  tile_cols_ = reads_.out_width;
  for (;;) {
    tile_rows_ = 1;
    int64_t fitting = kUnitBytes / (tile_cols_ * reads_.stride_w * reads_.stride_h * pixel), overlap = 0;
    for (const TapSet& set : sets_) {
      const Window w = window(set);
      const int64_t rows = kScratchBytes / (w.cols * reads_.stride_w * unit) - w.rows;
      fitting = std::min(fitting, rows / reads_.stride_h);
      overlap = std::max(overlap, w.rows - 1);
    }
    tile_rows_ = std::min(reads_.out_height, std::max<int64_t>(8, fitting));
    if (tile_rows_ == reads_.out_height || fitting >= std::max<int64_t>(8, overlap / 2) || tile_cols_ <= strip) break;
    tile_cols_ = (tile_cols_ / 2 + strip - 1) / strip * strip;
  }
  tiles_down_ = (reads_.out_height + tile_rows_ - 1) / tile_rows_;
  tiles_across_ = (reads_.out_width + tile_cols_ - 1) / tile_cols_;
  tile_rows_ = (reads_.out_height + tiles_down_ - 1) / tiles_down_;
  for (const TapSet& set : sets_) {
    const Window w = window(set);
    const size_t numbers = (w.rows * w.cols * reads_.stride_w * lanes + vector_) * number_;
    scratch_bytes_ = std::max(scratch_bytes_, (numbers + (set.dy.size() + 8) * sizeof(int64_t) + 63) / 64 * 64);
    if (!set.dy.empty()) bottom_ = std::max(bottom_, set.dy.back());
    geometries_.push_back(
        {lanes_, set.taps(), w, reads_.out_height, reads_.out_width, reads_.stride_h, reads_.stride_w});
  }
}

int64_t Plan::batch() const {
  return std::max<int64_t>(1, std::min({range_, kMaxBatch, kScratchBytes / static_cast<int64_t>(scratch_bytes_)}));
}

Unit Plan::unit(int64_t index) const {
  const int64_t range = index % ranges_, across = index / ranges_ % tiles_across_;
  const int64_t down = index / ranges_ / tiles_across_ % tiles_down_;
  const Area area = {down * tile_rows_, std::min(reads_.out_height, (down + 1) * tile_rows_), across * tile_cols_,
                     std::min(reads_.out_width, (across + 1) * tile_cols_)};
  const int64_t blocks = static_cast<int64_t>(blocks_.size());
  return {index / ranges_ / tiles_across_ / tiles_down_, area, range * range_, std::min(blocks, (range + 1) * range_)};
}

int64_t Plan::chunks() const {
  return std::min(units() / ranges_, std::max<int64_t>(1, (kSumTasks + ranges_ - 1) / ranges_));
}

Prefetch Plan::share(const Unit& unit, const void* data, Strides s, const Area& area, int64_t part) const {
  const int64_t bytes = bytes_of(dtype_);
  const Block &first = blocks_[unit.first_block], &last = blocks_[unit.last_block - 1];
  const int64_t channels = last.first + last.channels - first.first, parts = unit.last_block - unit.first_block;
  const int64_t rows = area.p1 - area.p0, cols = area.q1 - area.q0;
  Prefetch all = {static_cast<const char*>(data), rows, s.h * bytes, cols, s.w * bytes, channels * bytes};
  all.base += (unit.image * s.n + first.first * s.c + area.p0 * s.h + area.q0 * s.w) * bytes;
  if (s.c != 1) all = {all.base, channels, s.c * bytes, rows, s.h * bytes, cols * bytes};  // planes, rows, columns
  if (all.run_stride == all.bytes) all = {all.base, all.rows, all.row_stride, 1, 0, all.runs * all.bytes};
  if (part >= parts) return {nullptr, 0, 0, 0, 0, 0};
  const int64_t from = all.rows * part / parts, to = all.rows * (part + 1) / parts;
  return {all.base + from * all.row_stride, to - from, all.row_stride, all.runs, all.run_stride, all.bytes};
}

Prefetch Plan::reads_of(const Unit& unit, const void* source, Strides strides, int64_t part) const {
  // The rows above were read by the tile above.
  Area area = unit.area;
  area.p0 = std::min(reads_.height, area.p0 * reads_.stride_h + (area.p0 > 0 ? bottom_ : 0));
  area.p1 = std::max(area.p0, std::min(reads_.height, area.p1 * reads_.stride_h + bottom_));
  area.q0 = area.q0 * reads_.stride_w;
  area.q1 = std::min(reads_.width, area.q1 * reads_.stride_w);
  return share(unit, source, strides, area, part);
}

Prefetch Plan::writes_of(const Unit& unit, const void* target, Strides strides, int64_t part) const {
  return share(unit, target, strides, unit.area, part);
}

int64_t Plan::grain() const {
  size_t taps = 1;
  for (const TapSet& set : sets_) taps = std::max(taps, set.dy.size());
  const int64_t work =
      tile_rows_ * tile_cols_ * range_ * static_cast<int64_t>(taps) * (lanes_ == Lanes::channels ? vector_ : 1);
  return std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, work));
}

}  // namespace dwoconv1d
