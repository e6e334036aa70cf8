#include "cpu/plan_lines.h"

#include <algorithm>

namespace dwoconv1d {
namespace {

constexpr int64_t kVector = 16;
// Tiles whose pixels, and those around that they read, fit a second-level cache beside the next one's. Measured.
constexpr int64_t kTileCols = 64, kMixedTileCols = 32, kTileVectors = 8;
// Lines of so few taps share vectors with those of neighbouring channels, since memory costs more than multiply-adds:
// fewer vectors, and no cache line touched by two of them. Measured.
constexpr int64_t kMostMixedTaps = 13;
static_assert(kTileCols <= 8 * kMostBlocks, "");
// Multiply-adds that are worth handing to another thread: a few microseconds.
constexpr int64_t kGrainWork = 1 << 18;

}  // namespace

bool LinePlan::accepts(const Reads& r, Strides source, Strides target) {
  return source.c == 1 && target.c == 1 && r.channels >= kVector && r.stride_h == 1 && r.stride_w == 1 &&
         r.out_height <= r.height && r.out_width <= r.width;
}

LinePlan::LinePlan(const Reads& reads, int64_t batch, Strides source, Strides target, const float* weight,
                   bool residual, const float* bias)
    : reads_(reads), batch_(batch), source_(source), target_(target) {
  const std::vector<Run> runs = find_runs();
  const int64_t channels = reads_.channels;
  int64_t vectors = 0;
  for (const Run& run : runs) vectors += ceil_div(run.end - run.begin, kVector);
  // Where runs of channels are short, blocks of mixed lines in packed rows waste less.
  possible_ = 2 * channels >= vectors * kVector;
  const bool mixed = possible_ && vectors > ceil_div(channels, kVector) && reads_.taps <= kMostMixedTaps;
  if (mixed) {
    for (int64_t c = 0; c < channels; c += kVector) add_mixed_walk(runs, c, std::min(c + kVector, channels));
  } else {
    for (const Run& run : runs) {
      possible_ = possible_ && add_walk(run);
      if (possible_) add_vectors(run.begin, run.end);
    }
  }
  if (!possible_) return;
  fill(weight, residual, bias);
  groups_ = ceil_div(static_cast<int64_t>(vectors_.size()), kTileVectors);
  tiles_across_ = ceil_div(reads_.out_width, mixed ? kMixedTileCols : kTileCols);
  tile_cols_ = ceil_div(reads_.out_width, tiles_across_);
  tile_rows_ = std::min(reads_.out_height, block_for(reads_.out_height) == 14 ? int64_t{14} : int64_t{16});
  tiles_down_ = ceil_div(reads_.out_height, tile_rows_);
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
    for (const Run& run : walks_[v.walk].runs) {
      for (int64_t c = std::max(v.begin, run.begin); c < std::min(v.end, run.end); ++c) {
        float* out = numbers_.data() + aligned_ + v.numbers + (c - v.first);
        if (bias != nullptr) *out = bias[c];
        for (int64_t s = 0; s < reads_.taps; ++s)
          if (run.map[s] >= 0)
            out[(1 + run.map[s]) * kVector] += weight[c * reads_.taps + s] + (residual && s == reads_.taps / 2);
      }
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
