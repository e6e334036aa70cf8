#include "cpu/traverse_plan.h"

#include <algorithm>
#include <array>
#include <list>
#include <mutex>

namespace pathconv::traversal {
namespace {

constexpr int64_t kMostNumbers = 1 << 22;  // of a table that is picked: its plan and that of its inverse are kept
constexpr int64_t kPickedPlanes = 32;      // that are worth finding the pieces
constexpr int64_t kKeptPlans = 64, kKeptBytes = 64 << 20;  // and their tables

// The plans of the last tables, each with a copy of its table and what else it was made of.
template <class T>
class Recent {
 public:
  using Key = std::array<int64_t, 3>;

  template <class Make>
  Plan<T> plan(const int32_t* table, int64_t count, Key key, const Make& make) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
        if (entry->key != key || static_cast<int64_t>(entry->table.size()) != count) continue;
        if (!std::equal(table, table + count, entry->table.data())) continue;
        entries_.splice(entries_.begin(), entries_, entry);
        return entry->plan;
      }
    }
    const Plan<T> made = std::make_shared<const std::vector<T>>(make());
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_front({key, {table, table + count}, made});
    bytes_ += bytes_of(entries_.front());
    while (bytes_ > kKeptBytes || static_cast<int64_t>(entries_.size()) > kKeptPlans) {
      bytes_ -= bytes_of(entries_.back());
      entries_.pop_back();
    }
    return made;
  }

 private:
  struct Entry {
    Key key;
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

}  // namespace

Plan<Picks> plan_picks(const Params& a, const int32_t* table, Place place) {
  const int64_t length = a.length(), lines = length / kPicked;
  const bool picked = place.level.picks && a.dtype == DType::float32 && length <= kPlaces;
  if (!picked || a.paths * length > kMostNumbers || a.batch * a.channels < kPickedPlanes || lines == 0) return nullptr;
  return recent<Picks>().plan(table, a.paths * length, {length}, [=, paths = a.paths] {
    std::vector<Picks> picks(paths * lines);
    for (int64_t p = 0; p < paths; ++p)
      for (int64_t i = 0; i < lines; ++i) picks[p * lines + i] = picks_of(table + p * length + i * kPicked, length);
    const auto gathered =
        std::count_if(picks.begin(), picks.end(), [](const Picks& p) { return place_of(p.at[0], 2) == 0; });
    if (2 * gathered > paths * lines) picks.clear();
    return picks;
  });
}

Plan<uint64_t> plan_places(const int32_t* table, int64_t length, int64_t step, int64_t path) {
  return recent<uint64_t>().plan(table, 3 * length, {length, step, path}, [=] {
    const int32_t *second = table + length, *third = second + length;
    std::vector<uint64_t> places(length);
    for (int64_t i = 0; i < length; ++i)
      places[i] = places_of(step * table[i], step * second[i] + path, step * third[i] + 2 * path);
    return places;
  });
}

}  // namespace pathconv::traversal
