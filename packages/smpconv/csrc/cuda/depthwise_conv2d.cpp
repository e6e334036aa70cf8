// The CUDA entries of the ops `smpconv::depthwise_conv2d*`; the schemas stand in csrc/depthwise_conv2d.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda_binding.h"
#include "cuda/depthwise_kernel.h"
#include "smpconv.h"

namespace smpconv {
namespace {

using leanconv::current_stream;
using leanconv::dtype_of;
using leanconv::partial_sums;
using torch::stable::accelerator::DeviceGuard;

depthwise::Params make_params(const Tensor& images, int64_t kernel_h, int64_t kernel_w) {
  const int64_t n = images.size(0), c = images.size(1), h = images.size(2), w = images.size(3);
  STD_TORCH_CHECK(depthwise::representable(n, c, h, w), n, " images of ", c, " channels and ", h, "x", w,
                  " pixels are too many to count with 32 bits");
  STD_TORCH_CHECK(std::max(kernel_h, kernel_w) <= depthwise::kMaxSide, "kernel_size must be at most ",
                  depthwise::kMaxSide, " on CUDA, but is (", kernel_h, ", ", kernel_w, ")");
  depthwise::Params p = {};
  p.batch = n;
  p.channels = c;
  p.height = h;
  p.width = w;
  p.kernel_h = kernel_h;
  p.kernel_w = kernel_w;
  return p;
}

// `t` with nothing between its elements, in the layout that is asked for.
Tensor dense(const Tensor& t, bool last) {
  if (!last) return torch::stable::contiguous(t);
  const Tensor pixels = torch::stable::transpose(torch::stable::transpose(t, 1, 2), 2, 3);
  return images_from_pixels(torch::stable::contiguous(pixels));
}

Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool turned) {
  const DeviceGuard guard(x.get_device_index());
  depthwise::Params params = make_params(x, weight.size(1), weight.size(2));
  Tensor y = empty_images(x);
  if (y.numel() == 0) return y;
  const bool last = is_channels_last(x);
  const Tensor source = dense(x, last), taps = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : taps;
  params.x = source.const_data_ptr();
  params.weight = taps.const_data_ptr();
  params.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  params.y = y.mutable_data_ptr();
  params.turned = turned;
  depthwise::launch_convolve(params, dtype_of(x), last, current_stream(x));
  return y;
}

Tensor depthwise_conv2d(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias) {
  check_conv(x, weight, bias);
  return convolve(x, weight, bias, false);
}

Tensor depthwise_conv2d_grad_input(const Tensor& grad, const Tensor& weight) {
  check_depthwise(grad, "grad", weight);
  return convolve(grad, weight, std::nullopt, true);
}

std::tuple<Tensor, Tensor> depthwise_conv2d_grad_weight(const Tensor& grad, const Tensor& x,
                                                        std::vector<int64_t> kernel_size) {
  check_grad_weight(grad, x, kernel_size);
  const DeviceGuard guard(x.get_device_index());
  depthwise::Params params = make_params(x, kernel_size[0], kernel_size[1]);
  Tensor grad_weight = torch::stable::new_empty(grad, {x.size(1), kernel_size[0], kernel_size[1]});
  Tensor grad_bias = torch::stable::new_empty(grad, {x.size(1)});
  if (x.numel() == 0) return {torch::stable::zero_(grad_weight), torch::stable::zero_(grad_bias)};
  const bool last = is_channels_last(x);
  const auto dtype = dtype_of(x);
  const Tensor source = dense(x, last), upstream = dense(grad, last);
  params.x = source.const_data_ptr();
  params.grad = upstream.const_data_ptr();
  params.grad_weight = grad_weight.mutable_data_ptr();
  params.grad_bias = grad_bias.mutable_data_ptr();
  depthwise::plan_grad_weight(&params, dtype, last);
  const Tensor partial = partial_sums(x, depthwise::partial_count(params));
  params.partial = partial.mutable_data_ptr();
  depthwise::launch_grad_weight(params, dtype, last, current_stream(x));
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY_IMPL(smpconv, CUDA, m) {
  m.impl("depthwise_conv2d", TORCH_BOX(&smpconv::depthwise_conv2d));
  m.impl("depthwise_conv2d_grad_input", TORCH_BOX(&smpconv::depthwise_conv2d_grad_input));
  m.impl("depthwise_conv2d_grad_weight", TORCH_BOX(&smpconv::depthwise_conv2d_grad_weight));
}
