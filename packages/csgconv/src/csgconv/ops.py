"""The ops of the package as torch sees them: schemas, fake kernels, autograd, vmap.

`crop` and `uncrop` copy numbers between slices and kernels, each is the other's gradient. Kernels come from `csrc/`,
`cupy_backend` or `reference`; `_common.backends` says which.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import reference
from ._common.autograd import call, register
from ._common.backends import Backends
from .layouts import ENTRIES

SCHEMAS = {
    "crop": "(Tensor slices, int[] layers) -> Tensor",
    "uncrop": "(Tensor kernels, int[] layers, SymInt rows, SymInt size) -> Tensor",
}
KERNELS: dict[str, Callable] = {"crop": reference.crop, "uncrop": reference.uncrop}
backends = Backends("csgconv", SCHEMAS, KERNELS)
_crop = torch.ops.csgconv.crop.default
_uncrop = torch.ops.csgconv.uncrop.default


def crop(slices: Tensor, layers: Sequence[int]) -> Tensor:  # (rows, P) -> (elements of all kernels,)
    """Runs the op."""
    return call(_crop, slices, layers)


def uncrop(kernels: Tensor, layers: Sequence[int], rows: int, size: int) -> Tensor:  # (elements,) -> (rows, size)
    """Runs the op."""
    return call(_uncrop, kernels, layers, rows, size)


def checksum(device: str) -> Callable[[Tensor, Tensor, Tensor | None], int]:
    """What computes `reference.checksum` there; 0 but on a CPU, which alone can read values without waiting.

    No op of `SCHEMAS`: nothing that torch traces, maps or differentiates holds it.
    """
    if device != "cpu":
        return lambda codes, weight, bias: 0
    return _native_checksum() if backends.active("cpu") == "native" else reference.checksum


@functools.cache
def _native_checksum() -> Callable[[Tensor, Tensor, Tensor | None], int]:
    """The native one, past torch's dispatcher: with cold caches that way takes longer than a small network's values.

    It does not let other threads of Python run meanwhile.
    """
    op, spec = torch.ops.csgconv.checksum.default, importlib.util.find_spec("csgconv._C")
    try:
        loaded = os.RTLD_NOW | os.RTLD_NOLOAD  # a second copy of the library would end the process
        native = ctypes.PyDLL(spec.origin, loaded).csgconv_checksum  # type: ignore[union-attr]
    except (OSError, AttributeError):  # loaded from elsewhere, or before the file was replaced
        return op
    native.argtypes, native.restype = (ctypes.c_void_p, ctypes.c_int64) * 3, ctypes.c_int64

    def readable(t: Tensor) -> bool:
        return t.is_cpu and t.is_contiguous()

    def checksum(codes: Tensor, weight: Tensor, bias: Tensor | None) -> int:
        if not (readable(codes) and readable(weight) and (bias is None or readable(bias))):
            return op(codes, weight, bias)
        third = (None, -1) if bias is None else (bias.data_ptr(), bias.nbytes)
        return native(codes.data_ptr(), codes.nbytes, weight.data_ptr(), weight.nbytes, *third)

    return checksum


def elements(layers: Sequence[int]) -> int:
    """Of all kernels of a table."""
    return sum(layers[i + 1] * layers[i + 2] * layers[i + 3] for i in range(0, len(layers), ENTRIES))


@torch.library.register_fake("csgconv::crop")
def _(slices, layers):
    return slices.new_empty(elements(layers))


@torch.library.register_fake("csgconv::uncrop")
def _(kernels, layers, rows, size):
    return kernels.new_empty((rows, size))


def _crop_setup(ctx, inputs, output):
    slices, ctx.layers = inputs
    ctx.shape = slices.shape


def _crop_grad(ctx, grad):
    return call(_uncrop, grad, ctx.layers, *ctx.shape), None


def _uncrop_setup(ctx, inputs, output):
    ctx.layers = inputs[1]


def _uncrop_grad(ctx, grad):
    return call(_crop, grad, ctx.layers), None, None, None


# vmap: the mapped slices are more rows of one call, and the layers are there once for each.


def _repeated(layers: Sequence[int], times: int, size: int) -> list[int]:
    return [
        number + copy * size if i % ENTRIES == 0 else number for copy in range(times) for i, number in enumerate(layers)
    ]


def _crop_rule(info, in_dims, slices, layers):
    slices = slices.movedim(in_dims[0], 0)
    many = _repeated(layers, info.batch_size, slices[0].numel())
    return call(_crop, slices.flatten(0, 1), many).unflatten(0, (info.batch_size, -1)), 0


def _uncrop_rule(info, in_dims, kernels, layers, rows, size):
    many = _repeated(layers, info.batch_size, rows * size)
    slices = call(_uncrop, kernels.movedim(in_dims[0], 0).flatten(), many, info.batch_size * rows, size)
    return slices.unflatten(0, (info.batch_size, rows)), 0


register(_crop, _crop_setup, _crop_grad, _crop_rule)
register(_uncrop, _uncrop_setup, _uncrop_grad, _uncrop_rule)
