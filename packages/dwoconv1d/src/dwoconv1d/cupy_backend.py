"""The CUDA kernels of `csrc/cuda`, compiled by CuPy at first use: for a GPU beside which there is no nvcc.

The functions have the ops' signatures. `Params` and `plan` say again, in Python, what `oriented_conv1d_params.h` and
`make_plan` in `oriented_conv1d_kernel.cu` say in C++; a test compares the two. Importing this module needs torch alone.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from ._common.device_code import C_TYPES, DeviceCode, shared_limit
from .reference import channels_last

THREADS = 256
CODE = DeviceCode(Path(__file__).parent / "_csrc", "cuda/oriented_conv1d_kernel.cuh", "dwoconv1d", THREADS)
WARPS = THREADS // 32
HEAD_BYTES = 320
MAX_SHARED = 96 * 1024
BLOCKS_WANTED = 2048
MAX_LISTED = 128
MAX_SIDE = 1 << 29


class Params(ctypes.Structure):
    """`dwoconv1d::Params`."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("source", "weight", "offsets", "bias", "target", "partial", "grad_weight", "grad_bias")
        ),
        *((name, ctypes.c_int64 * 4) for name in ("source_stride", "target_stride")),
        *((name, ctypes.c_int) for name in ("batch", "channels", "taps")),
        *((name, ctypes.c_int) for name in ("source_h", "source_w", "target_h", "target_w", "cells_h", "cells_w")),
        *((name, ctypes.c_int) for name in ("stride_h", "stride_w", "grad_input", "residual")),
        *((name, ctypes.c_int) for name in ("tile_n", "tile_h", "tile_w", "list_taps", "shared_bytes", "splits")),
    ]


