// The ops `smpconv::depthwise_conv2d*`: schemas, and the CPU entries that turn tensors into plain pointers and strides.
// Fake kernels, autograd and the rest of what torch must know are registered in ops.py.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/depthwise_kernel.h"
#include "cpu_binding.h"

namespace smpconv {

leanconv::Isa current_isa = leanconv::initial_isa("SMPCONV_CPU_LEVEL");

namespace {

std::string cpu_level() { return leanconv::kIsaNames[static_cast<int>(current_isa)]; }

void set_cpu_level(std::string level) {
  leanconv::Isa isa;
  STD_TORCH_CHECK(leanconv::parse_isa(level.c_str(), &isa), "level must be baseline, avx2 or avx512, but is ", level);
  const leanconv::Isa found = leanconv::detect_isa();
  current_isa = isa < found ? isa : found;
}

Tensor images_from_pixels(const Tensor& pixels) {  // (N, H, W, C) as (N, C, H, W)
  return torch::stable::transpose(torch::stable::transpose(pixels, 2, 3), 1, 2);
}

Tensor empty_images(const Tensor& like) {
  const int64_t n = like.size(0), c = like.size(1), h = like.size(2), w = like.size(3);
  if (!is_channels_last(like)) return torch::stable::new_empty(like, {n, c, h, w});
  return images_from_pixels(torch::stable::new_empty(like, {n, h, w, c}));
}

// `t` itself wherever its channels or its columns lie side by side.
Tensor readable(const Tensor& t) {
  if (t.stride(1) == 1 || t.stride(3) == 1) return t;
  return torch::stable::contiguous(t);
}

// One of the steps of channels and columns is 1: a dimension of size 1 may have any.
Strides strides_of(const Tensor& t) {
  Strides s = {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
  if (s.c != 1 && s.w != 1) s.w = 1;
  return s;
}

Params make_params(const Tensor& images, int64_t kernel_h, int64_t kernel_w) {
  return {
      images.size(0), images.size(1), images.size(2), images.size(3), kernel_h, kernel_w, leanconv::dtype_of(images)};
}

Tensor convolve(const Tensor& x, const Tensor& weight, const void* bias, bool turned) {
  const Params params = make_params(x, weight.size(1), weight.size(2));
  Tensor y = empty_images(x);
  const Tensor source = readable(x), taps = torch::stable::contiguous(weight);
  depthwise_forward(params, source.const_data_ptr(), strides_of(source), taps.const_data_ptr(), bias, turned,
                    y.mutable_data_ptr(), strides_of(y), place());
  return y;
}

Tensor depthwise_conv2d(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias) {
  check_depthwise(x, "x", weight);
  if (!bias.has_value()) return convolve(x, weight, nullptr, false);
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(1), "bias must have shape (", x.size(1), ") for this x");
  check_like(*bias, "bias", x, "x");
  return convolve(x, weight, torch::stable::contiguous(*bias).const_data_ptr(), false);
}

Tensor depthwise_conv2d_grad_input(const Tensor& grad, const Tensor& weight) {
  check_depthwise(grad, "grad", weight);
  return convolve(grad, weight, nullptr, true);
}

std::tuple<Tensor, Tensor> depthwise_conv2d_grad_weight(const Tensor& grad, const Tensor& x,
                                                        std::vector<int64_t> kernel_size) {
  check_images(x, "x");
  check_images(grad, "grad");
  check_like(grad, "grad", x, "x");
  for (int64_t i = 0; i < 4; ++i)
    STD_TORCH_CHECK(grad.size(i) == x.size(i), "grad must have the shape of x, but differs in dimension ", i);
  STD_TORCH_CHECK(kernel_size.size() == 2, "kernel_size must have 2 numbers, but has ", kernel_size.size());
  check_kernel_size(kernel_size[0], kernel_size[1]);
  const Params params = make_params(x, kernel_size[0], kernel_size[1]);
  Tensor grad_weight = torch::stable::new_empty(grad, {x.size(1), kernel_size[0], kernel_size[1]});
  Tensor grad_bias = torch::stable::new_empty(grad, {x.size(1)});
  const Tensor upstream = readable(grad), source = readable(x);
  depthwise_grad_weight(params, upstream.const_data_ptr(), strides_of(upstream), source.const_data_ptr(),
                        strides_of(source), grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(), place());
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY(smpconv, m) {
  m.def("depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def("depthwise_conv2d_grad_input(Tensor grad, Tensor weight) -> Tensor");
  m.def(
      "depthwise_conv2d_grad_weight(Tensor grad, Tensor x, SymInt[] kernel_size) -> (Tensor grad_weight, Tensor "
      "grad_bias)");
  m.def("cpu_level() -> str");
  m.def("set_cpu_level(str level) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CPU, m) {
  m.impl("depthwise_conv2d", TORCH_BOX(&smpconv::depthwise_conv2d));
  m.impl("depthwise_conv2d_grad_input", TORCH_BOX(&smpconv::depthwise_conv2d_grad_input));
  m.impl("depthwise_conv2d_grad_weight", TORCH_BOX(&smpconv::depthwise_conv2d_grad_weight));
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&smpconv::cpu_level));
  m.impl("set_cpu_level", TORCH_BOX(&smpconv::set_cpu_level));
}
