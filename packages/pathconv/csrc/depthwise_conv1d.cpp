// The ops `pathconv::depthwise_conv1d*`: schemas, and the CPU entries that turn tensors into plain pointers and
// strides. Fake kernels, autograd and the rest of what torch must know are registered in ops/depthwise.py.
#include "depthwise_conv1d.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "cpu/depthwise_kernel.h"
#include "cpu_binding.h"

namespace pathconv::depthwise {
namespace {

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }
Lanes lanes_of(bool channels_last) { return channels_last ? Lanes::channels : Lanes::positions; }

Params make_params(const Tensor& t, int64_t channels, int64_t outputs, int64_t taps, int64_t length, int64_t stride,
                   int64_t padding, bool per_sample) {
  Params params;
  params.batch = t.size(0);
  params.channels = channels;
  params.multiplier = multiplier(outputs, channels, "weight");
  params.taps = taps;
  params.length = length;
  params.out_length = out_length(length, taps, stride, padding);
  // A stride beyond the padded sequence leaves one output, as does its length.
  params.stride = std::min(stride, std::max(length + 2 * padding, int64_t{1}));
  params.padding = padding;
  params.per_sample = per_sample;
  params.dtype = dtype_of(t);
  return params;
}

Tensor depthwise_conv1d(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, int64_t stride,
                        int64_t padding) {
  check_forward(x, weight, bias);
  const auto params =
      make_params(x, x.size(1), weight.size(1), weight.size(2), x.size(2), stride, padding, weight.size(0) != 1);
  const bool last = is_channels_last(x);
  Tensor y = empty_sequence(x, last, x.size(0), weight.size(1), params.out_length);
  const Tensor source = readable(x, last), taps = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : taps;
  forward(params, lanes_of(last), source.const_data_ptr(), strides_of(source), taps.const_data_ptr(),
          bias.has_value() ? start.const_data_ptr() : nullptr, y.mutable_data_ptr(), strides_of(y), current_isa,
          parallel_for);
  return y;
}

Tensor depthwise_conv1d_grad_input(const Tensor& grad, const Tensor& weight, int64_t channels, int64_t length,
                                   int64_t stride, int64_t padding) {
  check_grad_input(grad, weight, channels, length, stride, padding);
  const auto params =
      make_params(grad, channels, weight.size(1), weight.size(2), length, stride, padding, weight.size(0) != 1);
  const bool last = is_channels_last(grad);
  Tensor grad_x = empty_sequence(grad, last, grad.size(0), channels, length);
  const Tensor source = readable(grad, last), taps = torch::stable::contiguous(weight);
  grad_input(params, lanes_of(last), source.const_data_ptr(), strides_of(source), taps.const_data_ptr(),
             grad_x.mutable_data_ptr(), strides_of(grad_x), current_isa, parallel_for);
  return grad_x;
}

std::tuple<Tensor, Tensor> depthwise_conv1d_grad_weight(const Tensor& grad, const Tensor& x, int64_t kernel_size,
                                                        int64_t stride, int64_t padding, bool per_sample) {
  check_grad_weight(grad, x, kernel_size, stride, padding);
  const auto params = make_params(x, x.size(1), grad.size(1), kernel_size, x.size(2), stride, padding, per_sample);
  Tensor weight = torch::stable::new_empty(grad, {per_sample ? x.size(0) : 1, grad.size(1), kernel_size});
  Tensor bias = torch::stable::new_empty(grad, {grad.size(1)});
  const bool last = is_channels_last(x);
  const Tensor source = readable(x, last), upstream = readable(grad, last);
  grad_weight(params, lanes_of(last), upstream.const_data_ptr(), strides_of(upstream), source.const_data_ptr(),
              strides_of(source), weight.mutable_data_ptr(), bias.mutable_data_ptr(), current_isa, parallel_for);
  return {weight, bias};
}

}  // namespace
}  // namespace pathconv::depthwise

STABLE_TORCH_LIBRARY_FRAGMENT(pathconv, m) {
  m.def("depthwise_conv1d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor");
  m.def(
      "depthwise_conv1d_grad_input(Tensor grad, Tensor weight, SymInt channels, SymInt length, int stride, int "
      "padding) -> Tensor");
  m.def(
      "depthwise_conv1d_grad_weight(Tensor grad, Tensor x, SymInt kernel_size, int stride, int padding, bool "
      "per_sample) -> (Tensor grad_weight, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CPU, m) {
  m.impl("depthwise_conv1d", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d));
  m.impl("depthwise_conv1d_grad_input", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d_grad_input));
  m.impl("depthwise_conv1d_grad_weight", TORCH_BOX(&pathconv::depthwise::depthwise_conv1d_grad_weight));
}
