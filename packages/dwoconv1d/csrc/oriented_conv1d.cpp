// The ops `dwoconv1d::*`: schemas, and the CPU entries that turn tensors into plain pointers and strides.
// Fake kernels, autograd and the rest of what torch must know are registered in ops.py.
#include "oriented_conv1d.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "common/binding.h"
#include "cpu/oriented_conv1d_kernel.h"

namespace dwoconv1d {
namespace {

using leanconv::dtype_of;
using leanconv::parallel_for;

leanconv::Isa current_isa = leanconv::initial_isa("DWOCONV1D_CPU_LEVEL");

std::string cpu_level() { return leanconv::kIsaNames[static_cast<int>(current_isa)]; }

void set_cpu_level(std::string level) {
  leanconv::Isa isa;
  STD_TORCH_CHECK(leanconv::parse_isa(level.c_str(), &isa), "level must be baseline, avx2 or avx512, but is ", level);
  const leanconv::Isa found = leanconv::detect_isa();
  current_isa = isa < found ? isa : found;
}

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

Params make_params(const Tensor& image, const Tensor& offsets, int64_t height, int64_t width, int64_t stride_h,
                   int64_t stride_w, bool residual) {
  Params params;
  params.batch = image.size(0);
  params.channels = image.size(1);
  params.taps = offsets.size(2);
  params.height = height;
  params.width = width;
  params.out_height = ceil_div(height, stride_h);
  params.out_width = ceil_div(width, stride_w);
  // A stride beyond the image changes nothing, and would fill scratch memory with columns that are not there.
  params.stride_h = std::min(stride_h, std::max(height, int64_t{1}));
  params.stride_w = std::min(stride_w, std::max(width, int64_t{1}));
  params.offsets = static_cast<const int32_t*>(offsets.const_data_ptr());
  params.residual = residual;
  params.dtype = dtype_of(image);
  return params;
}

Tensor oriented_conv1d(const Tensor& x, const Tensor& weight, const Tensor& offsets, std::optional<Tensor> bias,
                       int64_t stride_h, int64_t stride_w, bool residual) {
  check_forward(x, weight, offsets, bias, stride_h, stride_w);
  const auto params = make_params(x, offsets, x.size(2), x.size(3), stride_h, stride_w, residual);
  Tensor y = empty_image(x, x.size(0), x.size(1), params.out_height, params.out_width);
  const Tensor source = readable(x), taps = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : taps;
  forward(params, source.const_data_ptr(), strides_of(source), taps.const_data_ptr(),
          bias.has_value() ? start.const_data_ptr() : nullptr, y.mutable_data_ptr(), strides_of(y), current_isa,
          parallel_for);
  return y;
}

Tensor oriented_conv1d_grad_input(const Tensor& grad, const Tensor& weight, const Tensor& offsets, int64_t height,
                                  int64_t width, int64_t stride_h, int64_t stride_w, bool residual) {
  check_grad_input(grad, weight, offsets, height, width, stride_h, stride_w);
  const auto params = make_params(grad, offsets, height, width, stride_h, stride_w, residual);
  Tensor grad_x = empty_image(grad, grad.size(0), grad.size(1), height, width);
  const Tensor source = readable(grad), taps = torch::stable::contiguous(weight);
  grad_input(params, source.const_data_ptr(), strides_of(source), taps.const_data_ptr(), grad_x.mutable_data_ptr(),
             strides_of(grad_x), current_isa, parallel_for);
  return grad_x;
}

std::tuple<Tensor, Tensor> oriented_conv1d_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                                                       int64_t stride_h, int64_t stride_w) {
  check_grad_weight(grad, x, offsets, stride_h, stride_w);
  const auto params = make_params(x, offsets, x.size(2), x.size(3), stride_h, stride_w, false);
  Tensor weight = torch::stable::new_empty(grad, {params.channels, params.taps});
  Tensor bias = torch::stable::new_empty(grad, {params.channels});
  const Tensor source = readable(x), upstream = readable(grad);
  grad_weight(params, upstream.const_data_ptr(), strides_of(upstream), source.const_data_ptr(), strides_of(source),
              weight.mutable_data_ptr(), bias.mutable_data_ptr(), current_isa, parallel_for);
  return {weight, bias};
}

}  // namespace
}  // namespace dwoconv1d

STABLE_TORCH_LIBRARY(dwoconv1d, m) {
  m.def(
      "oriented_conv1d(Tensor x, Tensor weight, Tensor offsets, Tensor? bias, int stride_h, int stride_w, bool "
      "residual) -> "
      "Tensor");
  m.def(
      "oriented_conv1d_grad_input(Tensor grad, Tensor weight, Tensor offsets, SymInt height, SymInt width, int "
      "stride_h, int "
      "stride_w, bool residual) -> Tensor");
  m.def(
      "oriented_conv1d_grad_weight(Tensor grad, Tensor x, Tensor offsets, int stride_h, int stride_w) -> (Tensor "
      "grad_weight, Tensor grad_bias)");
  m.def("cpu_level() -> str");
  m.def("set_cpu_level(str level) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(dwoconv1d, CPU, m) {
  m.impl("oriented_conv1d", TORCH_BOX(&dwoconv1d::oriented_conv1d));
  m.impl("oriented_conv1d_grad_input", TORCH_BOX(&dwoconv1d::oriented_conv1d_grad_input));
  m.impl("oriented_conv1d_grad_weight", TORCH_BOX(&dwoconv1d::oriented_conv1d_grad_weight));
}

STABLE_TORCH_LIBRARY_IMPL(dwoconv1d, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&dwoconv1d::cpu_level));
  m.impl("set_cpu_level", TORCH_BOX(&dwoconv1d::set_cpu_level));
}
