// What the CPU bindings of both ops share: the instruction set in force, and tensors as pointers and strides.
#pragma once

#include "common/binding.h"
#include "cpu/pick_plan.h"
#include "pick_or_mix.h"

namespace pix {

extern leanconv::Isa current_isa;  // of both ops; set_cpu_level changes it

inline Place place() {
  return {level_for(current_isa), leanconv::parallel_for, static_cast<int64_t>(torch::stable::get_num_threads())};
}

// Of a tensor that is `readable`.
inline Strides strides_of(const Tensor& t, bool channels_last) {
  return {t.stride(0), channels_last ? pixel_step(t) : t.stride(1)};
}

// The params of `images`, of x's or y's size, whose x has `channels`.
inline Params make_params(const Tensor& images, int64_t channels, int64_t zeta, double tau, bool count_short,
                          bool channels_last) {
  Params params;
  params.batch = images.size(0);
  params.channels = channels;
  params.outputs = outputs_of(channels, zeta);
  params.pixels = images.size(2) * images.size(3);
  params.zeta = zeta;
  params.tau = static_cast<float>(tau);
  params.count_short = count_short;
  params.l1 = false;
  params.channels_last = channels_last;
  params.dtype = leanconv::dtype_of(images);
  return params;
}

// The choices of a forward pass, none unless they are kept.
inline Tensor empty_choice(const Tensor& y, bool channels_last, int64_t zeta, bool keep) {
  if (!keep) return torch::stable::new_empty(y, {0}, ScalarType::Byte);
  return empty_images(y, channels_last, y.size(0), y.size(1), y.size(2), y.size(3), choice_dtype(zeta));
}

// The tensors of a backward pass as the kernels read them. All lie as grad does; grad_x is written.
struct BackwardTensors {
  bool channels_last;
  Tensor grad, y, p, choice, x;

  BackwardTensors(const Tensor& grad_, const Tensor& y_, const Tensor& p_, const Tensor& choice_,
                  const std::optional<Tensor>& x_)
      : channels_last(is_channels_last(grad_)), grad(readable(grad_, channels_last)), y(readable(y_, channels_last)),
        p(torch::stable::contiguous(p_)), choice(dense(choice_, channels_last)),
        x(x_.has_value() ? readable(*x_, channels_last) : grad), has_x_(x_.has_value()) {}

  Backward arguments(const Tensor& grad_x) const {
    return {grad.const_data_ptr(),
            strides_of(grad, channels_last),
            y.const_data_ptr(),
            strides_of(y, channels_last),
            p.const_data_ptr(),
            choice.const_data_ptr(),
            nullptr,
            has_x_ ? x.const_data_ptr() : nullptr,
            strides_of(x, channels_last),
            grad_x.mutable_data_ptr()};
  }

 private:
  bool has_x_;
};

}  // namespace pix
