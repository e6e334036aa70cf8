// The CPU kernels of crop and uncrop: plain C++, no torch types.
#pragma once

#include <vector>

#include "layers.h"

namespace csgconv {

// Copies elements of `bytes` each. The tensors are dense; `parallel_for` is leanconv's.
struct Copy {
  const std::vector<Layer>& layers;
  int64_t elements;  // of the slices
  int64_t bytes;
  void (*parallel_for)(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context);
};

void copy_kernels(const Copy&, const void* slices, void* kernels);
void copy_slices(const Copy&, const void* kernels, void* slices);  // and zeros where no kernel lies

}  // namespace csgconv
