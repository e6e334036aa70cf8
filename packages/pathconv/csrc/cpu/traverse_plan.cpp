#include "cpu/traverse_plan.h"

#include <algorithm>
#include <array>
#include <list>
#include <mutex>

namespace pathconv::traversal {
namespace {

constexpr int64_t kMostNumbers = 1 << 22;  // of a table that is picked: its plan and that of its inverse are kept
constexpr int64_t kPickedPlanes = 32;      // that are worth finding the pieces
constexpr int64_t kPlannedSamples = 4;     // that are worth places or runs
constexpr int64_t kAskAhead = 1 << 14;     // bytes, of which memory brings the last half a microsecond later
constexpr int64_t kKeptPlans = 64, kKeptBytes = 64 << 20;  // and their tables

// The plans of one kind of the last tables, each with a copy of its table.
template <class T>
class Recent {
 public:
  template <class Make>
  Plan<T> plan(const int32_t* table, int64_t paths, int64_t length, int64_t step, const Make& make) {
    const int64_t count = paths * length;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
        if (entry->length != length || entry->step != step || static_cast<int64_t>(entry->table.size()) != count)
          continue;
        if (!std::equal(table, table + count, entry->table.data())) continue;
        entries_.splice(entries_.begin(), entries_, entry);
        return entry->plan;
      }
    }
    const Plan<T> made = std::make_shared<const std::vector<T>>(make());
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_front({length, step, {table, table + count}, made});
    bytes_ += bytes_of(entries_.front());
    while (bytes_ > kKeptBytes || static_cast<int64_t>(entries_.size()) > kKeptPlans) {
      bytes_ -= bytes_of(entries_.back());
      entries_.pop_back();
    }
    return made;
  }

 private:
  struct Entry {
    int64_t length, step;
    std::vector<int32_t> table;
    Plan<T> plan;
  };
  static int64_t bytes_of(const Entry& entry) {
    return entry.table.size() * sizeof(int32_t) + entry.plan->size() * sizeof(T);
  }

  std::mutex mutex_;
  std::list<Entry> entries_;
  int64_t bytes_ = 0;
};

// Never destroyed: a thread may still run when the process ends.
template <class T>
Recent<T>& recent() {
  static Recent<T>* const kept = new Recent<T>;
  return *kept;
}

// The pieces in which 16 numbers of a plane of `length` lie: as few as there can be, each within a cache line where it
// can be.
Picks picks_of(const int32_t* wanted, int64_t length) {
  std::array<uint8_t, kPicked> order;
  for (int64_t i = 0; i < kPicked; ++i) order[i] = static_cast<uint8_t>(i);
  std::sort(order.begin(), order.end(), [=](uint8_t i, uint8_t j) { return wanted[i] < wanted[j]; });
  Picks picks = {};
  int64_t at[kPieces] = {}, pieces = 0;
  for (int64_t i = 0, end; i < kPicked; i = end, ++pieces) {
    if (pieces == kPieces) return {};
    const int64_t first = wanted[order[i]], line = first / kPicked * kPicked;
    for (end = i + 1; end < kPicked && wanted[order[end]] < first + kPicked;) ++end;
    at[pieces] = std::min(wanted[order[end - 1]] < line + kPicked ? line : first, length - kPicked);
    for (int64_t k = i; k < end; ++k)
      picks.lanes[order[k]] = static_cast<uint8_t>(pieces * kPicked + wanted[order[k]] - at[pieces]);
  }
  picks.at[0] = places_of(at[0], at[1], pieces <= 4 ? 4 : pieces <= 6 ? 6 : 8);
  picks.at[1] = places_of(at[2], at[3], at[4]);
  picks.at[2] = places_of(at[5], at[6], at[7]);
  return picks;
}

// Of a table (P, length), or nothing where most numbers would have to be gathered.
std::vector<Picks> all_picks(const int32_t* table, int64_t paths, int64_t length) {
  const int64_t lines = length / kPicked;
  std::vector<Picks> picks(paths * lines);
  for (int64_t p = 0; p < paths; ++p)
    for (int64_t i = 0; i < lines; ++i) picks[p * lines + i] = picks_of(table + p * length + i * kPicked, length);
  const auto gathered =
      std::count_if(picks.begin(), picks.end(), [](const Picks& p) { return place_of(p.at[0], 2) == 0; });
  if (2 * gathered > paths * lines) picks.clear();
  return picks;
}

bool are_picked(const Params& a, Place place) {
  const int64_t length = a.length();
  return place.level.plans && a.dtype == DType::float32 && length <= kPlaces && a.paths * length <= kMostNumbers &&
         a.batch * a.channels >= kPickedPlanes && length >= kPicked;
}

// Whether places that are `step` apart are worth a plan, and find room in it.
bool are_threes(const Params& a, int64_t step) {
  return a.dtype == DType::float32 && a.channels == 3 && a.paths == 3 && a.batch >= kPlannedSamples &&
         step * a.length() <= kPlaces;
}

// 16 neighbouring pixels, or numbers of a plane, as a path reaches them.
struct Reached {
  int32_t last;  // position of the last of them
  int32_t path, line;
};

