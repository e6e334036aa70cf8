// What a launch of the depthwise convolution's CUDA kernels is told. Pointers, then 64-bit strides, then 32-bit
// numbers: cupy_backend/depthwise.py packs the same.
#pragma once

namespace pathconv::depthwise {

// Distances, in elements, between neighbours along each dimension of an (N, C, L) tensor.
struct Strides {
  long long n, c, l;
};

// Both sums are taken phase by phase, so that the stride s vanishes. Tap k = phase + s * j of output u reads position
// (u + j) * s + phase - padding of x, which is number u + j among those of its phase:
//   forward      source x,    target y:    each output sums over all phases
//   grad_input   source grad, target dx:   each position of dx has one phase, and is number u in it; it sums over the
//                                          multiplier's channels the outputs u - j
//   grad_weight  source x,    target grad: read; the sums go to `partial`
struct Params {
  const void* source;
  const void* weight;  // (B, channels of y, K) contiguous
  const void* bias;    // (channels of y), or null
  void* target;
  void* partial;      // (samples, splits, channels of y, K + 1) in accumulation precision, the last one the bias's
  void* grad_weight;  // (samples, channels of y, K)
  void* grad_bias;    // (channels of y)
  Strides source_stride, target_stride;
  long long weight_n;  // elements between the kernels of two images, 0 where they share one
  int batch;
  int channels;  // of the target
  int multiplier, taps, source_length, target_length, stride, padding;
  int grad_input;  // 1 in the input gradient, else 0
  int samples;     // kernels that the weight gradient tells apart: N, or 1
  // The plan: a block owns `group` channels and `runs` runs of outputs of each.
  int group, runs;
  int list_taps;     // taps in shared memory at once
  int vectors;       // whether the tensors read can be read 4 channels at once
  int shared_bytes;  // of a block
  int splits;        // blocks that share the sums of one weight
};

}  // namespace pathconv::depthwise
