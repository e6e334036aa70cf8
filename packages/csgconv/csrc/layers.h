// Where the kernels of a network lie among the slices of its generator. No torch types.
#pragma once

#include <cstdint>

namespace csgconv {

// A layer's kernel (O, I, T), T the taps, cut from blocks of B0 outputs and B1 inputs (B0 = 1: rows of B1 inputs). The
// slices hold it as runs of B1 * T elements: B0 of one block under each other, then those of the block to its right.
struct Layer {
  int64_t slices, kernels;  // the first element, in the slices and in the kernels
  int64_t end;              // behind the last one in the slices
  int64_t outputs, row;     // O, and I * T
  int64_t width;            // of a run
  int64_t down, across;     // B0, and the blocks of a row, ceil(I / B1)
  int64_t runs;             // up to that end
  int64_t room;             // elements of the slices up to the next layer's

  bool contiguous() const { return down == 1 && width == row; }
};

}  // namespace csgconv
