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
  check_conv(x, weight, bias);
  if (!bias.has_value()) return convolve(x, weight, nullptr, false);
  return convolve(x, weight, torch::stable::contiguous(*bias).const_data_ptr(), false);
}

Tensor depthwise_conv2d_grad_input(const Tensor& grad, const Tensor& weight) {
  check_depthwise(grad, "grad", weight);
  return convolve(grad, weight, nullptr, true);
}

std::tuple<Tensor, Tensor> depthwise_conv2d_grad_weight(const Tensor& grad, const Tensor& x,
                                                        std::vector<int64_t> kernel_size) {
  check_grad_weight(grad, x, kernel_size);
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
