// Launches of the CUDA kernels: no torch types, no CUDA types.
#pragma once

#include "cuda/oriented_conv1d_params.h"

namespace dwoconv1d {

enum class DType { float32, float64, float16, bfloat16 };

// Chooses tiles, shared memory and splits for sizes, strides and grad_input already set; `weight_sums` for the weight gradient.
void make_plan(Params* params, DType dtype, bool weight_sums, int device);

// The forward pass and the input gradient: source, weight, bias -> target.
void launch_gather(const Params& params, DType dtype, void* stream);

// The weight gradient: source (x), target (grad) -> partial -> grad_weight, grad_bias.
void launch_grad_weight(const Params& params, DType dtype, void* stream);

// Compiled architectures, for example "sm_75, sm_80, sm_90".
const char* compiled_archs();

}  // namespace dwoconv1d
