// The ops `pix::pix*`, which are context, blend and pick_or_mix in one: schemas, and the CPU entries that turn tensors
// into plain pointers and strides. Fake kernels, autograd and the rest are registered in ops.py.
#include "pix.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/pix_kernel.h"
#include "cpu_binding.h"

namespace pix {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> fused(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                 int64_t zeta, double tau, bool l1, bool count_short, bool keep) {
  check_pix(x, weight, bias, zeta);
  const bool last = is_channels_last(x);
  Params params = make_params(x, x.size(1), zeta, tau, count_short, last);
  params.l1 = l1;
  Tensor y = empty_images(x, last, x.size(0), params.outputs, x.size(2), x.size(3), x.scalar_type());
  Tensor choice = empty_choice(y, last, zeta, keep);
  Tensor z = torch::stable::new_empty(x, {params.batch, params.channels}, sum_dtype(x));
  Tensor p = torch::stable::new_empty(x, {params.batch, params.outputs}, sum_dtype(x));
  const Tensor source = readable(x, last), rows = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : rows;
  Blend blend = {};
  blend.weight = rows.const_data_ptr();
  blend.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  blend.z = z.const_data_ptr();
  blend.p = p.mutable_data_ptr();
  fused_forward(params,
                {source.const_data_ptr(), strides_of(source, last), blend.p, y.mutable_data_ptr(),
                 keep ? choice.mutable_data_ptr() : nullptr},
                blend, z.mutable_data_ptr(), place());
  return {y, z, p, choice};
}

std::tuple<Tensor, Tensor, Tensor> fused_grad(const Tensor& grad, std::optional<Tensor> grad_p, const Tensor& y,
                                              const Tensor& z, const Tensor& p, const Tensor& choice,
                                              const Tensor& weight, std::optional<Tensor> x, int64_t zeta, double tau,
                                              bool count_short) {
  check_pix_backward(grad, grad_p, y, z, p, choice, weight, x, zeta);
  const BackwardTensors tensors(grad, y, p, choice, x);
  const bool last = tensors.channels_last;
  const int64_t channels = z.size(1);
  const Params params = make_params(grad, channels, zeta, tau, count_short, last);
  Tensor grad_x = empty_images(grad, last, grad.size(0), channels, grad.size(2), grad.size(3), grad.scalar_type());
  Tensor grad_weight = torch::stable::new_empty(grad, {params.outputs, channels});
  Tensor grad_bias = torch::stable::new_empty(grad, {params.outputs});
  const Tensor rows = torch::stable::contiguous(weight), context = torch::stable::contiguous(z);
  const Tensor more = grad_p.has_value() ? torch::stable::contiguous(*grad_p) : context;
  const Sums d_logit(params.batch * params.outputs, params.dtype), d_z(params.batch * channels, params.dtype);
  Blend blend = {};
  blend.weight = rows.const_data_ptr();
  blend.z = context.const_data_ptr();
  blend.d_logit = d_logit.at(0);
  blend.d_z = d_z.at(0);
  blend.grad_weight = grad_weight.mutable_data_ptr();
  blend.grad_bias = grad_bias.mutable_data_ptr();
  Backward arguments = tensors.arguments(grad_x);
  arguments.shift = blend.d_z;
  fused_backward(params, arguments, grad_p.has_value() ? more.const_data_ptr() : nullptr, blend, place());
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace pix

STABLE_TORCH_LIBRARY_FRAGMENT(pix, m) {
  m.def(
      "pix(Tensor x, Tensor weight, Tensor? bias, int zeta, float tau, bool l1, bool count_short, bool keep) -> "
      "(Tensor "
      "y, Tensor z, Tensor p, Tensor choice)");
  m.def(
      "pix_backward(Tensor grad, Tensor? grad_p, Tensor y, Tensor z, Tensor p, Tensor choice, Tensor weight, Tensor? "
      "x, "
      "int zeta, float tau, bool count_short) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(pix, CPU, m) {
  m.impl("pix", TORCH_BOX(&pix::fused));
  m.impl("pix_backward", TORCH_BOX(&pix::fused_grad));
}
