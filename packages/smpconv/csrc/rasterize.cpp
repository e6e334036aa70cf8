// The ops `smpconv::rasterize*`: schemas and CPU entries.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <tuple>
#include <vector>

#include "cpu/rasterize_kernel.h"
#include "cpu_binding.h"

namespace smpconv {
namespace {

RasterizeParams make_params(const Tensor& weight, const std::vector<int64_t>& size, bool average, bool flip) {
  const int64_t dims = static_cast<int64_t>(size.size());
  STD_TORCH_CHECK(dims == 1 || dims == 2, "size must have 1 or 2 numbers, but has ", dims);
  for (const int64_t taps : size)
    STD_TORCH_CHECK(taps >= 0 && taps <= INT32_MAX, "size must be from 0 to 2^31 - 1, but holds ", taps);
  STD_TORCH_CHECK(!flip || dims == 2, "flip must be false in one dimension");
  RasterizeParams params;
  params.groups = weight.size(0);
  params.channels = weight.size(1);
  params.points = weight.size(2);
  params.dims = dims;
  params.height = dims == 2 ? size[0] : 1;
  params.width = size[dims - 1];
  STD_TORCH_CHECK(params.width == 0 || params.height <= INT32_MAX / params.width, "size must hold less than 2^31 taps");
  params.average = average;
  params.flip = flip;
  params.dtype = leanconv::dtype_of(weight);
  return params;
}

Tensor rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                 bool average, bool flip) {
  check_points(coords, radius, weight, static_cast<int64_t>(size.size()));
  const RasterizeParams params = make_params(weight, size, average, flip);
  std::vector<int64_t> shape = {params.groups, params.channels};
  shape.insert(shape.end(), size.begin(), size.end());
  Tensor kernel = torch::stable::new_empty(weight, shape);
  const Tensor p = torch::stable::contiguous(coords), r = torch::stable::contiguous(radius);
  const Tensor w = torch::stable::contiguous(weight);
  if (kernel.numel() > 0)
    rasterize_points(params, p.const_data_ptr(), r.const_data_ptr(), w.const_data_ptr(), kernel.mutable_data_ptr(),
                     place());
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor> rasterize_backward(const Tensor& grad, const Tensor& coords, const Tensor& radius,
                                                      const Tensor& weight, bool average, bool flip) {
  check_like(grad, "grad", weight, "weight");
  STD_TORCH_CHECK(grad.dim() == 3 || grad.dim() == 4, "grad must have 3 or 4 dimensions, but has ", grad.dim());
  check_points(coords, radius, weight, grad.dim() - 2);
  STD_TORCH_CHECK(grad.size(0) == weight.size(0) && grad.size(1) == weight.size(1), "grad must have the groups and ",
                  "channels of weight, (", weight.size(0), ", ", weight.size(1), ")");
  std::vector<int64_t> size;
  for (int64_t i = 2; i < grad.dim(); ++i) size.push_back(grad.size(i));
  const RasterizeParams params = make_params(weight, size, average, flip);
  Tensor grad_coords = torch::stable::new_empty(coords, {params.groups, params.points, params.dims});
  Tensor grad_radius = torch::stable::new_empty(radius, {params.groups, params.points});
  Tensor grad_weight = torch::stable::new_empty(weight, {params.groups, params.channels, params.points});
  const Tensor upstream = torch::stable::contiguous(grad), p = torch::stable::contiguous(coords);
  const Tensor r = torch::stable::contiguous(radius), w = torch::stable::contiguous(weight);
  rasterize_points_grad(params, upstream.const_data_ptr(), p.const_data_ptr(), r.const_data_ptr(), w.const_data_ptr(),
                        grad_coords.mutable_data_ptr(), grad_radius.mutable_data_ptr(), grad_weight.mutable_data_ptr(),
                        place());
  return {grad_coords, grad_radius, grad_weight};
}

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY_FRAGMENT(smpconv, m) {
  m.def("rasterize(Tensor coords, Tensor radius, Tensor weight, SymInt[] size, bool average, bool flip) -> Tensor");
  m.def(
      "rasterize_backward(Tensor grad, Tensor coords, Tensor radius, Tensor weight, bool average, bool flip) -> "
      "(Tensor "
      "grad_coords, Tensor grad_radius, Tensor grad_weight)");
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CPU, m) {
  m.impl("rasterize", TORCH_BOX(&smpconv::rasterize));
  m.impl("rasterize_backward", TORCH_BOX(&smpconv::rasterize_backward));
}
