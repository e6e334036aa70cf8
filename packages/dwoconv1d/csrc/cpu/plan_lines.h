// The plan of a convolution by lines, where channels lie side by side: see line.h.
#pragma once

#include <vector>

#include "cpu/line.h"
#include "cpu/plan.h"

namespace dwoconv1d {

static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Outputs of a block: of the two sizes the one that fits better.
static constexpr int64_t block_for(int64_t outputs) {
  return ceil_div(outputs, 14) * 14 <= ceil_div(outputs, 8) * 8 ? 14 : 8;
}

class LinePlan {
 public:
  // float32 with stride 1; `weight` (C, K), `bias` (C,) or null.
  LinePlan(const Reads& reads, int64_t batch, Strides source, Strides target, const float* weight, bool residual,
           const float* bias);

  // Whether there are enough channels to fill lanes, and every run of them has taps on a line: one step along it may
  // lead anywhere, but never back.
  static bool accepts(const Reads& reads, Strides source, Strides target);
  bool possible() const { return possible_; }
  int64_t units() const { return batch_ * groups_ * tiles_across_ * tiles_down_; }
  int64_t grain() const;  // units that are worth a thread
  void run(int64_t unit, int64_t next, const float* x, float* y, void (*conv_line)(const LineTask&)) const;

 private:
  // Neighbouring channels with equal offsets, and where each of their K weights belongs among a walk's taps, or -1.
  struct Run {
    int64_t begin, end;
    std::vector<Tap> taps;
    std::vector<bool> alive;
    std::vector<int64_t> map;
  };
  // The line of one run, or the taps of several runs that share a vector.
  struct Walk {
    Line line;
    std::vector<Segment> segments;
    std::vector<int32_t> tables;
    std::vector<Run> runs;
    int64_t taps;
  };
  // Channels [begin, end), in the lanes of a vector that starts at channel `first`.
  struct Lanes16 {
    size_t walk;
    int64_t first, begin, end;
    size_t numbers;  // where its bias, and behind it its weights, are
  };
  struct Unit {
    int64_t image;
    Area area;
    size_t first, last;  // of vectors_
  };

  std::vector<Run> find_runs() const;
  bool add_walk(const Run& run);
  void add_mixed_walk(const std::vector<Run>& all, int64_t begin, int64_t end);
  void find_segments(Walk* walk, const std::vector<Tap>& taps) const;
  void find_tables(Walk* walk, bool mixed) const;
  void add_vectors(int64_t begin, int64_t end);
  void fill(const float* weight, bool residual, const float* bias);
  Unit unit(int64_t index) const;
  Prefetch share(const Unit& unit, const float* data, Strides strides, Area area, int64_t part, int64_t parts) const;

  Reads reads_;
  int64_t batch_;
  Strides source_, target_;
  bool possible_ = true;
  std::vector<Walk> walks_;
  std::vector<Lanes16> vectors_;
  std::vector<float> numbers_;
  size_t aligned_ = 0;  // the first of numbers_ at the start of a cache line
  int64_t reach_h_ = 0, reach_w_ = 0;
  int64_t groups_, tile_rows_, tile_cols_, tiles_down_, tiles_across_;
};

}  // namespace dwoconv1d
