// What a launch of the CUDA kernels is told. Pointers, then 64-bit strides, then 32-bit numbers: cupy_backend.py packs
// the same.
#pragma once

namespace dwoconv1d {

// Distances, in elements, between neighbours along each dimension of an (N, C, H, W) tensor.
struct Strides {
  long long n, c, h, w;
};

// Taps read the image `source`. A "cell" is one position of the strided grid, (P, Q) of them per plane:
//   forward      source x,    target y:    one output per cell
//   grad_input   source grad, target dx:   stride_h * stride_w outputs per cell
//   grad_weight  source x,    target grad: read, one per cell; the sums go to `partial`
struct Params {
  const void* source;
  const void* weight;  // (C, K) contiguous
  const int* offsets;  // (2, C, K): dy, dx
  const void* bias;    // (C), or null
  void* target;
  void*
      partial;  // (splits, C, K + 1) in accumulation precision: sums of the weight gradient, the last one of the bias's
  void* grad_weight;
  void* grad_bias;
  Strides source_stride, target_stride;
  int batch, channels, taps;
  int source_h, source_w, target_h, target_w, cells_h, cells_w;
  int stride_h, stride_w;  // at most the image's size, beyond which they change nothing
  int grad_input;          // 1 in the input gradient, else 0
  int residual;
  // The plan: a block owns tile_n images and tile_h * tile_w cells of its channels.
  int tile_n, tile_h, tile_w;
  int list_taps;     // taps listed at once
  int shared_bytes;  // of a block
  int splits;        // blocks that share the sums of one channel
};

}  // namespace dwoconv1d
