// The ops `csgconv::crop` and `csgconv::uncrop`: schemas and CPU entries. Fake kernels, autograd and the rest of what
// torch must know are registered in ops.py. `csgconv::checksum` watches values on a CPU, outside of all of that.
#include "crop.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "common/binding.h"
#include "common/isa.h"
#include "cpu/checksum.h"
#include "cpu/crop_kernel.h"

namespace csgconv {
namespace {

Tensor crop(const Tensor& slices, std::vector<int64_t> table) {
  int64_t total = 0;
  const std::vector<Layer> layers = check_crop(slices, table, &total);
  Tensor kernels = torch::stable::new_empty(slices, {total});
  if (total == 0) return kernels;
  const Tensor source = dense(slices);
  const int64_t bytes = leanconv::bytes_of(leanconv::dtype_of(slices));
  copy_kernels({layers, source.numel(), bytes, leanconv::parallel_for}, source.const_data_ptr(),
               kernels.mutable_data_ptr());
  return kernels;
}

Tensor uncrop(const Tensor& kernels, std::vector<int64_t> table, int64_t rows, int64_t size) {
  const std::vector<Layer> layers = check_uncrop(kernels, table, rows, size);
  Tensor slices = torch::stable::new_empty(kernels, {rows, size});
  if (slices.numel() == 0) return slices;
  const Tensor source = dense(kernels);
  const int64_t bytes = leanconv::bytes_of(leanconv::dtype_of(kernels));
  copy_slices({layers, slices.numel(), bytes, leanconv::parallel_for}, source.const_data_ptr(),
              slices.mutable_data_ptr());
  return slices;
}

int64_t checksum_of(const Tensor& codes, const Tensor& weight, std::optional<Tensor> bias) {
  uint64_t sum = 0;
  const auto add = [&sum](const Tensor& t, const char* name) {
    check_floating(t, name);
    const Tensor source = dense(t);
    sum = checksum(sum, source.const_data_ptr(), source.numel() * static_cast<int64_t>(source.element_size()));
  };
  add(codes, "codes");
  add(weight, "weight");
  if (bias) add(*bias, "bias");
  return static_cast<int64_t>(sum);
}

}  // namespace
}  // namespace csgconv

STABLE_TORCH_LIBRARY(csgconv, m) {
  m.def("crop(Tensor slices, int[] layers) -> Tensor");
  m.def("uncrop(Tensor kernels, int[] layers, SymInt rows, SymInt size) -> Tensor");
  m.def("checksum(Tensor codes, Tensor weight, Tensor? bias) -> int");
  m.def("mkl_is_slow() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(csgconv, CPU, m) {
  m.impl("crop", TORCH_BOX(&csgconv::crop));
  m.impl("uncrop", TORCH_BOX(&csgconv::uncrop));
  m.impl("checksum", TORCH_BOX(&csgconv::checksum_of));
}

STABLE_TORCH_LIBRARY_IMPL(csgconv, CompositeExplicitAutograd, m) {
  m.impl("mkl_is_slow", TORCH_BOX(&leanconv::mkl_is_slow));
}

// What the op computes, of dense values; `bias` of -1 bytes is none. For ops.py alone: with all caches cold, the way
// through torch's dispatcher takes longer than a small network's values.
extern "C" __attribute__((visibility("default"))) int64_t csgconv_checksum(const void* codes, int64_t codes_bytes,
                                                                           const void* weight, int64_t weight_bytes,
                                                                           const void* bias, int64_t bias_bytes) {
  uint64_t sum = csgconv::checksum(csgconv::checksum(0, codes, codes_bytes), weight, weight_bytes);
  if (bias_bytes >= 0) sum = csgconv::checksum(sum, bias, bias_bytes);
  return static_cast<int64_t>(sum);
}
