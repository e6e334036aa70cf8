// The CPU kernels of pix, which is context, blend and pick_or_mix in one: plain C++, no torch types.
#pragma once

#include "cpu/pick_plan.h"

namespace pix {

// Writes z, which is that of the blend, p, which is that of the blend and of Forward, y and choice.
void fused_forward(const Params&, const Forward&, const Blend&, void* z, const Place&);

// Writes grad_x and the gradients of weight and bias. grad_p (N, C') may be null; `shift` of Backward is d_z of the
// blend, which, like d_logit, is room for sums. `x` is only used where the context is l1.
void fused_backward(const Params&, const Backward&, const void* grad_p, const Blend&, const Place&);

}  // namespace pix
