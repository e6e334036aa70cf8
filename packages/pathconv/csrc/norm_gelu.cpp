// The op `pathconv::norm_gelu`: schema, and the CPU entry that turns tensors into plain pointers. It is for inference
// on a CPU alone and has no gradient: inference.py says where it runs.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "cpu/norm_gelu_kernel.h"
#include "cpu_binding.h"

namespace pathconv::norm_gelu {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_numbers(const Tensor& t, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == x.size(x.dim() - 1), name,
                  " must have shape (C,) with the C of the last dimension of x, ", x.size(x.dim() - 1));
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), name, " must have the dtype of x, ",
                  torch::headeronly::toString(x.scalar_type()), ", but is ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.device() == x.device(), name, " must be on the device of x");
}

Tensor norm_gelu(const Tensor& x, std::optional<Tensor> shift, const Tensor& weight, const Tensor& bias, double eps) {
  const auto dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  "x must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(x.dim() > 0, "x must have at least one dimension");
  check_numbers(weight, "weight", x);
  check_numbers(bias, "bias", x);
  if (shift.has_value()) check_numbers(*shift, "shift", x);
  const Tensor source = torch::stable::contiguous(x), scale = torch::stable::contiguous(weight);
  const Tensor start = torch::stable::contiguous(bias);
  const Tensor added = shift.has_value() ? torch::stable::contiguous(*shift) : start;
  Tensor out = torch::stable::empty_like(source);
  const int64_t channels = x.size(x.dim() - 1);
  forward({channels == 0 ? 0 : x.numel() / channels, channels, eps, dtype_of(x), source.const_data_ptr(),
           shift.has_value() ? added.const_data_ptr() : nullptr, scale.const_data_ptr(), start.const_data_ptr(),
           out.mutable_data_ptr()},
          current_isa, parallel_for);
  return out;
}

}  // namespace
}  // namespace pathconv::norm_gelu

STABLE_TORCH_LIBRARY_FRAGMENT(pathconv, m) {
  m.def("norm_gelu(Tensor x, Tensor? shift, Tensor weight, Tensor bias, float eps) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CPU, m) { m.impl("norm_gelu", TORCH_BOX(&pathconv::norm_gelu::norm_gelu)); }
