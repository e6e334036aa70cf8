// The ops `smpconv::rasterize*`: schemas and CPU entries.
#include "rasterize.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <utility>
#include <vector>

#include "common/half.h"
#include "cpu/rasterize_kernel.h"
#include "cpu_binding.h"

namespace smpconv {
namespace {

RasterizeParams make_params(const PointSizes& sizes, bool average, bool flip, const Tensor& weight) {
  return {sizes.groups, sizes.channels, sizes.points,
          sizes.dims,   sizes.height,   sizes.width,
          average,      flip,           leanconv::dtype_of(weight)};
}

// As `new_empty`, without a way through the dispatcher, which takes longer than a small op.
template <class... Sizes>
Tensor empty(const Tensor& like, Sizes... sizes) {
  constexpr int64_t dims = sizeof...(Sizes);
  const int64_t shape[] = {sizes...};
  int64_t strides[dims], step = 1;
  for (int64_t i = dims - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i] > 1 ? shape[i] : 1;
  }
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, shape, strides, dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// Asking first is quicker than what `contiguous` does to find out.
Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

Tensor rasterize(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                 bool average, bool flip) {
  const PointSizes sizes = check_rasterize(coords, radius, weight, size, flip);
  Tensor kernel = sizes.dims == 1 ? empty(weight, sizes.groups, sizes.channels, sizes.width)
                                  : empty(weight, sizes.groups, sizes.channels, sizes.height, sizes.width);
  const Tensor p = dense(coords), r = dense(radius), w = dense(weight);
  if (kernel.numel() > 0)
    rasterize_points(make_params(sizes, average, flip, weight), p.const_data_ptr(), r.const_data_ptr(),
                     w.const_data_ptr(), kernel.mutable_data_ptr(), place());
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor> rasterize_backward(const Tensor& grad, const Tensor& coords, const Tensor& radius,
                                                      const Tensor& weight, bool average, bool flip) {
  const PointSizes sizes = check_rasterize_backward(grad, coords, radius, weight, flip);
  Tensor grad_coords = empty(weight, sizes.groups, sizes.points, sizes.dims);
  Tensor grad_radius = empty(weight, sizes.groups, sizes.points);
  Tensor grad_weight = empty(weight, sizes.groups, sizes.channels, sizes.points);
  const Tensor upstream = dense(grad), p = dense(coords), r = dense(radius), w = dense(weight);
  rasterize_points_grad(make_params(sizes, average, flip, weight), upstream.const_data_ptr(), p.const_data_ptr(),
                        r.const_data_ptr(), w.const_data_ptr(), grad_coords.mutable_data_ptr(),
                        grad_radius.mutable_data_ptr(), grad_weight.mutable_data_ptr(), place());
  return {grad_coords, grad_radius, grad_weight};
}

// v - v is 0 for finite v alone.
template <class T>
bool points_are_sound(const T* coords, int64_t numbers, const T* radius, int64_t points) {
  using leanconv::cpu::widen;
  bool sound = true;
  for (int64_t i = 0; i < numbers; ++i) sound &= widen(coords[i]) - widen(coords[i]) == 0;
  for (int64_t i = 0; i < points; ++i) sound &= (widen(radius[i]) - widen(radius[i]) == 0) & (widen(radius[i]) > 0);
  return sound;
}

template <class T>
bool are_sound(const Tensor& coords, const Tensor& radius) {
  return points_are_sound(static_cast<const T*>(coords.const_data_ptr()), coords.numel(),
                          static_cast<const T*>(radius.const_data_ptr()), radius.numel());
}

// `rasterize` of points that are all finite with radii above 0; anything else is an error, of which Python makes a
// sentence. Looking at the points here costs less than asking for them to be looked at.
Tensor rasterize_sound(const Tensor& coords, const Tensor& radius, const Tensor& weight, std::vector<int64_t> size,
                       bool average, bool flip) {
  for (const int64_t taps : size) STD_TORCH_CHECK(taps > 0, "size must be positive, but holds ", taps);
  check_rasterize(coords, radius, weight, size, flip);
  const Tensor p = dense(coords), r = dense(radius);
  bool sound;
  switch (weight.scalar_type()) {
    case ScalarType::Double: sound = are_sound<double>(p, r); break;
    case ScalarType::Half: sound = are_sound<leanconv::cpu::Half>(p, r); break;
    case ScalarType::BFloat16: sound = are_sound<leanconv::cpu::BFloat16>(p, r); break;
    default: sound = are_sound<float>(p, r);
  }
  STD_TORCH_CHECK(sound, "coords and radius must be finite, and radius positive");
  return rasterize(p, r, weight, std::move(size), average, flip);
}

}  // namespace
}  // namespace smpconv

STABLE_TORCH_LIBRARY_FRAGMENT(smpconv, m) {
  m.def("rasterize(Tensor coords, Tensor radius, Tensor weight, SymInt[] size, bool average, bool flip) -> Tensor");
  m.def(
      "rasterize_backward(Tensor grad, Tensor coords, Tensor radius, Tensor weight, bool average, bool flip) -> "
      "(Tensor "
      "grad_coords, Tensor grad_radius, Tensor grad_weight)");
  m.def(
      "rasterize_sound(Tensor coords, Tensor radius, Tensor weight, SymInt[] size, bool average, bool flip) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(smpconv, CPU, m) {
  m.impl("rasterize", TORCH_BOX(&smpconv::rasterize));
  m.impl("rasterize_sound", TORCH_BOX(&smpconv::rasterize_sound));
  m.impl("rasterize_backward", TORCH_BOX(&smpconv::rasterize_backward));
}
