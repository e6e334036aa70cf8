// The CUDA entries of the ops `pix::pix*`, three launches each; the schemas stand in csrc/pix.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "pix.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/map_binding.h"
#include "cuda/pix_kernel.h"

namespace pix {
namespace {

// What the launches over vectors are told, beside those over feature maps.
gates::Params gate_params(const maps::Params& maps, const Tensor& weight) {
  gates::Params p = {};
  p.weight = weight.const_data_ptr();
  p.partial = maps.partial;
  p.batch = maps.batch;
  p.channels = maps.channels;
  p.outputs = maps.outputs;
  p.pixels = maps.pixels;
  p.pieces = maps.pieces;
  return p;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> layer(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                                                 int64_t zeta, double tau, bool l1, bool count_short, bool keep) {
  check_pix(x, weight, bias, zeta);
  const DeviceGuard guard(x.get_device_index());
  const bool last = is_channels_last(x);
  const auto dtype = dtype_of(x);
  void* stream = current_stream(x);
  maps::Params params = make_params(x, x.size(1), zeta, tau, count_short);
  const Picked picked(x, last, zeta, keep, &params);
  Tensor z = torch::stable::new_empty(x, {x.size(0), x.size(1)}, sum_dtype(x));
  Tensor p = torch::stable::new_empty(x, {x.size(0), params.outputs}, sum_dtype(x));
  if (p.numel() == 0) return {picked.y, z, p, picked.choice};

  const Tensor source = dense(x, last);
  maps::Params sums = params;
  sums.x = source.const_data_ptr();
  sums.y = sums.choice = nullptr;
  sums.absolute = l1;
  maps::plan_sums(&sums, dtype, last);
  const Tensor partial = partial_of(x, sums.channels, &sums);
  maps::launch_sums(sums, dtype, last, stream);

  const Tensor rows = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : rows;
  gates::Params gate = gate_params(sums, rows);
  gate.bias = bias.has_value() ? start.const_data_ptr() : nullptr;
  gate.z = z.mutable_data_ptr();
  gate.p = p.mutable_data_ptr();
  gates::launch_gate(gate, dtype, stream);

  params.x = source.const_data_ptr();
  params.gates = p.const_data_ptr();
  if (picked.y.numel() > 0) maps::launch_pick(params, dtype, last, stream);
  return {picked.y, z, p, picked.choice};
}

std::tuple<Tensor, Tensor, Tensor> layer_backward(const Tensor& grad, std::optional<Tensor> grad_p, const Tensor& y,
                                                  const Tensor& z, const Tensor& p, const Tensor& choice,
                                                  const Tensor& weight, std::optional<Tensor> x, int64_t zeta,
                                                  double tau, bool count_short) {
  check_pix_backward(grad, grad_p, y, z, p, choice, weight, x, zeta);
  const DeviceGuard guard(grad.get_device_index());
  const int64_t channels = z.size(1);
  const auto dtype = dtype_of(grad);
  void* stream = current_stream(grad);
  maps::Params params = make_params(grad, channels, zeta, tau, count_short);
  const Upstream up(grad, y, p, choice, x, channels, &params);
  Tensor grad_weight = torch::stable::new_empty(grad, {params.outputs, channels});
  Tensor grad_bias = torch::stable::new_empty(grad, {params.outputs});
  if (grad_weight.numel() == 0) return {up.grad_x, grad_weight, grad_bias};

  maps::Params sums = params;
  sums.x = sums.grad_x = nullptr;
  sums.choice = nullptr;
  sums.product = true;
  maps::plan_sums(&sums, dtype, up.last);
  const Tensor partial = partial_of(grad, sums.outputs, &sums);
  if (sums.batch > 0) maps::launch_sums(sums, dtype, up.last, stream);

  const Tensor rows = torch::stable::contiguous(weight), context = torch::stable::contiguous(z);
  const Tensor more = grad_p.has_value() ? torch::stable::contiguous(*grad_p) : context;
  const Tensor shift = partial_sums(grad, z.numel());
  gates::Params products = gate_params(sums, rows);
  products.z = context.mutable_data_ptr();  // only read
  products.p = up.p.mutable_data_ptr();     // only read
  products.grad_p = grad_p.has_value() ? more.const_data_ptr() : nullptr;
  products.shift = shift.mutable_data_ptr();
  products.grad_weight = grad_weight.mutable_data_ptr();
  products.grad_bias = grad_bias.mutable_data_ptr();
  gates::launch_products(products, dtype, stream);

  params.shift = shift.const_data_ptr();
  if (up.grad_x.numel() == 0) return {up.grad_x, grad_weight, grad_bias};
  maps::plan_scatter(&params, dtype, up.last);
  maps::launch_scatter(params, dtype, up.last, stream);
  return {up.grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace pix

STABLE_TORCH_LIBRARY_IMPL(pix, CUDA, m) {
  m.impl("pix", TORCH_BOX(&pix::layer));
  m.impl("pix_backward", TORCH_BOX(&pix::layer_backward));
}
