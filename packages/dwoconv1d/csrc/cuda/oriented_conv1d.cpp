// The CUDA entries of the ops `dwoconv1d::*`; the schemas stand in csrc/oriented_conv1d.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "oriented_conv1d.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "common/cuda_binding.h"
#include "cuda/oriented_conv1d_kernel.h"

namespace dwoconv1d {
namespace {

using leanconv::current_stream;
using leanconv::dtype_of;

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// `cells` has the grid of positions the taps start from: the output, or its gradient.
Params make_params(const Tensor& source, const Tensor& target, const Tensor& cells, const Tensor& offsets,
                   int64_t stride_h, int64_t stride_w) {
  const int64_t height = std::max({source.size(2), target.size(2), int64_t{1}});
  const int64_t width = std::max({source.size(3), target.size(3), int64_t{1}});
  STD_TORCH_CHECK(
      representable({source.size(0), source.size(1), offsets.size(2)}, {height, width, cells.size(2), cells.size(3)}),
      "an image of ", height, " rows and ", width, " columns, batch ", source.size(0),
      ", is too large in one dimension");
  Params p = {};
  p.source = source.const_data_ptr();
  p.target = target.mutable_data_ptr();
  p.offsets = static_cast<const int*>(offsets.const_data_ptr());
  p.source_stride = strides_of(source);
  p.target_stride = strides_of(target);
  p.batch = source.size(0);
  p.channels = source.size(1);
  p.taps = offsets.size(2);
  p.source_h = source.size(2);
  p.source_w = source.size(3);
  p.target_h = target.size(2);
  p.target_w = target.size(3);
  p.cells_h = cells.size(2);
  p.cells_w = cells.size(3);
  p.stride_h = std::min(stride_h, height);
  p.stride_w = std::min(stride_w, width);
  return p;
}

Tensor oriented_conv1d(const Tensor& x, const Tensor& weight, const Tensor& offsets, std::optional<Tensor> bias,
                       int64_t stride_h, int64_t stride_w, bool residual) {
  check_forward(x, weight, offsets, bias, stride_h, stride_w);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor y = empty_image(x, x.size(0), x.size(1), ceil_div(x.size(2), stride_h), ceil_div(x.size(3), stride_w));
  if (y.numel() == 0) return y;
  const Tensor source = readable(x), taps = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : taps;
  Params p = make_params(source, y, y, offsets, stride_h, stride_w);
  p.weight = taps.const_data_ptr();
  p.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  p.residual = residual;
  make_plan(&p, dtype_of(x), false, x.get_device_index());
  launch_gather(p, dtype_of(x), current_stream(x));
  return y;
}

Tensor oriented_conv1d_grad_input(const Tensor& grad, const Tensor& weight, const Tensor& offsets, int64_t height,
                                  int64_t width, int64_t stride_h, int64_t stride_w, bool residual) {
  check_grad_input(grad, weight, offsets, height, width, stride_h, stride_w);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  Tensor grad_x = empty_image(grad, grad.size(0), grad.size(1), height, width);
  if (grad_x.numel() == 0) return grad_x;
  const Tensor source = readable(grad), taps = torch::stable::contiguous(weight);
  Params p = make_params(source, grad_x, source, offsets, stride_h, stride_w);
  p.weight = taps.const_data_ptr();
  p.grad_input = 1;
  p.residual = residual;
  make_plan(&p, dtype_of(grad), false, grad.get_device_index());
  launch_gather(p, dtype_of(grad), current_stream(grad));
  return grad_x;
}

std::tuple<Tensor, Tensor> oriented_conv1d_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& offsets,
                                                       int64_t stride_h, int64_t stride_w) {
  check_grad_weight(grad, x, offsets, stride_h, stride_w);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int64_t channels = offsets.size(1), taps = offsets.size(2);
  Tensor weight = torch::stable::new_empty(grad, {channels, taps}), bias = torch::stable::new_empty(grad, {channels});
  if (channels == 0) return {weight, bias};
  const Tensor source = readable(x), upstream = readable(grad);
  Params p = make_params(source, upstream, upstream, offsets, stride_h, stride_w);
  make_plan(&p, dtype_of(x), true, x.get_device_index());
  const Tensor partial = leanconv::partial_sums(grad, p.splits * channels * (taps + 1));
  p.partial = partial.mutable_data_ptr();
  p.grad_weight = weight.mutable_data_ptr();
  p.grad_bias = bias.mutable_data_ptr();
  launch_grad_weight(p, dtype_of(x), current_stream(x));
  return {weight, bias};
}

std::string cuda_archs() { return compiled_archs(); }

}  // namespace
}  // namespace dwoconv1d

STABLE_TORCH_LIBRARY_FRAGMENT(dwoconv1d, m) { m.def("cuda_archs() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(dwoconv1d, CUDA, m) {
  m.impl("oriented_conv1d", TORCH_BOX(&dwoconv1d::oriented_conv1d));
  m.impl("oriented_conv1d_grad_input", TORCH_BOX(&dwoconv1d::oriented_conv1d_grad_input));
  m.impl("oriented_conv1d_grad_weight", TORCH_BOX(&dwoconv1d::oriented_conv1d_grad_weight));
}

STABLE_TORCH_LIBRARY_IMPL(dwoconv1d, CompositeExplicitAutograd, m) {
  m.impl("cuda_archs", TORCH_BOX(&dwoconv1d::cuda_archs));
}
