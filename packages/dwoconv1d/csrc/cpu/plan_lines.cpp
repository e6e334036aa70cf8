#include "cpu/plan_lines.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace dwoconv1d {
namespace {

constexpr int64_t kVector = 16;
// Tiles whose pixels, and those around that they read, fit a second-level cache beside the next one's. Measured.
constexpr int64_t kTileCols = 64, kTileVectors = 8;
static_assert(kTileCols <= 8 * kMostBlocks, "");
// Multiply-adds that are worth handing to another thread: a few microseconds.
constexpr int64_t kGrainWork = 1 << 18;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Outputs of a block: of the two sizes the one that fits better.
int64_t block_for(int64_t outputs) { return ceil_div(outputs, 14) * 14 <= ceil_div(outputs, 8) * 8 ? 14 : 8; }

}  // namespace

bool LinePlan::accepts(const Reads& r, Strides source, Strides target) {
  return source.c == 1 && target.c == 1 && r.channels >= kVector && r.stride_h == 1 && r.stride_w == 1 &&
         r.out_height <= r.height && r.out_width <= r.width;
}

LinePlan::LinePlan(const Reads& reads, int64_t batch, Strides source, Strides target, const float* weight,
                   bool residual, const float* bias)
    : reads_(reads), batch_(batch), source_(source), target_(target) {
  const size_t row = reads_.taps * sizeof(int32_t);
  const int32_t *dy = reads_.offsets, *dx = dy + reads_.channels * reads_.taps;
  const auto same = [&](int64_t a, int64_t b) {
    return std::memcmp(dy + a * reads_.taps, dy + b * reads_.taps, row) == 0 &&
           std::memcmp(dx + a * reads_.taps, dx + b * reads_.taps, row) == 0;
  };
  const auto run_end = [&](int64_t begin) {
    int64_t end = begin + 1;
    while (end < reads_.channels && same(begin, end)) ++end;
    return end;
  };
  int64_t vectors = 0;
  for (int64_t begin = 0, end; begin < reads_.channels; begin = end) {
    end = run_end(begin);
    vectors += ceil_div(end - begin, kVector);
  }
  // Where runs of channels are short, blocks of mixed lines in packed rows waste less.
  possible_ = 2 * reads_.channels >= vectors * kVector;
  for (int64_t begin = 0, end; begin < reads_.channels && possible_; begin = end) {
    end = run_end(begin);
    possible_ = add_walk(begin);
    if (possible_) add_vectors(begin, end);
  }
  if (!possible_) return;
  fill(weight, residual, bias);
  groups_ = ceil_div(vectors, kTileVectors);
  tiles_across_ = ceil_div(reads_.out_width, kTileCols);
  tile_cols_ = ceil_div(reads_.out_width, tiles_across_);
  tile_rows_ = std::min(reads_.out_height, block_for(reads_.out_height) == 14 ? int64_t{14} : int64_t{16});
  tiles_down_ = ceil_div(reads_.out_height, tile_rows_);
}

bool LinePlan::add_walk(int64_t channel) {
  Walk walk = {};
  std::vector<Tap> taps, sorted;
  std::vector<bool> alive;
  for (int64_t s = 0; s < reads_.taps; ++s) {
    Tap tap;
    alive.push_back(resolve(reads_, channel, s, &tap));
    taps.push_back(tap);
    if (alive.back()) sorted.push_back(tap);
  }
  int64_t rows = 0, cols = 0, sign = 1;
  if (!sorted.empty()) {
    const Tap &a = sorted.front(), &b = sorted.back();
    rows = std::abs(b.dy - a.dy);
    cols = std::abs(b.dx - a.dx);
    sign = (b.dy - a.dy < 0) == (b.dx - a.dx < 0) ? 1 : -1;
  }
  const bool flat = cols > rows;
  const auto along = [flat](const Tap& t) { return flat ? t.dx : t.dy; };
  const auto across = [flat](const Tap& t) { return flat ? t.dy : t.dx; };
  const auto before = [&](const Tap& a, const Tap& b) {
    return along(a) != along(b) ? along(a) < along(b) : sign * across(a) < sign * across(b);
  };
  std::sort(sorted.begin(), sorted.end(), before);
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  int64_t slant = sorted.size() > 1 ? sign : 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i > 0 && sign * across(sorted[i]) < sign * across(sorted[i - 1])) return false;
    if (across(sorted[i]) != slant * along(sorted[i])) slant = 0;
    reach_h_ = std::max(reach_h_, std::abs(sorted[i].dy));
    reach_w_ = std::max(reach_w_, std::abs(sorted[i].dx));
  }
  for (size_t s = 0; s < taps.size(); ++s) {
    const auto found = std::lower_bound(sorted.begin(), sorted.end(), taps[s], before);
    walk.map.push_back(alive[s] ? found - sorted.begin() : -1);
  }
  walk.taps = static_cast<int64_t>(sorted.size());
  walk.line.flat = flat;
  walk.line.slant = slant;
  walk.line.block = block_for(flat ? reads_.out_width : reads_.out_height);
  if (!sorted.empty()) {
    walk.line.rise = across(sorted.back()) - across(sorted.front());
    walk.line.run = along(sorted.back()) - along(sorted.front());
  }
  find_segments(&walk, sorted);
  find_tables(&walk);
  walks_.push_back(std::move(walk));
  return true;
}

