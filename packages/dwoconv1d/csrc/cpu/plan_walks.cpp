// How the lines of a plan are walked: their segments, and which of those are in the image where.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cpu/plan_lines.h"

namespace dwoconv1d {

std::vector<LinePlan::Run> LinePlan::find_runs() const {
  const size_t row = reads_.taps * sizeof(int32_t);
  const int32_t *dy = reads_.offsets, *dx = dy + reads_.channels * reads_.taps;
  std::vector<Run> runs;
  for (int64_t c = 0; c < reads_.channels; ++c, dy += reads_.taps, dx += reads_.taps) {
    if (c > 0 && std::memcmp(dy, dy - reads_.taps, row) == 0 && std::memcmp(dx, dx - reads_.taps, row) == 0) {
      ++runs.back().end;
      continue;
    }
    Run run = {c, c + 1, {}, {}, {}};
    for (int64_t s = 0; s < reads_.taps; ++s) {
      Tap tap;
      run.alive.push_back(resolve(reads_, c, s, &tap));
      run.taps.push_back(tap);
    }
    runs.push_back(std::move(run));
  }
  return runs;
}

// Vectors of neighbouring runs: one pass over whole cache lines with the taps of them all, weight zero where a run
// lacks one. The centre and whatever else they share is added once.
void LinePlan::add_mixed_walk(const std::vector<Run>& all, int64_t begin, int64_t end) {
  std::vector<Run> runs;
  for (const Run& run : all)
    if (run.begin < end && run.end > begin) runs.push_back(run);
  Walk best = {};
  for (const bool flat : {true, false}) {
    Walk walk = {};
    walk.line.flat = flat;
    walk.line.block = block_for(flat ? reads_.out_width : reads_.out_height);
    const auto before = [flat](const Tap& a, const Tap& b) {
      return flat ? a < b : a.dx != b.dx ? a.dx < b.dx : a.dy < b.dy;
    };
    std::vector<Tap> sorted;
    for (const Run& run : runs)
      for (size_t s = 0; s < run.taps.size(); ++s)
        if (run.alive[s]) sorted.push_back(run.taps[s]);
    std::sort(sorted.begin(), sorted.end(), before);
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    for (const Tap& tap : sorted) {
      reach_h_ = std::max(reach_h_, std::abs(tap.dy));
      reach_w_ = std::max(reach_w_, std::abs(tap.dx));
    }
    walk.taps = static_cast<int64_t>(sorted.size());
    find_segments(&walk, sorted);
    if (!flat && best.segments.size() <= walk.segments.size()) continue;
    walk.runs = runs;
    for (Run& run : walk.runs)
      for (size_t s = 0; s < run.taps.size(); ++s)
        run.map.push_back(
            run.alive[s] ? std::lower_bound(sorted.begin(), sorted.end(), run.taps[s], before) - sorted.begin() : -1);
    best = std::move(walk);
  }
  find_tables(&best, true);
  walks_.push_back(std::move(best));
  add_vectors(begin, end);
}

bool LinePlan::add_walk(const Run& run) {
  Walk walk = {};
  std::vector<Tap> sorted;
  const std::vector<Tap>& taps = run.taps;
  const std::vector<bool>& alive = run.alive;
  for (size_t s = 0; s < taps.size(); ++s)
    if (alive[s]) sorted.push_back(taps[s]);
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
  walk.runs.push_back(run);
  for (size_t s = 0; s < taps.size(); ++s) {
    const auto found = std::lower_bound(sorted.begin(), sorted.end(), taps[s], before);
    walk.runs[0].map.push_back(alive[s] ? found - sorted.begin() : -1);
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
  find_tables(&walk, false);
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

void LinePlan::find_tables(Walk* walk, bool mixed) const {
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
  walk->tables.resize(2 * n + 2 * breadth);
  int32_t *first_live = walk->tables.data(), *end_live = first_live + n, *first_across = end_live + n;
  int32_t* end_across = first_across + breadth;
  for (int64_t d = 0; d < n; ++d) {
    int32_t live = 0, end = count;
    while (!mixed && live < count && last(live) < -d) ++live;  // several lines are in no order along
    while (!mixed && end > 0 && s[end - 1].along >= d) --end;
    first_live[d] = live;
    end_live[d] = end;
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
  line.end_live = end_live;
  line.first_across = first_across;
  line.end_across = end_across;
}

}  // namespace dwoconv1d
