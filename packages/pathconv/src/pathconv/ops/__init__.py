"""The ops of the package as torch sees them: schemas here, fake kernels, autograd and vmap in the modules beside.

Every op is linear in each of its tensors, and those of a module are each other's gradients, so any number of backward
passes needs nothing else. Kernels come from `csrc/`, `cupy_backend` or the references; `_common.backends` says which.
Paths arrive as int32 tables (P, L) of pixels, numbered row by row: `index` names the pixel of every position of a path,
`inverse` the position of every pixel. Both are permutations, so gradients are gathers too.

A tensor (N, C, L) lies as (N, L, C) in memory, channels last, where `channels_last` of the result says so, else as its
shape says.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import reference, reference_depthwise
from .._common.backends import Backends

SCHEMAS = {
    "traverse": "(Tensor x, Tensor index, Tensor inverse, bool channels_last) -> Tensor",
    "traverse_adjoint": "(Tensor grad, Tensor index, Tensor inverse, SymInt height, SymInt width, "
    "bool channels_last) -> Tensor",
    "traverse_conv1d": "(Tensor x, Tensor index, Tensor inverse, Tensor weight, Tensor? bias, "
    "bool channels_last) -> Tensor",
    "traverse_conv1d_grad_input": "(Tensor grad, Tensor index, Tensor inverse, Tensor weight, SymInt height, "
    "SymInt width, bool channels_last) -> Tensor",
    "traverse_conv1d_grad_weight": "(Tensor grad, Tensor x, Tensor index, Tensor inverse) -> "
    "(Tensor grad_weight, Tensor grad_bias)",
    "depthwise_conv1d": "(Tensor x, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor",
    "depthwise_conv1d_grad_input": "(Tensor grad, Tensor weight, SymInt channels, SymInt length, int stride, "
    "int padding) -> Tensor",
    "depthwise_conv1d_grad_weight": "(Tensor grad, Tensor x, SymInt kernel_size, int stride, int padding, "
    "bool per_sample) -> (Tensor grad_weight, Tensor grad_bias)",
}
KERNELS: dict[str, Callable] = {
    "traverse": reference.gather,
    "traverse_adjoint": reference.gather_adjoint,
    "traverse_conv1d": reference.gather_conv1d,
    "traverse_conv1d_grad_input": reference.gather_conv1d_grad_input,
    "traverse_conv1d_grad_weight": reference.gather_conv1d_grad_weight,
    "depthwise_conv1d": reference_depthwise.forward,
    "depthwise_conv1d_grad_input": reference_depthwise.grad_input,
    "depthwise_conv1d_grad_weight": reference_depthwise.grad_weight,
}
backends = Backends("pathconv", SCHEMAS, KERNELS)

from . import depthwise, traverse  # noqa: E402 - they register the rest with the ops that are defined now

__all__ = ["KERNELS", "SCHEMAS", "backends", "depthwise", "traverse"]
