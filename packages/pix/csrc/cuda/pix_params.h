// What a launch of the layer's kernels over vectors is told: products with the weight of the gates. Pointers, then
// 32-bit numbers: cupy_backend/gates.py packs the same.
#pragma once

namespace pix::gates {

// All but weight and bias and their gradients are in accumulation precision.
//   gate      reads weight, bias, partial              writes z, p
//   products  reads weight, z, p, grad_p, partial      writes shift, grad_weight, grad_bias
struct Params {
  const void* weight;   // (C', C)
  const void* bias;     // (C'), or null
  const void* partial;  // (N, pieces, C) sums of x, or (N, pieces, C') of grad * y, over the pixels of a piece
  void* z;              // (N, C)
  void* p;              // (N, C')
  const void* grad_p;   // (N, C'), or null
  void* shift;          // (N, C): the gradient of z, over the pixels
  void* grad_weight;    // (C', C)
  void* grad_bias;      // (C')
  int batch, channels, outputs, pixels;  // N, C, C', H * W
  int pieces;
  // The plan.
  int vectors;  // whether 4 neighbours of each tensor can be read at once
  int tile;     // samples, and outputs, of a warp of `gate`
};

}  // namespace pix::gates
