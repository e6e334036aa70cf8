// The ops `pix::pick_or_mix*`: schemas, and the CPU entries that turn tensors into plain pointers and strides. Fake
// kernels, autograd and the rest of what torch must know are registered in ops.py.
#include "pick_or_mix.h"

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "cpu/pick_kernel.h"
#include "cpu_binding.h"

namespace pix {

leanconv::Isa current_isa = leanconv::initial_isa("PIX_CPU_LEVEL");

namespace {

std::string cpu_level() { return leanconv::kIsaNames[static_cast<int>(current_isa)]; }

void set_cpu_level(std::string level) {
  leanconv::Isa isa;
  STD_TORCH_CHECK(leanconv::parse_isa(level.c_str(), &isa), "level must be baseline, avx2 or avx512, but is ", level);
  const leanconv::Isa found = leanconv::detect_isa();
  current_isa = isa < found ? isa : found;
}

std::tuple<Tensor, Tensor> pick_or_mix(const Tensor& x, const Tensor& p, int64_t zeta, double tau, bool count_short,
                                       bool keep) {
  check_pick_or_mix(x, p, zeta);
  const bool last = is_channels_last(x);
  const Params params = make_params(x, x.size(1), zeta, tau, count_short, last);
  Tensor y = empty_images(x, last, x.size(0), params.outputs, x.size(2), x.size(3), x.scalar_type());
  Tensor choice = empty_choice(y, last, zeta, keep);
  const Tensor source = readable(x, last), gate = torch::stable::contiguous(p);
  forward(params,
          {source.const_data_ptr(), strides_of(source, last), gate.const_data_ptr(), y.mutable_data_ptr(),
           keep ? choice.mutable_data_ptr() : nullptr},
          place());
  return {y, choice};
}

std::tuple<Tensor, Tensor> pick_or_mix_backward(const Tensor& grad, const Tensor& y, const Tensor& p,
                                                const Tensor& choice, int64_t channels, int64_t zeta, double tau,
                                                bool count_short) {
  check_upstream(grad, y, p, choice, std::nullopt, channels, zeta);
  const BackwardTensors tensors(grad, y, p, choice, std::nullopt);
  const bool last = tensors.channels_last;
  const Params params = make_params(grad, channels, zeta, tau, count_short, last);
  Tensor grad_x = empty_images(grad, last, grad.size(0), channels, grad.size(2), grad.size(3), grad.scalar_type());
  Tensor grad_p = torch::stable::new_empty(grad, {grad.size(0), grad.size(1)}, sum_dtype(grad));
  backward(params, tensors.arguments(grad_x), grad_p.mutable_data_ptr(), place());
  return {grad_x, grad_p};
}

}  // namespace
}  // namespace pix

STABLE_TORCH_LIBRARY(pix, m) {
  m.def(
      "pick_or_mix(Tensor x, Tensor p, int zeta, float tau, bool count_short, bool keep) -> (Tensor y, Tensor choice)");
  m.def(
      "pick_or_mix_backward(Tensor grad, Tensor y, Tensor p, Tensor choice, SymInt channels, int zeta, float "
      "tau, bool count_short) -> (Tensor grad_x, Tensor grad_p)");
  m.def("cpu_level() -> str");
  m.def("set_cpu_level(str level) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pix, CPU, m) {
  m.impl("pick_or_mix", TORCH_BOX(&pix::pick_or_mix));
  m.impl("pick_or_mix_backward", TORCH_BOX(&pix::pick_or_mix_backward));
}

STABLE_TORCH_LIBRARY_IMPL(pix, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&pix::cpu_level));
  m.impl("set_cpu_level", TORCH_BOX(&pix::set_cpu_level));
}
