// The ops `smpconv::rasterize*`: schemas and CPU entries.
#include "rasterize.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/rasterize_kernel.h"
#include "cpu_binding.h"

namespace smpconv {
namespace {

RasterizeParams make_params(const PointSizes& sizes, bool average, bool flip, const Tensor& weight) {
  return {sizes.groups, sizes.channels, sizes.points,
          sizes.dims,   sizes.height,   sizes.width,
          average,      flip,           leanconv::dtype_of(weight)};
}

Tensor rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                 bool average, bool flip) {
  const PointSizes sizes = check_rasterize(coords, radius, weight, size, flip);
  std::vector<int64_t> shape = {sizes.groups, sizes.channels};
  shape.insert(shape.end(), size.begin(), size.end());
  Tensor kernel = torch::stable::new_empty(weight, shape);
  const Tensor p = torch::stable::contiguous(coords), r = torch::stable::contiguous(radius);
  const Tensor w = torch::stable::contiguous(weight);
  if (kernel.numel() > 0)
    rasterize_points(make_params(sizes, average, flip, weight), p.const_data_ptr(), r.const_data_ptr(),
                     w.const_data_ptr(), kernel.mutable_data_ptr(), place());
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor> rasterize_backward(const Tensor& grad, const Tensor& coords, const Tensor& radius,
                                                      const Tensor& weight, bool average, bool flip) {
  const PointSizes sizes = check_rasterize_backward(grad, coords, radius, weight, flip);
  Tensor grad_coords = torch::stable::new_empty(coords, {sizes.groups, sizes.points, sizes.dims});
  Tensor grad_radius = torch::stable::new_empty(radius, {sizes.groups, sizes.points});
  Tensor grad_weight = torch::stable::new_empty(weight, {sizes.groups, sizes.channels, sizes.points});
  const Tensor upstream = torch::stable::contiguous(grad), p = torch::stable::contiguous(coords);
  const Tensor r = torch::stable::contiguous(radius), w = torch::stable::contiguous(weight);
  rasterize_points_grad(make_params(sizes, average, flip, weight), upstream.const_data_ptr(), p.const_data_ptr(),
                        r.const_data_ptr(), w.const_data_ptr(), grad_coords.mutable_data_ptr(),
                        grad_radius.mutable_data_ptr(), grad_weight.mutable_data_ptr(), place());
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
