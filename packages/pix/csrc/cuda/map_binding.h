// What the CUDA bindings of both ops share.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "common/cuda_binding.h"
#include "cuda/pick_or_mix_kernel.h"
#include "pick_or_mix.h"

namespace pix {

using leanconv::current_stream;
using leanconv::dtype_of;
using leanconv::partial_sums;
using torch::stable::accelerator::DeviceGuard;

// What all launches over the feature maps of an op are told; `like` is one of them.
inline maps::Params make_params(const Tensor& like, int64_t channels, int64_t zeta, double tau, bool count_short) {
  const int64_t pixels = like.size(2) * like.size(3);
  STD_TORCH_CHECK(maps::representable(like.size(0), channels, pixels), like.size(0), " images of ", channels,
                  " channels and ", pixels, " pixels are too many to count with 32 bits");
  maps::Params p = {};
  p.batch = like.size(0);
  p.channels = channels;
  p.outputs = outputs_of(channels, zeta);
  p.pixels = pixels;
  p.zeta = zeta;
  p.count_short = count_short;
  p.wide = choice_dtype(zeta) == ScalarType::Int;
  p.tau = static_cast<float>(tau);
  return p;
}

// Results of the forward pass, whose inputs are set: y and the choice, which is empty unless `keep`.
struct Picked {
  Tensor y, choice;

  Picked(const Tensor& x, bool last, int64_t zeta, bool keep, maps::Params* p)
      : y(empty_images(x, last, x.size(0), p->outputs, x.size(2), x.size(3), x.scalar_type())),
        choice(keep ? empty_images(x, last, x.size(0), p->outputs, x.size(2), x.size(3), choice_dtype(zeta))
                    : torch::stable::new_empty(x, {0}, ScalarType::Byte)) {
    p->y = y.mutable_data_ptr();
    p->choice = keep ? choice.mutable_data_ptr() : nullptr;
  }
};

// What the backward pass reads, in the layout of grad, and the gradient of x that it writes.
struct Upstream {
  bool last;
  Tensor grad, y, p, choice, x, grad_x;

  Upstream(const Tensor& grad_y, const Tensor& forward_y, const Tensor& gates, const Tensor& chosen,
           const std::optional<Tensor>& forward_x, int64_t channels, maps::Params* params)
      : last(is_channels_last(grad_y)), grad(dense(grad_y, last)), y(dense(forward_y, last)),
        p(torch::stable::contiguous(gates)), choice(dense(chosen, last)),
        x(forward_x.has_value() ? dense(*forward_x, last) : grad),
        grad_x(empty_images(grad_y, last, grad_y.size(0), channels, grad_y.size(2), grad_y.size(3),
                            grad_y.scalar_type())) {
    params->grad = grad.const_data_ptr();
    params->y = y.mutable_data_ptr();  // only read
    params->gates = p.const_data_ptr();
    params->choice = choice.mutable_data_ptr();  // only read
    params->x = forward_x.has_value() ? x.const_data_ptr() : nullptr;
    params->grad_x = grad_x.mutable_data_ptr();
  }
};

// Room for the sums of `channels`, when the plan is made.
inline Tensor partial_of(const Tensor& like, int64_t channels, maps::Params* p) {
  Tensor partial = partial_sums(like, int64_t{p->batch} * p->pieces * channels);
  p->partial = partial.mutable_data_ptr();
  return partial;
}

}  // namespace pix
