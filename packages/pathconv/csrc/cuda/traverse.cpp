// The CUDA entries of the ops `pathconv::traverse*`; the schemas stand in csrc/traverse.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "traverse.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "common/cuda_binding.h"
#include "cuda/traverse_kernel.h"

namespace pathconv::traversal {
namespace {

using leanconv::current_stream;
using leanconv::dtype_of;
using leanconv::partial_sums;
using torch::stable::accelerator::DeviceGuard;

// What all launches are told: `source` is an image or a sequence, of any strides.
Params make_params(const Tensor& source, const Tensor& table, int64_t channels, int64_t outputs) {
  const int64_t paths = table.size(0), length = table.size(1);
  STD_TORCH_CHECK(representable(source.size(0), channels, paths, length, outputs), paths, " paths of ", length,
                  " positions over ", source.size(0), " images, ", channels, " channels to ", outputs,
                  ", are too many to count with 32 bits");
  Params p = {};
  p.source = source.const_data_ptr();
  p.table = static_cast<const int*>(table.const_data_ptr());
  p.batch = source.size(0);
  p.paths = paths;
  p.length = p.width = length;
  p.channels = channels;
  p.outputs = outputs;
  if (source.dim() == 3) {
    p.source_stride = {source.stride(0), source.stride(1), 0, source.stride(2)};
  } else {
    p.source_stride = {source.stride(0), source.stride(1), source.stride(2), source.stride(3)};
    if (source.stride(2) != source.size(3) * source.stride(3)) p.width = source.size(3);
  }
  return p;
}

Tensor run(const Tensor& source, const Tensor& table, int64_t channels, int64_t outputs, bool channels_last,
           bool adjoint, const Tensor& target) {
  if (target.numel() == 0) return target;
  Params p = make_params(source, table, channels, outputs);
  p.target = target.mutable_data_ptr();
  launch_traverse(p, dtype_of(source), channels_last, adjoint, current_stream(source));
  return target;
}

Tensor traverse(const Tensor& x, const Tensor& index, const Tensor& inverse, bool channels_last) {
  check_traverse(x, index, inverse);
  const DeviceGuard guard(x.get_device_index());
  const int64_t channels = x.size(1), outputs = index.size(0) * channels;
  return run(x, index, channels, outputs, channels_last, false,
             empty_sequence(x, x.size(0), outputs, index.size(1), channels_last));
}

Tensor traverse_adjoint(const Tensor& grad, const Tensor& index, const Tensor& inverse, int64_t height, int64_t width,
                        bool channels_last) {
  check_adjoint(grad, index, inverse, height, width);
  const DeviceGuard guard(grad.get_device_index());
  const int64_t channels = grad.size(1) / index.size(0);
  return run(grad, inverse, channels, channels, channels_last, true,
             empty_image(grad, grad.size(0), channels, height, width, channels_last));
}

Tensor traverse_conv1d(const Tensor& x, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                       std::optional<Tensor> bias, bool channels_last) {
  check_conv(x, index, inverse, weight, bias);
  const DeviceGuard guard(x.get_device_index());
  Tensor y = empty_sequence(x, x.size(0), weight.size(0), index.size(1), channels_last);
  if (y.numel() == 0) return y;
  Params p = make_params(x, index, x.size(1), weight.size(0));
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : weight;
  p.weight = weight.const_data_ptr();
  p.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  p.weight_o = weight.stride(0);
  p.weight_p = weight.stride(1) * x.size(1);
  p.weight_c = weight.stride(1);
  p.target = y.mutable_data_ptr();
  launch_convolve(p, dtype_of(x), channels_last, current_stream(x));
  return y;
}

Tensor traverse_conv1d_grad_input(const Tensor& grad, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                                  int64_t height, int64_t width, bool channels_last) {
  check_conv_grad_input(grad, index, inverse, weight, height, width);
  const DeviceGuard guard(grad.get_device_index());
  const int64_t channels = weight.size(1) / index.size(0);
  Tensor x = empty_image(grad, grad.size(0), channels, height, width, channels_last);
  if (x.numel() == 0) return x;
  Params p = make_params(grad, inverse, grad.size(1), channels);
  p.weight = weight.const_data_ptr();
  p.weight_o = weight.stride(1);
  p.weight_p = weight.stride(1) * channels;
  p.weight_c = weight.stride(0);
  p.target = x.mutable_data_ptr();
  launch_convolve(p, dtype_of(grad), channels_last, current_stream(grad));
  return x;
}

std::tuple<Tensor, Tensor> traverse_conv1d_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& index,
                                                       const Tensor& inverse) {
  check_conv_grad_weight(grad, x, index, inverse);
  const DeviceGuard guard(x.get_device_index());
  const int64_t outputs = grad.size(1), terms = index.size(0) * x.size(1);
  Tensor weight = torch::stable::new_empty(grad, {outputs, terms}), bias = torch::stable::new_empty(grad, {outputs});
  if (outputs == 0) return {weight, bias};
  Params p = make_params(x, index, x.size(1), outputs);
  p.grad = grad.const_data_ptr();
  p.grad_n = grad.stride(0);
  p.grad_c = grad.stride(1);
  p.grad_l = grad.stride(2);
  plan_weight_sums(&p, dtype_of(x));
  const Tensor partial = partial_sums(grad, p.splits * outputs * (terms + 1));
  p.partial = partial.mutable_data_ptr();
  p.grad_weight = weight.mutable_data_ptr();
  p.grad_bias = bias.mutable_data_ptr();
  launch_weight_sums(p, dtype_of(x), current_stream(x));
  return {weight, bias};
}

std::string cuda_archs() { return compiled_archs(); }

}  // namespace
}  // namespace pathconv::traversal

STABLE_TORCH_LIBRARY_FRAGMENT(pathconv, m) { m.def("cuda_archs() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(pathconv, CUDA, m) {
  m.impl("traverse", TORCH_BOX(&pathconv::traversal::traverse));
  m.impl("traverse_adjoint", TORCH_BOX(&pathconv::traversal::traverse_adjoint));
  m.impl("traverse_conv1d", TORCH_BOX(&pathconv::traversal::traverse_conv1d));
  m.impl("traverse_conv1d_grad_input", TORCH_BOX(&pathconv::traversal::traverse_conv1d_grad_input));
  m.impl("traverse_conv1d_grad_weight", TORCH_BOX(&pathconv::traversal::traverse_conv1d_grad_weight));
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CompositeExplicitAutograd, m) {
  m.impl("cuda_archs", TORCH_BOX(&pathconv::traversal::cuda_archs));
}
