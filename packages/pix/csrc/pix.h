// Argument checks of the ops `pix::pix*`, shared by the CPU and the CUDA binding.
#pragma once

#include "pick_or_mix.h"

namespace pix {

inline void check_weight(const Tensor& weight, const Tensor& images, const char* name, int64_t outputs,
                         int64_t channels) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) == outputs && weight.size(1) == channels,
                  "weight must have shape (C', C) = (", outputs, ", ", channels, ")");
  check_dtype(weight, "weight", images.scalar_type(), images, name);
}

inline void check_pix(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t zeta) {
  check_images(x, "x");
  check_zeta(zeta);
  const int64_t outputs = outputs_of(x.size(1), zeta);
  check_weight(weight, x, "x", outputs, x.size(1));
  if (!bias.has_value()) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "bias must have shape (C',) = (", outputs, ",)");
  check_dtype(*bias, "bias", x.scalar_type(), x, "x");
}

inline void check_pix_backward(const Tensor& grad, const std::optional<Tensor>& grad_p, const Tensor& y,
                               const Tensor& z, const Tensor& p, const Tensor& choice, const Tensor& weight,
                               const std::optional<Tensor>& x, int64_t zeta) {
  STD_TORCH_CHECK(z.dim() == 2, "z must have shape (N, C)");
  check_upstream(grad, y, p, choice, x, z.size(1), zeta);
  check_vectors(z, "z", sum_dtype(grad), grad, "grad", z.size(1));
  if (grad_p.has_value()) check_vectors(*grad_p, "grad_p", sum_dtype(grad), grad, "grad", grad.size(1));
  check_weight(weight, grad, "grad", grad.size(1), z.size(1));
}

}  // namespace pix
