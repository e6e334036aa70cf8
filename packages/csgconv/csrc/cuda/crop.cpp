// The CUDA entries of the ops `csgconv::crop` and `csgconv::uncrop`; the schemas stand in csrc/crop.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "crop.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "common/cuda_binding.h"
#include "cuda/crop_kernel.h"

namespace csgconv {
namespace {

using leanconv::bytes_of;
using leanconv::current_stream;
using leanconv::dtype_of;
using torch::stable::accelerator::DeviceGuard;

void check_representable(const std::vector<Layer>& layers) {
  STD_TORCH_CHECK(copies::representable(layers), "layers must have at most 2^30 outputs and elements of an output");
}

Tensor crop(const Tensor& slices, std::vector<int64_t> table) {
  int64_t total = 0;
  const std::vector<Layer> layers = check_crop(slices, table, &total);
  check_representable(layers);
  const DeviceGuard guard(slices.get_device_index());
  Tensor kernels = torch::stable::new_empty(slices, {total});
  if (total == 0) return kernels;
  const Tensor source = dense(slices);
  copies::launch_crop(layers,
                      {source.const_data_ptr(), kernels.mutable_data_ptr(), source.numel(), bytes_of(dtype_of(slices))},
                      current_stream(slices));
  return kernels;
}

Tensor uncrop(const Tensor& kernels, std::vector<int64_t> table, int64_t rows, int64_t size) {
  const std::vector<Layer> layers = check_uncrop(kernels, table, rows, size);
  check_representable(layers);
  const DeviceGuard guard(kernels.get_device_index());
  Tensor slices = torch::stable::new_empty(kernels, {rows, size});
  if (slices.numel() == 0) return slices;
  const Tensor source = dense(kernels);
  copies::launch_uncrop(
      layers, {source.const_data_ptr(), slices.mutable_data_ptr(), slices.numel(), bytes_of(dtype_of(kernels))},
      current_stream(kernels));
  return slices;
}

std::string cuda_archs() { return copies::compiled_archs(); }

}  // namespace
}  // namespace csgconv

STABLE_TORCH_LIBRARY_FRAGMENT(csgconv, m) { m.def("cuda_archs() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(csgconv, CUDA, m) {
  m.impl("crop", TORCH_BOX(&csgconv::crop));
  m.impl("uncrop", TORCH_BOX(&csgconv::uncrop));
}

STABLE_TORCH_LIBRARY_IMPL(csgconv, CompositeExplicitAutograd, m) {
  m.impl("cuda_archs", TORCH_BOX(&csgconv::cuda_archs));
}
