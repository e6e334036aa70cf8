// Launches of the CUDA kernels: no torch types, no CUDA types.
#pragma once

#include <cstdint>
#include <string>

#include "common/dtype.h"
#include "cuda/oriented_conv1d_params.h"

namespace dwoconv1d {

using leanconv::DType;

// Whether sizes (N, C, K) and sides of images are within what the kernels count with 32 bits; the number of elements is
// not bound.
bool representable(const int64_t (&sizes)[3], const int64_t (&sides)[4]);

// Chooses tiles, shared memory and splits, from the sizes and strides already set. Both launches need it.
void make_plan(Params* params, DType dtype, bool weight_sums, int device);

// The forward pass and the input gradient: source, weight, bias -> target.
void launch_gather(const Params& params, DType dtype, void* stream);

// The weight gradient: source (x), target (grad) -> partial -> grad_weight, grad_bias.
void launch_grad_weight(const Params& params, DType dtype, void* stream);

// Architectures with machine code in this library, for example "sm_75, sm_80, sm_90".
std::string compiled_archs();

}  // namespace dwoconv1d
