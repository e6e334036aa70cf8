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

// Asking first is quicker than what `contiguous` does to find out.
Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

Tensor rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                 bool average, bool flip) {
  const PointSizes sizes = check_rasterize(coords, radius, weight, size, flip);
  std::vector<int64_t> shape = {sizes.groups, sizes.channels};
  shape.insert(shape.end(), size.begin(), size.end());
  Tensor kernel = torch::stable::new_empty(weight, shape);
  const Tensor p = dense(coords), r = dense(radius), w = dense(weight);
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
  const Tensor upstream = dense(grad), p = dense(coords), r = dense(radius), w = dense(weight);
  rasterize_points_grad(make_params(sizes, average, flip, weight), upstream.const_data_ptr(), p.const_data_ptr(),
                        r.const_data_ptr(), w.const_data_ptr(), grad_coords.mutable_data_ptr(),
                        grad_radius.mutable_data_ptr(), grad_weight.mutable_data_ptr(), place());
  return {grad_coords, grad_radius, grad_weight};
}

// v - v is 0 for finite v alone.
template <class T>
bool points_are_sound(const T* coords, int64_t numbers, const T* radius, int64_t points) {
  bool sound = true;
  for (int64_t i = 0; i < numbers; ++i) sound &= coords[i] - coords[i] == 0;
  for (int64_t i = 0; i < points; ++i) sound &= (radius[i] - radius[i] == 0) & (radius[i] > 0);
  return sound;
}

template <class T>
bool are_sound(const Tensor& coords, const Tensor& radius) {
  return points_are_sound(static_cast<const T*>(coords.const_data_ptr()), coords.numel(),
                          static_cast<const T*>(radius.const_data_ptr()), radius.numel());
}

// Whether `rasterize` takes these tensors as they are, and all of their points are finite with radii above 0: what
// Python would take longer to find out. It says no more, and may be wrong in one way: false for float16 and bfloat16.
bool points_fit(const Tensor& coords, const Tensor& radius, const Tensor& weight) {
  const auto dtype = weight.scalar_type();
  if (!(weight.dim() == 3 && coords.dim() == 3 && radius.dim() == 2 && weight.is_cpu() && coords.is_cpu() &&
        radius.is_cpu() && coords.scalar_type() == dtype && radius.scalar_type() == dtype && coords.is_contiguous() &&
        radius.is_contiguous() && (coords.size(2) == 1 || coords.size(2) == 2)))
    return false;
  if (!(coords.size(0) == weight.size(0) && coords.size(1) == weight.size(2) && radius.size(0) == weight.size(0) &&
        radius.size(1) == weight.size(2)))
    return false;
  if (dtype == ScalarType::Float) return are_sound<float>(coords, radius);
  return dtype == ScalarType::Double && are_sound<double>(coords, radius);
}

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY_FRAGMENT(smpconv, m) {
  m.def("rasterize(Tensor coords, Tensor radius, Tensor weight, SymInt[] size, bool average, bool flip) -> Tensor");
  m.def(
      "rasterize_backward(Tensor grad, Tensor coords, Tensor radius, Tensor weight, bool average, bool flip) -> "
      "(Tensor "
      "grad_coords, Tensor grad_radius, Tensor grad_weight)");
  m.def("points_fit(Tensor coords, Tensor radius, Tensor weight) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CPU, m) {
  m.impl("rasterize", TORCH_BOX(&smpconv::rasterize));
  m.impl("points_fit", TORCH_BOX(&smpconv::points_fit));
  m.impl("rasterize_backward", TORCH_BOX(&smpconv::rasterize_backward));
}
