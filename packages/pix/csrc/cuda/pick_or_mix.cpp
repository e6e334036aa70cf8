// The CUDA entries of the ops `pix::pick_or_mix*`; the schemas stand in csrc/pick_or_mix.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "pick_or_mix.h"

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "cuda/map_binding.h"

namespace pix {
namespace {

std::tuple<Tensor, Tensor> pick_or_mix(const Tensor& x, const Tensor& p, int64_t zeta, double tau, bool count_short,
                                       bool keep) {
  check_pick_or_mix(x, p, zeta);
  const DeviceGuard guard(x.get_device_index());
  const bool last = is_channels_last(x);
  maps::Params params = make_params(x, x.size(1), zeta, tau, count_short);
  const Picked picked(x, last, zeta, keep, &params);
  if (picked.y.numel() == 0) return {picked.y, picked.choice};
  const Tensor source = dense(x, last), gates = torch::stable::contiguous(p);
  params.x = source.const_data_ptr();
  params.gates = gates.const_data_ptr();
  maps::launch_pick(params, dtype_of(x), last, current_stream(x));
  return {picked.y, picked.choice};
}

std::tuple<Tensor, Tensor> pick_or_mix_backward(const Tensor& grad, const Tensor& y, const Tensor& p,
                                                const Tensor& choice, int64_t channels, int64_t zeta, double tau,
                                                bool count_short) {
  check_upstream(grad, y, p, choice, std::nullopt, channels, zeta);
  const DeviceGuard guard(grad.get_device_index());
  maps::Params params = make_params(grad, channels, zeta, tau, count_short);
  const Upstream up(grad, y, p, choice, std::nullopt, channels, &params);
  Tensor grad_p = torch::stable::new_empty(grad, {grad.size(0), grad.size(1)}, sum_dtype(grad));
  if (grad_p.numel() == 0) return {up.grad_x, grad_p};
  params.grad_gates = grad_p.mutable_data_ptr();
  maps::plan_scatter(&params, dtype_of(grad), up.last);
  const Tensor partial = partial_of(grad, params.pieces > 1 ? params.outputs : 0, &params);
  maps::launch_scatter(params, dtype_of(grad), up.last, current_stream(grad));
  return {up.grad_x, grad_p};
}

std::string cuda_archs() { return compiled_archs(); }

}  // namespace
}  // namespace pix

STABLE_TORCH_LIBRARY_FRAGMENT(pix, m) { m.def("cuda_archs() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(pix, CUDA, m) {
  m.impl("pick_or_mix", TORCH_BOX(&pix::pick_or_mix));
  m.impl("pick_or_mix_backward", TORCH_BOX(&pix::pick_or_mix_backward));
}

STABLE_TORCH_LIBRARY_IMPL(pix, CompositeExplicitAutograd, m) { m.impl("cuda_archs", TORCH_BOX(&pix::cuda_archs)); }
