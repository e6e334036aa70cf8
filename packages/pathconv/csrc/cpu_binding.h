// What the CPU bindings of all ops share.
#pragma once

#include "common/binding.h"
#include "common/isa.h"
#include "cpu/dtype.h"

namespace pathconv {

using leanconv::dtype_of;
using leanconv::parallel_for;

extern leanconv::Isa current_isa;  // the instruction set in force for all ops; set_cpu_level changes it

}  // namespace pathconv
