// What a launch of the depthwise convolution's CUDA kernels is told. Pointers, then 32-bit numbers:
// cupy_backend/depthwise.py packs the same.
#pragma once

namespace smpconv::depthwise {

// Images are dense, (N, C, H, W) or, with `last`, (N, H, W, C).
//   convolve               reads x, weight, bias    writes y
//   grad_weight, finish    reads x, grad            writes partial, then grad_weight, grad_bias
struct Params {
  const void* x;
  const void* grad;
  const void* weight;  // (C, Kh, Kw)
  const void* bias;    // (C), or null
  void* y;
  void* partial;  // (splits, C, Kh * Kw + 1) in accumulation precision, the last one the bias's
  void* grad_weight;
  void* grad_bias;
  int batch, channels, height, width, kernel_h, kernel_w;
  int turned;  // 1: the kernel reversed in both directions, which is the gradient of the input
  int last;
  // The plan: which instance of a kernel runs.
  int sums;     // outputs, or taps, side by side in a thread
  int copies;   // convolve: images of a thread
  int crossed;  // convolve: pixels meet a window of weights; grad_weight: all pixels of a row meet
  // Of a block.
  int segments;     // convolve: threads along a row; grad_weight: windows of taps along a kernel's row
  int rows;         // of outputs, or of grad
  int columns;      // grad_weight: of grad
  int images;       // convolve: threads along the batch; grad_weight: images
  int group;        // convolve: channels
  int kernel_rows;  // at once
  int parts;        // grad_weight: lanes along a row
  int splits;       // grad_weight: blocks that share the sums of one tap
  int shared_bytes;
};

}  // namespace smpconv::depthwise
