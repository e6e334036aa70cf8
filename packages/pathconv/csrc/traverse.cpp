// The ops `pathconv::traverse*`: schemas, and the CPU entries that turn tensors into plain pointers and strides. Fake
// kernels, autograd and the rest of what torch must know are registered in ops/traverse.py.
#include "traverse.h"

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "cpu/traverse_kernel.h"
#include "cpu_binding.h"

namespace pathconv {

leanconv::Isa current_isa = leanconv::initial_isa("PATHCONV_CPU_LEVEL");

namespace traversal {
namespace {

std::string cpu_level() { return leanconv::kIsaNames[static_cast<int>(current_isa)]; }

void set_cpu_level(std::string level) {
  leanconv::Isa isa;
  STD_TORCH_CHECK(leanconv::parse_isa(level.c_str(), &isa), "level must be baseline, avx2 or avx512, but is ", level);
  const leanconv::Isa found = leanconv::detect_isa();
  current_isa = isa < found ? isa : found;
}

Place place() { return {level_for(current_isa), parallel_for}; }

ImageStrides image_strides(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }
// A single position, or a single channel, lies next to itself whatever its stride is.
SequenceStrides sequence_strides(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.size(2) == 1 ? 1 : t.stride(2)};
}

// The numbers of a table, which the kernels follow blindly.
const int32_t* numbers(const Tensor& table, const char* name) {
  const auto* data = static_cast<const int32_t*>(table.const_data_ptr());
  STD_TORCH_CHECK(place().level.inside(data, table.numel(), table.size(1)), name, " must hold numbers from 0 to ",
                  table.size(1) - 1);
  return data;
}

Params make_params(const Tensor& t, int64_t channels, int64_t height, int64_t width, const Tensor& index,
                   int64_t outputs) {
  return {t.size(0), channels, height, width, index.size(0), outputs, dtype_of(t)};
}

Tensor traverse(const Tensor& x, const Tensor& index, const Tensor& inverse, bool channels_last) {
  check_traverse(x, index, inverse);
  const auto params = make_params(x, x.size(1), x.size(2), x.size(3), index, 0);
  Tensor y = empty_sequence(x, x.size(0), index.size(0) * x.size(1), index.size(1), channels_last);
  gather(params, x.const_data_ptr(), image_strides(x), numbers(index, "index"), y.mutable_data_ptr(),
         sequence_strides(y), place());
  return y;
}

Tensor traverse_adjoint(const Tensor& grad, const Tensor& index, const Tensor& inverse, int64_t height, int64_t width,
                        bool channels_last) {
  check_adjoint(grad, index, inverse, height, width);
  const auto params = make_params(grad, grad.size(1) / index.size(0), height, width, index, 0);
  Tensor x = empty_image(grad, grad.size(0), params.channels, height, width, channels_last);
  const Tensor source = readable(grad);
  adjoint(params, source.const_data_ptr(), sequence_strides(source), numbers(index, "index"),
          numbers(inverse, "inverse"), x.mutable_data_ptr(), image_strides(x), place());
  return x;
}

Tensor traverse_conv1d(const Tensor& x, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                       std::optional<Tensor> bias, bool channels_last) {
  check_conv(x, index, inverse, weight, bias);
  const auto params = make_params(x, x.size(1), x.size(2), x.size(3), index, weight.size(0));
  Tensor y = empty_sequence(x, x.size(0), weight.size(0), index.size(1), channels_last);
  const Tensor matrix = torch::stable::contiguous(weight);
  const Tensor start = bias.has_value() ? torch::stable::contiguous(*bias) : matrix;
  conv(params, x.const_data_ptr(), image_strides(x), numbers(index, "index"), matrix.const_data_ptr(),
       bias.has_value() ? start.const_data_ptr() : nullptr, y.mutable_data_ptr(), sequence_strides(y), place());
  return y;
}

Tensor traverse_conv1d_grad_input(const Tensor& grad, const Tensor& index, const Tensor& inverse, const Tensor& weight,
                                  int64_t height, int64_t width, bool channels_last) {
  check_conv_grad_input(grad, index, inverse, weight, height, width);
  const auto params = make_params(grad, weight.size(1) / index.size(0), height, width, index, weight.size(0));
  Tensor x = empty_image(grad, grad.size(0), params.channels, height, width, channels_last);
  const Tensor source = readable(grad), matrix = torch::stable::contiguous(weight);
  conv_grad_input(params, source.const_data_ptr(), sequence_strides(source), numbers(inverse, "inverse"),
                  matrix.const_data_ptr(), x.mutable_data_ptr(), image_strides(x), place());
  return x;
}

std::tuple<Tensor, Tensor> traverse_conv1d_grad_weight(const Tensor& grad, const Tensor& x, const Tensor& index,
                                                       const Tensor& inverse) {
  check_conv_grad_weight(grad, x, index, inverse);
  const auto params = make_params(x, x.size(1), x.size(2), x.size(3), index, grad.size(1));
  Tensor weight = torch::stable::new_empty(grad, {params.outputs, params.paths * params.channels});
  Tensor bias = torch::stable::new_empty(grad, {params.outputs});
  const Tensor source = readable(grad);
  conv_grad_weight(params, source.const_data_ptr(), sequence_strides(source), x.const_data_ptr(), image_strides(x),
                   numbers(index, "index"), weight.mutable_data_ptr(), bias.mutable_data_ptr(), place());
  return {weight, bias};
}

}  // namespace
}  // namespace traversal
}  // namespace pathconv

STABLE_TORCH_LIBRARY(pathconv, m) {
  m.def("traverse(Tensor x, Tensor index, Tensor inverse, bool channels_last) -> Tensor");
  m.def(
      "traverse_adjoint(Tensor grad, Tensor index, Tensor inverse, SymInt height, SymInt width, bool channels_last) -> "
      "Tensor");
  m.def(
      "traverse_conv1d(Tensor x, Tensor index, Tensor inverse, Tensor weight, Tensor? bias, bool channels_last) -> "
      "Tensor");
  m.def(
      "traverse_conv1d_grad_input(Tensor grad, Tensor index, Tensor inverse, Tensor weight, SymInt height, SymInt "
      "width, bool channels_last) -> Tensor");
  m.def(
      "traverse_conv1d_grad_weight(Tensor grad, Tensor x, Tensor index, Tensor inverse) -> (Tensor grad_weight, Tensor "
      "grad_bias)");
  m.def("cpu_level() -> str");
  m.def("set_cpu_level(str level) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CPU, m) {
  m.impl("traverse", TORCH_BOX(&pathconv::traversal::traverse));
  m.impl("traverse_adjoint", TORCH_BOX(&pathconv::traversal::traverse_adjoint));
  m.impl("traverse_conv1d", TORCH_BOX(&pathconv::traversal::traverse_conv1d));
  m.impl("traverse_conv1d_grad_input", TORCH_BOX(&pathconv::traversal::traverse_conv1d_grad_input));
  m.impl("traverse_conv1d_grad_weight", TORCH_BOX(&pathconv::traversal::traverse_conv1d_grad_weight));
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&pathconv::traversal::cpu_level));
  m.impl("set_cpu_level", TORCH_BOX(&pathconv::traversal::set_cpu_level));
}
