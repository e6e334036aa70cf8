// What a kernel wants to know of a table of paths before it follows it: found out once, and kept for the last tables
// (64 of each of four kinds, each kind in 64 MB with its tables at most).
#pragma once

#include <memory>
#include <vector>

#include "cpu/traverse_kernel.h"

namespace pathconv::traversal {

template <class T>
using Plan = std::shared_ptr<const std::vector<T>>;  // or null
template <class T>
const T* data_of(const Plan<T>& plan) {
  return plan == nullptr || plan->empty() ? nullptr : plan->data();
}

// Picks (P, length / kPicked) of the numbers of a table (P, length); none where planes are not picked, nor where most
// of them would have to be gathered even so.
Plan<Picks> plan_picks(const Params&, const int32_t* table, Place);

// The same of an inverse table for planes that are summed one by one.
Plan<PickBlock> plan_blocks(const Params&, const int32_t* inverse, Place);

// Three channels of float32, dense, along three paths; none where there are few samples. Of each number of a table
// (3, length) the places of three paths: `step` times the number, and `path` more for each path.
Plan<uint64_t> plan_places(const Params&, const int32_t* table, int64_t step, int64_t path);

// Of an inverse table the runs, whose order is also that in which they are summed; none where the level has no use for
// them.
Plan<RunBlock> plan_runs(const Params&, const int32_t* inverse, Place);

}  // namespace pathconv::traversal
