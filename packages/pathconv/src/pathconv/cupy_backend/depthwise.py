"""The depthwise convolution: `csrc/cuda/depthwise_conv1d*`."""

from __future__ import annotations

import ctypes

from torch import Tensor

from ..reference import lies_last
from .launch import THREADS, WARPS, ceil_ratio, empty, even_part, instance, launch, partial

RUN = 16  # outputs of a thread
SUM_RUN = 8  # outputs that a thread of the weight gradient multiplies at once
WINDOW = 6  # taps per window
SUM_TAPS = 16  # of a thread in the weight gradient
BLOCKS_WANTED = 2048
MAX_SPLITS = 256
MAX_SHARED = 48 * 1024
MAX_LISTED = 64
MAX_COUNT = 1 << 30


class Params(ctypes.Structure):
    """`pathconv::depthwise::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("source", "weight", "bias", "target", "partial")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias")),
        *((name, ctypes.c_int64 * 3) for name in ("source_stride", "target_stride")),
        ("weight_n", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("batch", "channels", "multiplier", "taps", "source_length")),
        *((name, ctypes.c_int) for name in ("target_length", "stride", "padding", "grad_input", "samples")),
        *((name, ctypes.c_int) for name in ("group", "runs", "list_taps", "vectors", "shared_bytes", "splits")),
    ]


def depthwise_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """y[n, c * M + m, l] = bias[c * M + m] + sum_k weight[n, c * M + m, k] * x[n, c, l * stride + k - padding]."""
    outputs, taps = weight.shape[1:]
    length = (x.shape[2] + 2 * padding - taps) // stride + 1
    y = empty(x, (len(x), outputs, length), lies_last(x))
    if y.numel():
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        p = params(x, y, x.shape[2], outputs // x.shape[1], taps, stride, padding)
        p.weight, p.weight_n = weight.data_ptr(), 0 if len(weight) == 1 else outputs * taps
        p.bias = None if bias is None else bias.data_ptr()
        _correlate(p, x)
    return y


def depthwise_conv1d_grad_input(
    grad: Tensor, weight: Tensor, channels: int, length: int, stride: int, padding: int
) -> Tensor:
    """The gradient of `x` (N, channels, length)."""
    outputs, taps = weight.shape[1:]
    x = empty(grad, (len(grad), channels, length), lies_last(grad))
    if x.numel():
        weight = weight.contiguous()
        p = params(grad, x, length, outputs // channels, taps, stride, padding)
        p.weight, p.weight_n, p.grad_input = weight.data_ptr(), 0 if len(weight) == 1 else outputs * taps, 1
        _correlate(p, grad)
    return x


def depthwise_conv1d_grad_weight(
    grad: Tensor, x: Tensor, kernel_size: int, stride: int, padding: int, per_sample: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of weight (B, M * C, K) and bias (M * C,)."""
    outputs = grad.shape[1]
    samples = len(x) if per_sample else 1
    grad_weight, grad_bias = grad.new_empty(samples, outputs, kernel_size), grad.new_empty(outputs)
    if outputs:
        p = params(x, grad, x.shape[2], outputs // x.shape[1], kernel_size, stride, padding)
        p.grad_weight, p.grad_bias, p.samples = grad_weight.data_ptr(), grad_bias.data_ptr(), samples
        plan_weight_sums(p, x.element_size())
        sums = partial(grad, samples * p.splits * outputs * (kernel_size + 1))
        p.partial = sums.data_ptr()
        name = instance("reduce", x.dtype, _channels_last(p))
        launch("depthwise", name, p, _sum_tiles(p) * p.splits, p.shared_bytes, x.device)
        blocks = ceil_ratio(outputs * (samples * kernel_size + 1), WARPS)
        launch("depthwise", instance("finish", x.dtype), p, blocks, 0, x.device)
    return grad_weight, grad_bias


def params(
    source: Tensor, target: Tensor, length: int, multiplier: int, taps: int, stride: int, padding: int
) -> Params:
    """What all launches are told; `length` is that of x."""
    batch, channels, target_length = target.shape
    if max(batch, channels * multiplier, length + 2 * padding + taps) > MAX_COUNT:
        raise ValueError(  # ctypes would cut off what an int does not hold, without a word
            f"{batch} sequences of {channels} channels and {length} positions, padding {padding}, are too large in one "
            f"dimension: at most {MAX_COUNT} are supported."
        )
    p = Params(batch=batch, channels=channels, multiplier=multiplier, taps=taps, padding=padding)
    p.source, p.target = source.data_ptr(), target.data_ptr()
    p.source_stride[:], p.target_stride[:] = source.stride(), target.stride()
    p.source_length, p.target_length = source.shape[2], target_length
    p.stride = min(stride, max(length + 2 * padding, 1))  # a stride beyond the sequence leaves one output, as does this
    return p


def plan_correlate(p: Params, bytes_: int) -> None:
    """The tile of a block and its taps: `plan_correlate` in C++."""
    _plan_tile(p, ceil_ratio(p.target_length, _phases(p)), RUN)
    p.vectors = _fits_vectors(p) and _reads_vectors(p.source, p.source_stride, bytes_)
    pitch, size = _pitch(p), max(bytes_, 4)
    before = (p.runs * RUN + WINDOW - 1) * pitch
    p.list_taps = max(min((MAX_SHARED // size - before) // (p.group + pitch), _most_taps(p), MAX_LISTED), 1)
    p.shared_bytes = (before + p.list_taps * (p.group + pitch)) * size


def plan_weight_sums(p: Params, bytes_: int) -> None:
    """Tiles and splits of the weight gradient: `plan_weight_sums` in C++."""
    _plan_tile(p, p.target_length, SUM_RUN)
    tile = p.runs * SUM_RUN
    p.list_taps = SUM_TAPS
    tensors = (p.source, p.source_stride), (p.target, p.target_stride)
    p.vectors = _fits_vectors(p) and all(_reads_vectors(*tensor, bytes_) for tensor in tensors)
    cells = max((2 * tile + SUM_TAPS - 1) * _pitch(p), p.runs * (SUM_TAPS + 1) * p.group)
    p.shared_bytes = cells * max(bytes_, 4)
    units = (p.batch // p.samples if p.samples else 0) * ceil_ratio(p.target_length, tile)
    p.splits = max(min(BLOCKS_WANTED // max(_sum_tiles(p), 1), units, MAX_SPLITS), 1)


def _correlate(p: Params, like: Tensor) -> None:
    plan_correlate(p, like.element_size())
    tiles = ceil_ratio(ceil_ratio(p.target_length, _phases(p)), p.runs * RUN)
    blocks = tiles * ceil_ratio(p.channels, p.group) * _phases(p) * p.batch
    name = instance("correlate", like.dtype, _channels_last(p))
    launch("depthwise", name, p, blocks, p.shared_bytes, like.device)


def _plan_tile(p: Params, outputs: int, run: int) -> None:
    p.group = min(p.channels, 16 * even_part(ceil_ratio(p.channels, 16), 4))
    p.runs = even_part(ceil_ratio(outputs, run), THREADS // p.group)


def _channels_last(p: Params) -> bool:
    return p.target_stride[1] == 1 and p.target_stride[2] != 1 and p.channels > 1


def _fits_vectors(p: Params) -> bool:
    return _channels_last(p) and p.multiplier == 1 and p.channels % 4 == 0


def _reads_vectors(data: int | None, stride: ctypes.Array, bytes_: int) -> bool:
    return stride[1] == 1 and (stride[2] | stride[0]) % 4 == 0 and (data or 0) % (4 * bytes_) == 0


def _pitch(p: Params) -> int:
    return p.group if p.vectors else p.group | 1


def _phases(p: Params) -> int:
    return p.stride if p.grad_input else 1


def _most_taps(p: Params) -> int:
    return ceil_ratio(p.taps, p.stride)


def _sum_tiles(p: Params) -> int:
    return ceil_ratio(p.channels, p.group) * min(p.stride, p.taps) * ceil_ratio(_most_taps(p), SUM_TAPS) * p.samples
