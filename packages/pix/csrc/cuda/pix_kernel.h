// Launches of the layer's kernels over vectors: no torch types, no CUDA types.
#pragma once

#include <cstdint>

#include "cuda/launches.h"
#include "cuda/pix_params.h"

namespace pix::gates {

// Launches of params that hold sizes and pointers; they choose the plan.
void launch_gate(Params params, DType dtype, void* stream);
void launch_products(Params params, DType dtype, void* stream);

}  // namespace pix::gates
