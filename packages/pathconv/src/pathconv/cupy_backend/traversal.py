"""The traversal, alone and fused with a convolution: `csrc/cuda/traverse*`."""

from __future__ import annotations

import ctypes

from torch import Tensor

from .launch import THREADS, WARPS, ceil_ratio, empty, even_part, instance, launch, partial

FAST, SLOW = 4, 8  # outputs of a thread along the fastest dimension and the other one
SUM_OUTPUTS, SUM_TERMS = 8, 4  # of a thread in the weight gradient
BLOCKS_WANTED = 4096
SUM_BLOCKS_WANTED = 1024
MAX_IMAGES = 16
MAX_SPLITS = 512
SIDES = 32 * 1024
MAX_DEPTH = 32
MAX_COUNT = 0x7FFF0000


class Params(ctypes.Structure):
    """`pathconv::traversal::Params`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("source", "table", "target", "weight", "bias", "grad")),
        *((name, ctypes.c_void_p) for name in ("partial", "grad_weight", "grad_bias")),
        ("source_stride", ctypes.c_int64 * 4),
        *((name, ctypes.c_int64) for name in ("weight_o", "weight_p", "weight_c", "grad_n", "grad_c", "grad_l")),
        *((name, ctypes.c_int) for name in ("batch", "paths", "length", "width", "channels", "outputs")),
        *((name, ctypes.c_int) for name in ("images", "output_threads", "other_threads", "depth", "vectors")),
        *((name, ctypes.c_int) for name in ("shared_bytes", "splits")),
    ]


def traverse(x: Tensor, index: Tensor, inverse: Tensor, channels_last: bool) -> Tensor:
    """y[n, p * C + c, l] = x[n, c, index[p, l]]."""
    channels = x.shape[1] * len(index)
    y = empty(x, (len(x), channels, index.shape[1]), channels_last)
    return _run("traverse", x, y, index, x.shape[1], channels, channels_last)


def traverse_adjoint(
    grad: Tensor, index: Tensor, inverse: Tensor, height: int, width: int, channels_last: bool
) -> Tensor:
    """x[n, c, q] = sum_p grad[n, p * C + c, inverse[p, q]]."""
    channels = grad.shape[1] // len(index)
    x = empty(grad, (len(grad), channels, height, width), channels_last)
    return _run("traverse_adjoint", grad, x, inverse, channels, channels, channels_last)


def traverse_conv1d(
    x: Tensor, index: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor | None, channels_last: bool
) -> Tensor:
    """y[n, o, l] = bias[o] + sum_{p, c} weight[o, p * C + c] * x[n, c, index[p, l]]."""
    channels = x.shape[1]
    y = empty(x, (len(x), len(weight), index.shape[1]), channels_last)
    strides = weight.stride(0), channels * weight.stride(1), weight.stride(1)
    bias = None if bias is None else bias.contiguous()
    return _convolve(x, y, index, channels, len(weight), weight, strides, channels_last, bias)


def traverse_conv1d_grad_input(
    grad: Tensor, index: Tensor, inverse: Tensor, weight: Tensor, height: int, width: int, channels_last: bool
) -> Tensor:
    """x[n, c, q] = sum_{p, o} weight[o, p * C + c] * grad[n, o, inverse[p, q]]."""
    channels = weight.shape[1] // len(index)
    x = empty(grad, (len(grad), channels, height, width), channels_last)
    strides = weight.stride(1), channels * weight.stride(1), weight.stride(0)
    return _convolve(grad, x, inverse, len(weight), channels, weight, strides, channels_last)


def traverse_conv1d_grad_weight(grad: Tensor, x: Tensor, index: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias."""
    outputs, terms = grad.shape[1], len(index) * x.shape[1]
    grad_weight, grad_bias = grad.new_empty(outputs, terms), grad.new_empty(outputs)
    if outputs:
        p = params(x, index, x.shape[1], outputs)
        p.grad, p.grad_weight, p.grad_bias = grad.data_ptr(), grad_weight.data_ptr(), grad_bias.data_ptr()
        p.grad_n, p.grad_c, p.grad_l = grad.stride()
        plan_weight_sums(p, grad.element_size())
        sums = partial(grad, p.splits * outputs * (terms + 1))
        p.partial = sums.data_ptr()
        last = _sums_channels_last(p)
        name = instance("reduce", grad.dtype, last)
        launch("traversal", name, p, _sum_tiles(p) * p.splits, p.shared_bytes, grad.device)
        launch("traversal", instance("finish", grad.dtype), p, ceil_ratio(outputs * (terms + 1), WARPS), 0, grad.device)
    return grad_weight, grad_bias


