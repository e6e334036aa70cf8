// What a launch of crop or uncrop is told: cupy_backend.py packs the same.
#pragma once

namespace csgconv::copies {

// A layer's share of the blocks. Every thread gathers: a kernel from the slices, or its room among the slices, zeros
// included, from the kernel.
struct Part {
  long long from, to;  // the layer's first element in either tensor
  long long count;     // elements written
  int outputs, row;    // O, and I * T
  int width;           // of a run in the slices
  int down, across;    // runs of a block under each other, and the blocks of a row
  int vectors;         // whether 16 bytes can be moved at once
  int block;           // the layer's first one
};

constexpr int kParts = 64;  // of a launch: parameters are at most 4096 bytes

struct Params {
  const void* from;
  void* to;
  int parts;
  Part part[kParts];
};

}  // namespace csgconv::copies