// All of them, by when they are reached.
std::vector<Reached> reached(const int32_t* inverse, int64_t paths, int64_t length) {
  std::vector<Reached> all;
  for (int64_t p = 0; p < paths; ++p)
    for (int64_t i = 0; i < length / kPicked; ++i) {
      const int32_t* const numbers = inverse + p * length + i * kPicked;
      all.push_back({*std::max_element(numbers, numbers + kPicked), static_cast<int32_t>(p), static_cast<int32_t>(i)});
    }
  std::stable_sort(all.begin(), all.end(), [](const Reached& a, const Reached& b) { return a.last < b.last; });
  return all;
}

// How far ahead memory is asked for that is read in this order, `line` bytes at each step, of `position` bytes of each
// position: before it is needed, by as long as memory may take. Not more than all; what is left is a multiple of
// `block`, so that a block of steps asks for nothing beyond the end and what comes next at once.
int64_t ask_ahead(const std::vector<Reached>& all, int64_t line, int64_t position, int64_t block) {
  int64_t late = 0, i = 0;
  for (const Reached& one : all) late = std::max(late, one.last * position - line * i++);
  const int64_t bytes = all.size() * line, left = std::max<int64_t>(bytes - late - kAskAhead, 0);
  return bytes - left / (block * line) * (block * line);
}

void block_path(const int32_t* inverse, const Picks* picks, int64_t length, std::vector<PickBlock>& blocks) {
  const std::vector<Reached> all = reached(inverse, 1, length);
  const int64_t lines = all.size(), ahead = ask_ahead(all, 64, sizeof(float), kBlock) / 64;
  for (int64_t i = 0; i < lines; i += kBlock) {
    PickBlock block = {};
    block.ask = i + ahead;
    int64_t count = 0;
    for (int64_t kind = 0; kind < 4; ++kind)
      for (int64_t k = i; k < std::min(i + kBlock, lines); ++k) {
        const int64_t line = all[k].line, pieces = place_of(picks[line].at[0], 2);
        if ((pieces == 0 ? 3 : pieces / 2 - 2) != kind) continue;
        Picks& here = block.picks[count++] = picks[line];
        here.at[0] = places_of(place_of(here.at[0], 0), place_of(here.at[0], 1), line);
        ++block.counts[kind];
      }
    blocks.push_back(block);
  }
}

}  // namespace

Plan<Picks> plan_picks(const Params& a, const int32_t* table, Place place) {
  if (!are_picked(a, place)) return nullptr;
  const int64_t paths = a.paths, length = a.length();
  return recent<Picks>().plan(table, paths, length, 1, [=] { return all_picks(table, paths, length); });
}

Plan<PickBlock> plan_blocks(const Params& a, const int32_t* inverse, Place place) {
  if (!are_picked(a, place)) return nullptr;
  const int64_t paths = a.paths, length = a.length();
  return recent<PickBlock>().plan(inverse, paths, length, 1, [=] {
    const std::vector<Picks> picks = all_picks(inverse, paths, length);
    std::vector<PickBlock> blocks;
    for (int64_t p = 0; p < paths && !picks.empty(); ++p)
      block_path(inverse + p * length, picks.data() + p * (length / kPicked), length, blocks);
    return blocks;
  });
}

Plan<uint64_t> plan_places(const Params& a, const int32_t* table, int64_t step, int64_t path) {
  if (!are_threes(a, step)) return nullptr;
  const int64_t length = a.length();
  return recent<uint64_t>().plan(table, 3, length, step, [=] {
    const int32_t *second = table + length, *third = second + length;
    std::vector<uint64_t> places(length);
    for (int64_t i = 0; i < length; ++i)
      places[i] = places_of(step * table[i], step * second[i] + path, step * third[i] + 2 * path);
    return places;
  });
}

Plan<RunBlock> plan_runs(const Params& a, const int32_t* inverse, Place place) {
  if (!place.level.plans || !are_threes(a, 3)) return nullptr;
  const int64_t length = a.length();
  return recent<RunBlock>().plan(inverse, 3, length, 1, [=] {
    const std::vector<Reached> all = reached(inverse, 3, length);
    const int64_t runs = all.size(), ahead = ask_ahead(all, kRunBytes, 9 * sizeof(float), kRuns);
    std::vector<bool> begun(length / kPicked);
    std::vector<RunBlock> blocks;
    for (int64_t i = 0; i < runs; i += kRuns) {
      RunBlock block = {};
      block.ask = i * kRunBytes + ahead;
      const auto add = [&](const Reached& run) {
        const int32_t* const numbers = inverse + run.path * length + run.line * kPicked;
        block.to[block.count] = 3 * kPicked * run.line;
        for (int64_t k = 0; k < kPicked; ++k) block.from[block.count][k] = 9 * numbers[k] + 3 * run.path;
        ++block.count;
      };
      std::vector<Reached> others;
      for (int64_t k = i; k < std::min(i + kRuns, runs); ++k) {
        if (begun[all[k].line]) {
          others.push_back(all[k]);
        } else {
          add(all[k]);
        }
        begun[all[k].line] = true;
      }
      block.firsts = block.count;
      for (const Reached& run : others) add(run);
      blocks.push_back(block);
    }
    return blocks;
  });
}

}  // namespace pathconv::traversal
