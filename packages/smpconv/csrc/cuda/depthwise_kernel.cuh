// Device code of the depthwise convolution: `convolve` is the forward pass and the input's gradient, `grad_weight` and
// `finish` are the gradients of weight and bias. It compiles under nvcc, NVRTC (CuPy) and tests/emulator.
#pragma once

#include "cuda/depthwise_convolve.cuh"
#include "cuda/depthwise_sums.cuh"
