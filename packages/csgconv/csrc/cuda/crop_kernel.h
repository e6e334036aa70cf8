// Launches of crop and uncrop: no torch types, no CUDA types.
#pragma once

#include <string>
#include <vector>

#include "layers.h"

namespace csgconv::copies {

constexpr const char* kPackage = "csgconv";

// Dense tensors, from which and to which elements of `bytes` each are copied.
struct Copy {
  const void* from;
  void* to;
  int64_t elements;  // of the slices
  int64_t bytes;
};

// Whether the kernels can count these with 32 bits; the number of elements of a tensor is not bound.
bool representable(const std::vector<Layer>& layers);

void launch_crop(const std::vector<Layer>& layers, const Copy& copy, void* stream);
void launch_uncrop(const std::vector<Layer>& layers, const Copy& copy, void* stream);

// Architectures with machine code in this library, for example "sm_75, sm_80, sm_90".
std::string compiled_archs();

}  // namespace csgconv::copies