def oriented_conv1d(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # int32 (2, C, K)
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    residual: bool,
) -> Tensor:  # (N, C, P, Q)
    """The forward pass."""
    x, weight = _readable(x), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = _empty(x, -(-x.shape[2] // stride_h), -(-x.shape[3] // stride_w))
    if y.numel():
        p = _params(x, y, offsets, y.shape[2:], (stride_h, stride_w), weight=weight, bias=bias, residual=residual)
        _gather(p, x)
    return y


def oriented_conv1d_grad_input(
    grad: Tensor,  # (N, C, P, Q)
    weight: Tensor,  # (C, K)
    offsets: Tensor,  # int32 (2, C, K)
    height: int,
    width: int,
    stride_h: int,
    stride_w: int,
    residual: bool,
) -> Tensor:  # (N, C, height, width)
    """The gradient of `x`."""
    grad, weight = _readable(grad), weight.contiguous()
    grad_x = _empty(grad, height, width)
    if grad_x.numel():
        p = _params(grad, grad_x, offsets, grad.shape[2:], (stride_h, stride_w), weight=weight, residual=residual)
        p.grad_input = 1
        _gather(p, grad)
    return grad_x


def oriented_conv1d_grad_weight(
    grad: Tensor,  # (N, C, P, Q)
    x: Tensor,  # (N, C, H, W)
    offsets: Tensor,  # int32 (2, C, K)
    stride_h: int,
    stride_w: int,
) -> tuple[Tensor, Tensor]:  # (C, K), (C,)
    """The gradients of `weight` and `bias`."""
    channels, taps = offsets.shape[1:]
    grad, x = _readable(grad), _readable(x)
    grad_weight, grad_bias = grad.new_empty(channels, taps), grad.new_empty(channels)
    if channels:
        p = _params(
            x, grad, offsets, grad.shape[2:], (stride_h, stride_w), grad_weight=grad_weight, grad_bias=grad_bias
        )
        plan(p, x.element_size(), True, shared_limit(x.device))
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        partial = torch.empty(p.splits * channels * (taps + 1), dtype=wide, device=x.device)
        p.partial = partial.data_ptr()
        name, group = C_TYPES[x.dtype], _channels_per_block(p, x.element_size())
        kernel = f"reduce<{name}, {_bool(_reads_channels(p))}, {p.list_taps}>"
        _launch(kernel, p, p.splits * -(-channels // group), p.shared_bytes, x.device)
        _launch(f"finish<{name}>", p, -(-channels * (taps + 1) // THREADS), 0, x.device)
    return grad_weight, grad_bias


def plan(p: Params, bytes_: int, weight_sums: bool, limit: int) -> None:
    """Chooses tiles, shared memory and splits: `make_plan` in C++."""
    sum_bytes, group = max(bytes_, 4), _channels_per_block(p, bytes_)
    side = 32 if group > 1 else 64
    images = 2 if group == 1 and bytes_ == 2 else 1
    step_h, step_w = (1, 1) if p.grad_input else (p.stride_h, p.stride_w)
    p.tile_h = _even_tile(p.cells_h, max(side // step_h, 1))
    p.tile_w = _even_tile(p.cells_w, max(side // step_w, 1))
    wanted = 1024 // (p.tile_h * p.tile_w * group)
    p.tile_n = images * max(min(wanted, -(-p.batch // images)), 1)

    p.list_taps = (8 if p.taps <= 8 else 32) if weight_sums else min(p.taps, MAX_LISTED)
    before_tile = HEAD_BYTES + p.list_taps * group * (8 if weight_sums else 2 * sum_bytes) + 16
    pixels = _extent(p.tile_h, p.cells_h, step_h, p.source_h, p.taps) * _extent(
        p.tile_w, p.cells_w, step_w, p.source_w, p.taps
    )
    tile = p.tile_n * (pixels + (128 if group > 1 else 0)) * group * bytes_
    warp_sums = WARPS * (p.list_taps + 1) * group * sum_bytes if weight_sums else 0
    p.shared_bytes = before_tile + max(min(tile, min(limit, MAX_SHARED) - before_tile), warp_sums)
    groups = max(-(-p.channels // group), 1)
    p.splits = max(min(BLOCKS_WANTED // groups, _units(p), 256), 1)


def _gather(p: Params, like: Tensor) -> None:
    plan(p, like.element_size(), False, shared_limit(like.device))
    blocks = _units(p) * -(-p.channels // _channels_per_block(p, like.element_size()))
    _launch(f"gather<{C_TYPES[like.dtype]}, {_bool(_reads_channels(p))}>", p, blocks, p.shared_bytes, like.device)


def _params(
    source: Tensor,
    target: Tensor,
    offsets: Tensor,
    cells: torch.Size,
    stride: tuple[int, int],
    *,
    residual: bool = False,
    **tensors: Tensor | None,  # weight, bias, grad_weight, grad_bias
) -> Params:
    p = Params()
    for name, tensor in {"source": source, "target": target, "offsets": offsets, **tensors}.items():
        setattr(p, name, None if tensor is None else tensor.data_ptr())
    p.source_stride[:], p.target_stride[:] = source.stride(), target.stride()
    p.batch, p.channels, p.source_h, p.source_w = source.shape
    p.target_h, p.target_w = target.shape[2:]
    p.cells_h, p.cells_w = cells
    # ctypes would cut off what an int does not hold, without a word.
    if max(*source.shape[2:], *target.shape[2:]) > MAX_SIDE or max(*source.shape[:2], offsets.shape[2]) >= 2**31 - 1:
        raise ValueError(
            f"At most {MAX_SIDE} rows and columns and 2^31 - 2 images, channels and taps are supported, but an image "
            f"has the shape {tuple(source.shape)} and there are {offsets.shape[2]} taps."
        )
    p.taps, p.residual = offsets.shape[2], residual
    # A stride beyond the image changes nothing.
    p.stride_h = min(stride[0], max(p.source_h, p.target_h, 1))
    p.stride_w = min(stride[1], max(p.source_w, p.target_w, 1))
    return p


def _readable(t: Tensor) -> Tensor:
    return t if t.stride(3) == 1 or t.stride(1) == 1 else t.contiguous()


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    memory_format = torch.channels_last if channels_last(like) else torch.contiguous_format
    return torch.empty(
        (*like.shape[:2], height, width), dtype=like.dtype, device=like.device, memory_format=memory_format
    )


def _reads_channels(p: Params) -> bool:
    return p.source_stride[3] != 1 and p.source_stride[1] == 1 and p.channels > 1


def _channels_per_block(p: Params, bytes_: int) -> int:
    return 32 // bytes_ if _reads_channels(p) else 1


def _even_tile(cells: int, limit: int) -> int:
    return max(-(-cells // max(-(-cells // limit), 1)), 1)


def _extent(tile: int, cells: int, step: int, size: int, taps: int) -> int:
    return (tile - 1) * step + 1 + max(min(taps - 1, size - 1 + (cells - 1) * step), 0)


def _units(p: Params) -> int:
    return -(-p.cells_h // p.tile_h) * -(-p.cells_w // p.tile_w) * -(-p.batch // p.tile_n)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _launch(name: str, p: Params, blocks: int, shared_bytes: int, device: torch.device) -> None:
    CODE.launch(name, p, blocks, shared_bytes, device)
