// The CUDA entries of the ops `pathconv::depthwise_conv1d*`; the schemas stand in csrc/depthwise_conv1d.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "depthwise_conv1d.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "common/cuda_binding.h"
#include "cuda/depthwise_conv1d_kernel.h"

namespace pathconv::depthwise {
namespace {

using leanconv::current_stream;
using leanconv::dtype_of;
using leanconv::partial_sums;
using torch::stable::accelerator::DeviceGuard;

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }

// What all launches are told; `length` is that of x, and both tensors may have any strides.
Params make_params(const Tensor& source, const Tensor& target, int64_t length, int64_t multiplier, int64_t taps,
                   int64_t stride, int64_t padding) {
  STD_TORCH_CHECK(padding <= length + taps || representable(1, 1, padding), "padding ", padding, " is too large");
  STD_TORCH_CHECK(representable(source.size(0), target.size(1) * multiplier, length + 2 * padding + taps),
                  source.size(0), " sequences of ", source.size(1), " channels and ", length, " positions, padding ",
                  padding, ", are too large in one dimension");
  Params p = {};
  p.source = source.const_data_ptr();
  p.target = target.mutable_data_ptr();
  p.source_stride = strides_of(source);
  p.target_stride = strides_of(target);
  p.batch = target.size(0);
  p.channels = target.size(1);
  p.multiplier = multiplier;
  p.taps = taps;
  p.source_length = source.size(2);
  p.target_length = target.size(2);
  p.stride = std::min(stride, std::max(length + 2 * padding, int64_t{1}));  // leaves one output, as what is beyond
  p.padding = padding;
  return p;
}

Tensor depthwise_conv1d(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, int64_t stride,
                        int64_t padding) {
  check_forward(x, weight, bias);
  const DeviceGuard guard(x.get_device_index());
  const int64_t outputs = weight.size(1), taps = weight.size(2);
  Tensor y = empty_sequence(x, is_channels_last(x), x.size(0), outputs, out_length(x.size(2), taps, stride, padding));
  if (y.numel() == 0) return y;
  const Tensor kernels = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : kernels;
  Params p = make_params(x, y, x.size(2), multiplier(outputs, x.size(1), "weight"), taps, stride, padding);
  p.weight = kernels.const_data_ptr();
  p.weight_n = weight.size(0) == 1 ? 0 : outputs * taps;
  p.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  launch_correlate(p, dtype_of(x), current_stream(x));
  return y;
}

Tensor depthwise_conv1d_grad_input(const Tensor& grad, const Tensor& weight, int64_t channels, int64_t length,
                                   int64_t stride, int64_t padding) {
  check_grad_input(grad, weight, channels, length, stride, padding);
  const DeviceGuard guard(grad.get_device_index());
  Tensor x = empty_sequence(grad, is_channels_last(grad), grad.size(0), channels, length);
  if (x.numel() == 0) return x;
  const Tensor kernels = torch::stable::contiguous(weight);
  Params p =
      make_params(grad, x, length, multiplier(weight.size(1), channels, "weight"), weight.size(2), stride, padding);
  p.weight = kernels.const_data_ptr();
  p.weight_n = weight.size(0) == 1 ? 0 : weight.size(1) * weight.size(2);
  p.grad_input = 1;
  launch_correlate(p, dtype_of(grad), current_stream(grad));
  return x;
}

std::tuple<Tensor, Tensor> depthwise_conv1d_grad_weight(const Tensor& grad, const Tensor& x, int64_t kernel_size,
                                                        int64_t stride, int64_t padding, bool per_sample) {
  check_grad_weight(grad, x, kernel_size, stride, padding);
  const DeviceGuard guard(x.get_device_index());
  const int64_t outputs = grad.size(1), samples = per_sample ? x.size(0) : 1;
  Tensor weight = torch::stable::new_empty(grad, {samples, outputs, kernel_size});
  Tensor bias = torch::stable::new_empty(grad, {outputs});
  if (outputs == 0) return {weight, bias};
  Params p = make_params(x, grad, x.size(2), multiplier(outputs, x.size(1), "grad"), kernel_size, stride, padding);
  p.samples = samples;
  plan_weight_sums(&p, dtype_of(x));
  const Tensor partial = partial_sums(grad, samples * p.splits * outputs * (kernel_size + 1));
  p.partial = partial.mutable_data_ptr();
  p.grad_weight = weight.mutable_data_ptr();
  p.grad_bias = bias.mutable_data_ptr();
  launch_weight_sums(p, dtype_of(x), current_stream(x));
  return {weight, bias};
}

}  // namespace
}  // namespace pathconv::depthwise

STABLE_TORCH_LIBRARY_IMPL(pathconv, CUDA, m) {
  m.impl("depthwise_conv1d", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d));
  m.impl("depthwise_conv1d_grad_input", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d_grad_input));
  m.impl("depthwise_conv1d_grad_weight", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d_grad_weight));
}
