// What a launch of the traversal's CUDA kernels is told. Pointers, then 64-bit strides, then 32-bit numbers:
// cupy_backend/traversal.py packs the same.
#pragma once

namespace pathconv::traversal {

// Distances, in elements, of a source whose positions q are pixels: row q / width, column q % width. Where rows follow
// each other without a gap, and in sequences, `width` is the length and all positions are in one row.
struct PixelStrides {
  long long n, c, row, column;
};

// Position l of target channel o, of any of the five ops, reads the source at table[path][l].
//   traverse                     source x,    table index,   target y
//   traverse_adjoint             source grad, table inverse, target x's gradient: sums over the paths
//   traverse_conv1d              source x,    table index,   target y:            sums over paths and channels
//   traverse_conv1d_grad_input   source grad, table inverse, target x's gradient: the same sums, other weight strides
//   traverse_conv1d_grad_weight  source x,    table index,   grad, read with the strides grad_*: sums over positions
struct Params {
  const void* source;
  const int* table;    // (P, L)
  void* target;        // dense, (N, channels, L) or (N, L, channels)
  const void* weight;  // of target channel o, path p and source channel c: o * weight_o + p * weight_p + c * weight_c
  const void* bias;    // (outputs), or null
  const void* grad;
  void*
      partial;  // (splits, outputs, P * C + 1) in accumulation precision: sums of the weight gradient, then the bias's
  void* grad_weight;  // (outputs, P * C)
  void* grad_bias;    // (outputs)
  PixelStrides source_stride;
  long long weight_o, weight_p, weight_c;
  long long grad_n, grad_c, grad_l;
  int batch, paths, length, width;
  int channels;  // C: per path of the source, in the adjoint of the target
  int outputs;   // channels of the target, in the weight gradient of grad
  // The plan.
  int images;                         // per block of traverse and its adjoint
  int output_threads, other_threads;  // along outputs, and along positions or, in the weight gradient, terms
  int depth;                          // terms, or in the weight gradient positions, in shared memory at once
  int vectors;                        // whether the weight gradient can read 4 neighbours of grad at once
  int shared_bytes;                   // of a block
  int splits;                         // blocks that share the sums of one weight
};

}  // namespace pathconv::traversal
