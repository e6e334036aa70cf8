// The CPU kernels of depthwise_conv2d: plain C++, no torch types. Images have channels or columns side by side, weights
// (C, KH, KW) are dense.
#pragma once

#include "cpu/level.h"

namespace smpconv {

// `turned` reverses the kernel in both directions: the gradient of the input. bias may be null.
void depthwise_forward(const Params&, const void* in, const Strides&, const void* weight, const void* bias, bool turned,
                       void* out, const Strides& out_strides, const Place&);

void depthwise_grad_weight(const Params&, const void* grad, const Strides& grad_strides, const void* in,
                           const Strides& in_strides, void* grad_weight, void* grad_bias, const Place&);

}  // namespace smpconv
