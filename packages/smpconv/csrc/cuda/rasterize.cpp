// The CUDA entries of the ops `smpconv::rasterize*`; the schemas stand in csrc/rasterize.cpp.
#define USE_CUDA  // for the declaration of the current stream
#include "rasterize.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "common/cuda_binding.h"
#include "cuda/rasterize_kernel.h"

namespace smpconv {
namespace {

using leanconv::current_stream;
using leanconv::dtype_of;
using torch::stable::accelerator::DeviceGuard;

points::Params make_params(const PointSizes& s, bool average, bool flip) {
  STD_TORCH_CHECK(points::representable(s.groups, s.channels, s.points, s.height * s.width), s.groups, " groups of ",
                  s.channels, " channels and ", s.points, " points over ", s.height, "x", s.width,
                  " taps are too many to count with 32 bits");
  points::Params p = {};
  p.groups = s.groups;
  p.channels = s.channels;
  p.points = s.points;
  p.dims = s.dims;
  p.height = s.height;
  p.width = s.width;
  p.average = average;
  p.flip = flip;
  return p;
}

Tensor rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                 bool average, bool flip) {
  const PointSizes sizes = check_rasterize(coords, radius, weight, size, flip);
  const DeviceGuard guard(weight.get_device_index());
  points::Params params = make_params(sizes, average, flip);
  std::vector<int64_t> shape = {sizes.groups, sizes.channels};
  shape.insert(shape.end(), size.begin(), size.end());
  Tensor kernel = torch::stable::new_empty(weight, shape);
  if (kernel.numel() == 0) return kernel;
  const Tensor p = torch::stable::contiguous(coords), r = torch::stable::contiguous(radius);
  const Tensor w = torch::stable::contiguous(weight);
  params.coords = p.const_data_ptr();
  params.radius = r.const_data_ptr();
  params.weight = w.const_data_ptr();
  params.kernel = kernel.mutable_data_ptr();
  points::launch_spread(params, dtype_of(weight), current_stream(weight));
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor> rasterize_backward(const Tensor& grad, const Tensor& coords, const Tensor& radius,
                                                      const Tensor& weight, bool average, bool flip) {
  const PointSizes sizes = check_rasterize_backward(grad, coords, radius, weight, flip);
  const DeviceGuard guard(weight.get_device_index());
  points::Params params = make_params(sizes, average, flip);
  Tensor grad_coords = torch::stable::new_empty(coords, {sizes.groups, sizes.points, sizes.dims});
  Tensor grad_radius = torch::stable::new_empty(radius, {sizes.groups, sizes.points});
  Tensor grad_weight = torch::stable::new_empty(weight, {sizes.groups, sizes.channels, sizes.points});
  if (grad_radius.numel() == 0) return {grad_coords, grad_radius, grad_weight};
  const Tensor upstream = torch::stable::contiguous(grad), p = torch::stable::contiguous(coords);
  const Tensor r = torch::stable::contiguous(radius), w = torch::stable::contiguous(weight);
  params.grad = upstream.const_data_ptr();
  params.coords = p.const_data_ptr();
  params.radius = r.const_data_ptr();
  params.weight = w.const_data_ptr();
  params.grad_coords = grad_coords.mutable_data_ptr();
  params.grad_radius = grad_radius.mutable_data_ptr();
  params.grad_weight = grad_weight.mutable_data_ptr();
  points::launch_gather(params, dtype_of(weight), current_stream(weight));
  return {grad_coords, grad_radius, grad_weight};
}

std::string cuda_archs() { return compiled_archs(); }

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY_FRAGMENT(smpconv, m) { m.def("cuda_archs() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(smpconv, CUDA, m) {
  m.impl("rasterize", TORCH_BOX(&smpconv::rasterize));
  m.impl("rasterize_backward", TORCH_BOX(&smpconv::rasterize_backward));
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CompositeExplicitAutograd, m) {
  m.impl("cuda_archs", TORCH_BOX(&smpconv::cuda_archs));
}
