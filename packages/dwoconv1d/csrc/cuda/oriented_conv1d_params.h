// What a launch of the CUDA kernels is told. Every field takes 8 bytes: CuPy passes the struct as an array of int64.
#pragma once

namespace dwoconv1d {

// Distances, in elements, between neighbours along each dimension of an (N, C, H, W) tensor.
struct Strides {
  long long n, c, h, w;
};

// The image `source` is read at the taps. A "cell" is one position of the strided grid, (P, Q) of them per plane:
//   forward      source x,    target y:    one output per cell
//   grad_input   source grad, target dx:   stride_h * stride_w outputs per cell
//   grad_weight  source x,    target grad: read, one per cell; sums go to `partial`
struct Params {
  const void* source;
  const void* weight;  // (C, K) contiguous
  const int* offsets;  // (2, C, K): dy, dx
  const void* bias;    // (C), or null
  void* target;
  void* partial;  // (splits, C, K + 1) sums of the weight gradient in accumulation precision; the last one is the bias's
  void* grad_weight;
  void* grad_bias;
  Strides source_stride, target_stride;
  long long batch, channels, taps;
  long long source_h, source_w, target_h, target_w, cells_h, cells_w;
  long long stride_h, stride_w;
  long long grad_input;  // 1: scatter geometry of the input gradient
  long long residual;
  // The plan: a block works on tile_n images and tile_h * tile_w cells at a time.
  long long tile_n, tile_h, tile_w;
  long long shared_bytes;
  long long splits;  // blocks that share the sums of one channel
};

}  // namespace dwoconv1d
