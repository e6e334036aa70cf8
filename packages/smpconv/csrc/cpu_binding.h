// What the CPU bindings share: the instruction set in force.
#pragma once

#include "common/binding.h"
#include "cpu/level.h"
#include "smpconv.h"

namespace smpconv {

extern leanconv::Isa current_isa;  // of all ops; set_cpu_level changes it

inline Place place() {
  return {level_for(current_isa), leanconv::parallel_for, static_cast<int64_t>(torch::stable::get_num_threads())};
}

}  // namespace smpconv