def params(source: Tensor, table: Tensor, channels: int, outputs: int) -> Params:
    """What all launches are told."""
    paths, length = table.shape
    counts = len(source), channels, paths, length, outputs, paths * channels, outputs * length
    if max(counts) > MAX_COUNT:  # ctypes would cut off what an int does not hold, without a word
        raise ValueError(
            f"{paths} paths of {length} positions over {len(source)} images, {channels} channels to {outputs}, are too "
            "many to count with 32 bits."
        )
    p = Params(batch=len(source), paths=paths, length=length, channels=channels, outputs=outputs)
    p.source, p.table = source.data_ptr(), table.data_ptr()
    if source.dim() == 4:
        p.source_stride[:], p.width = source.stride(), source.shape[3]
        if source.stride(2) == source.shape[3] * source.stride(3):
            p.width = length
    else:
        p.source_stride[:], p.width = (*source.stride()[:2], 0, source.stride(2)), length
    return p


def plan_images(p: Params) -> None:
    """Images per block of `traverse` and its adjoint: `plan_images` in C++."""
    blocks = ceil_ratio(p.outputs * p.length, THREADS) * p.batch
    p.images = min(max(blocks // BLOCKS_WANTED, 1), MAX_IMAGES, p.batch)


def plan_convolve(p: Params, bytes_: int, channels_last: bool) -> None:
    """The tile of a block: `plan_convolve` in C++."""
    per_thread, limit = (FAST, 32) if channels_last else (SLOW, 8)
    p.output_threads = even_part(ceil_ratio(p.outputs, per_thread), limit)
    p.other_threads = min(THREADS // p.output_threads, 128)
    tiles = p.output_threads * per_thread + p.other_threads * (FAST + SLOW - per_thread)
    p.depth = max(min(SIDES // (tiles * max(bytes_, 4)), p.paths * p.channels, MAX_DEPTH), 1)
    p.shared_bytes = p.depth * tiles * max(bytes_, 4)


def plan_weight_sums(p: Params, bytes_: int) -> None:
    """Tiles and splits of the weight gradient: `plan_weight_sums` in C++."""
    p.output_threads = even_part(ceil_ratio(p.outputs, SUM_OUTPUTS), 8)
    p.other_threads = even_part(ceil_ratio(p.paths * p.channels + 1, SUM_TERMS), 4)
    slice_threads = p.output_threads * p.other_threads
    slices = THREADS // slice_threads
    p.depth = max(slices, 64) // 4 * 4
    sides = p.depth * (p.output_threads * SUM_OUTPUTS + p.other_threads * SUM_TERMS)
    p.shared_bytes = max(sides, slices * slice_threads * SUM_OUTPUTS * SUM_TERMS) * max(bytes_, 4)
    p.vectors = _reads_vectors(p, bytes_)
    p.splits = max(min(SUM_BLOCKS_WANTED // _sum_tiles(p), ceil_ratio(p.batch * p.length, p.depth), MAX_SPLITS), 1)


def _run(kernel: str, source: Tensor, target: Tensor, table: Tensor, channels: int, outputs: int, last: bool) -> Tensor:
    if target.numel():
        p = params(source, table, channels, outputs)
        p.target = target.data_ptr()
        plan_images(p)
        blocks = ceil_ratio(outputs * p.length, THREADS) * ceil_ratio(p.batch, p.images)
        launch("traversal", instance(kernel, source.dtype, last), p, blocks, 0, source.device)
    return target


def _convolve(
    source: Tensor,
    target: Tensor,
    table: Tensor,
    channels: int,
    outputs: int,
    weight: Tensor,
    strides: tuple[int, int, int],
    last: bool,
    bias: Tensor | None = None,
) -> Tensor:
    if target.numel():
        p = params(source, table, channels, outputs)
        p.target, p.weight, p.bias = target.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr()
        p.weight_o, p.weight_p, p.weight_c = strides
        plan_convolve(p, source.element_size(), last)
        tile = p.output_threads * (FAST if last else SLOW), p.other_threads * (SLOW if last else FAST)
        blocks = ceil_ratio(outputs, tile[0]) * ceil_ratio(p.batch * p.length, tile[1])
        launch("traversal", instance("convolve", source.dtype, last), p, blocks, p.shared_bytes, source.device)
    return target


def _sums_channels_last(p: Params) -> bool:
    return p.grad_c == 1 and p.grad_l != 1 and p.outputs > 1


def _reads_vectors(p: Params, bytes_: int) -> bool:
    last = _sums_channels_last(p)
    fast, slow = (p.grad_c, p.grad_l) if last else (p.grad_l, p.grad_c)
    size = p.outputs if last else p.length
    return fast == 1 and (size | slow | p.grad_n) % 4 == 0 and (p.grad or 0) % (4 * bytes_) == 0


def _sum_tiles(p: Params) -> int:
    terms = p.paths * p.channels + 1
    return ceil_ratio(p.outputs, p.output_threads * SUM_OUTPUTS) * ceil_ratio(terms, p.other_threads * SUM_TERMS)
