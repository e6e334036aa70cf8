// The CPU kernels of pick_or_mix: plain C++, no torch types.
#pragma once

#include "cpu/pick_plan.h"

namespace pix {

void forward(const Params&, const Forward&, const Place&);

// grad_p (N, C') is in the type of sums, and 0 where p is: y says nothing of x there.
void backward(const Params&, const Backward&, void* grad_p, const Place&);

}  // namespace pix