void LinePlan::find_segments(Walk* walk, const std::vector<Tap>& taps) const {
  const bool flat = walk->line.flat;
  const auto follows = [&](const Tap& a, const Tap& b) {
    const int64_t along = flat ? b.dx - a.dx : b.dy - a.dy, across = flat ? b.dy - a.dy : b.dx - a.dx;
    return along == 1 && across == walk->line.slant;
  };
  const int64_t count = static_cast<int64_t>(taps.size());
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && follows(taps[end - 1], taps[end]);) ++end;
    const int64_t parts = ceil_div(end - begin, kMostSegment);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t from = begin + (end - begin) * i / parts, to = begin + (end - begin) * (i + 1) / parts;
      const Tap& tap = taps[from];
      const int64_t distance = (tap.dy * source_.h + tap.dx * source_.w) * static_cast<int64_t>(sizeof(float));
      walk->segments.push_back({flat ? tap.dx : tap.dy, flat ? tap.dy : tap.dx, to - from, distance, from});
    }
  }
}

void LinePlan::find_tables(Walk* walk) const {
  Line& line = walk->line;
  const std::vector<Segment>& s = walk->segments;
  const int32_t count = static_cast<int32_t>(s.size());
  const auto last = [&](int32_t i) { return s[i].along + s[i].taps + line.block - 2; };  // input of its last output
  line.reach = 0;
  for (int32_t i = 0; i < count; ++i)
    line.reach = std::max({line.reach, std::abs(s[i].along), std::abs(s[i].along + s[i].taps - 1)});
  line.reach += line.block;
  const int64_t breadth = line.flat ? reads_.out_height : reads_.out_width, n = line.reach + 1;
  const int64_t limit = line.flat ? reads_.height : reads_.width;
  walk->tables.resize(4 * n + 2 * breadth);
  int32_t *first_live = walk->tables.data(), *first_whole = first_live + n, *end_whole = first_whole + n;
  int32_t *end_live = end_whole + n, *first_across = end_live + n, *end_across = first_across + breadth;
  for (int64_t d = 0; d < n; ++d) {
    int32_t live = 0, whole = 0, end = count, last_whole = count;
    while (live < count && last(live) < -d) ++live;
    while (whole < count && s[whole].along < -d) ++whole;
    while (end > 0 && s[end - 1].along >= d) --end;
    while (last_whole > 0 && last(last_whole - 1) >= d) --last_whole;
    first_live[d] = live;
    first_whole[d] = whole;
    end_live[d] = end;
    end_whole[d] = last_whole;
  }
  const auto inside = [&](int64_t b, int32_t i) { return b + s[i].across >= 0 && b + s[i].across < limit; };
  for (int64_t b = 0; b < breadth; ++b) {
    int32_t first = 0, end = count;
    while (first < end && !inside(b, first)) ++first;
    while (end > first && !inside(b, end - 1)) --end;
    first_across[b] = first;
    end_across[b] = end;
  }
  line.segments = s.data();
  line.count = count;
  line.first_live = first_live;
  line.first_whole = first_whole;
  line.end_whole = end_whole;
  line.end_live = end_live;
  line.first_across = first_across;
  line.end_across = end_across;
}

void LinePlan::add_vectors(int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; c += kVector) {
    const int64_t stop = std::min(end, c + kVector), even = c / kVector * kVector;
    // Within one cache line where possible, and never beyond a pixel, which may be the tensor's last.
    const int64_t first = std::min(stop <= even + kVector ? even : c, reads_.channels - kVector);
    vectors_.push_back({walks_.size() - 1, first, c, stop, 0});
  }
}

void LinePlan::fill(const float* weight, bool residual, const float* bias) {
  size_t size = kVector;
  for (Lanes16& v : vectors_) {
    v.numbers = size - kVector;
    size += kVector * (1 + walks_[v.walk].taps);
  }
  numbers_.resize(size);
  const size_t over = reinterpret_cast<uintptr_t>(numbers_.data()) / sizeof(float) % kVector;
  aligned_ = over == 0 ? 0 : kVector - over;
  for (const Lanes16& v : vectors_) {
    const std::vector<int64_t>& map = walks_[v.walk].map;
    for (int64_t c = v.begin; c < v.end; ++c) {
      float* out = numbers_.data() + aligned_ + v.numbers + (c - v.first);
      if (bias != nullptr) *out = bias[c];
      for (int64_t s = 0; s < reads_.taps; ++s)
        if (map[s] >= 0)
          out[(1 + map[s]) * kVector] += weight[c * reads_.taps + s] + (residual && s == reads_.taps / 2);
    }
  }
}

LinePlan::Unit LinePlan::unit(int64_t index) const {
  const int64_t down = index % tiles_down_, across = index / tiles_down_ % tiles_across_;
  const int64_t group = index / tiles_down_ / tiles_across_ % groups_, vectors = static_cast<int64_t>(vectors_.size());
  const Area area = {down * tile_rows_, std::min(reads_.out_height, (down + 1) * tile_rows_), across * tile_cols_,
                     std::min(reads_.out_width, (across + 1) * tile_cols_)};
  return {index / tiles_down_ / tiles_across_ / groups_, area, static_cast<size_t>(vectors * group / groups_),
          static_cast<size_t>(vectors * (group + 1) / groups_)};
}

// The part-th of `parts` equal parts of an area of the unit's channels.
Prefetch LinePlan::share(const Unit& unit, const float* data, Strides s, Area area, int64_t part, int64_t parts) const {
  const int64_t size = sizeof(float), first = vectors_[unit.first].begin;
  const int64_t rows = area.p1 - area.p0, from = rows * part / parts, to = rows * (part + 1) / parts;
  const float* base = data + unit.image * s.n + (area.p0 + from) * s.h + area.q0 * s.w + first;
  const int64_t bytes = (vectors_[unit.last - 1].end - first) * size, cols = area.q1 - area.q0;
  Prefetch wanted = {reinterpret_cast<const char*>(base), to - from, s.h * size, cols, s.w * size, bytes};
  if (wanted.run_stride == bytes) wanted = {wanted.base, wanted.rows, wanted.row_stride, 1, 0, cols * bytes};
  return wanted;
}

void LinePlan::run(int64_t index, int64_t after, const float* x, float* y, void (*conv_line)(const LineTask&)) const {
  const Unit now = unit(index), next = unit(after);
  Area ahead = next.area;
  // The rows above were read by the tile above.
  ahead.p0 = ahead.p0 == 0 ? 0 : std::min(reads_.height, ahead.p0 + reach_h_);
  ahead.p1 = std::min(reads_.height, ahead.p1 + reach_h_);
  ahead.q0 = std::max<int64_t>(0, ahead.q0 - reach_w_);
  ahead.q1 = std::min(reads_.width, ahead.q1 + reach_w_);
  const int64_t size = sizeof(float), parts = now.last - now.first;
  for (size_t i = now.first; i < now.last; ++i) {
    const Lanes16& v = vectors_[i];
    const float* numbers = numbers_.data() + aligned_ + v.numbers;
    const int64_t part = i - now.first;
    LineTask task;
    task.line = &walks_[v.walk].line;
    task.source = reinterpret_cast<const char*>(x + now.image * source_.n + v.first);
    task.out = reinterpret_cast<char*>(y + now.image * target_.n + v.first);
    task.source_h = source_.h * size;
    task.source_w = source_.w * size;
    task.out_h = target_.h * size;
    task.out_w = target_.w * size;
    task.height = reads_.height;
    task.width = reads_.width;
    task.area = now.area;
    task.bias = numbers;
    task.weight = numbers + kVector;
    task.lanes = ((1u << (v.end - v.first)) - 1) & ~((1u << (v.begin - v.first)) - 1);
    task.reads = share(next, x, source_, ahead, part, parts);
    task.writes = share(next, y, target_, next.area, part, parts);
    conv_line(task);
  }
}

int64_t LinePlan::grain() const {
  int64_t taps = 1;
  for (const Walk& walk : walks_) taps = std::max(taps, walk.taps);
  const int64_t work = tile_rows_ * tile_cols_ * std::min<int64_t>(kTileVectors, vectors_.size()) * kVector * taps;
  return std::max<int64_t>(1, kGrainWork / work);
}

}  // namespace dwoconv1d
