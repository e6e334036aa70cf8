"""The CUDA kernels of `csrc/cuda`, compiled by CuPy at first use: for a GPU beside which there is no nvcc.

The functions have the ops' signatures. `read` and the plans say again, in Python, what `crop.h` and `crop_kernel.cu`
say in C++; a test compares them. Importing this module needs torch alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ._common.device_code import DeviceCode
from .layouts import check_table, entries, entry_span

THREADS = 256
MOVES = 2
PARTS = 64
MAX_COUNT = 1 << 30
CODE = DeviceCode(Path(__file__).parent / "_csrc", "cuda/crop_kernel.cuh", "csgconv::copies", THREADS)
C_TYPES = {2: "unsigned short", 4: "unsigned", 8: "unsigned long long"}  # by the bytes of an element


class Layer(ctypes.Structure):
    """`csgconv::Layer`."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("slices", "kernels", "end", "outputs", "row", "width", "down", "across", "runs", "room")
    ]


class Part(ctypes.Structure):
    """`csgconv::copies::Part`."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("source", "target", "count")),
        *((name, ctypes.c_int) for name in ("outputs", "row", "width", "down", "across", "vectors", "block")),
    ]


class Params(ctypes.Structure):
    """`csgconv::copies::Params`."""

    _fields_ = [
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("parts", ctypes.c_int),
        ("part", Part * PARTS),
    ]


Launch = tuple[Params, int]  # and how many blocks


def crop(slices: Tensor, layers: Sequence[int]) -> Tensor:  # (rows, P) -> (elements of all kernels,)
    """Kernels out of slices."""
    described = read(layers, slices.numel())
    kernels = empty(slices, (sum(layer.outputs * layer.row for layer in described),))
    _launch("crop", slices.contiguous(), kernels, plan_crop(described))
    return kernels


def uncrop(kernels: Tensor, layers: Sequence[int], rows: int, size: int) -> Tensor:  # (elements,) -> (rows, size)
    """Kernels back in slices."""
    described = read(layers, rows * size)
    total = sum(layer.outputs * layer.row for layer in described)
    if kernels.shape != (total,):
        raise ValueError(f"kernels must have shape ({total},) for these layers, but it has {tuple(kernels.shape)}.")
    slices = empty(kernels, (rows, size))
    _launch("uncrop", kernels.contiguous(), slices, plan_uncrop(described, slices.numel()))
    return slices


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A dense result in the dtype of `like`."""
    return like.new_empty(shape)


def launch(kernel: str, params: Params, blocks: int, device: torch.device) -> None:
    """Queues a kernel."""
    CODE.launch(kernel, params, blocks, 0, device)


def read(table: Sequence[int], elements: int) -> list[Layer]:
    """`read_layers` in C++, and `representable`."""
    check_table(table, elements)
    found: list[Layer] = []
    kernels = 0
    for start, outputs, inputs, taps, down, wide in entries(table):
        span = entry_span((start, outputs, inputs, taps, down, wide))
        if not span:
            continue
        across, row, width = -(-inputs // wide), inputs * taps, wide * taps
        whole = (outputs == 1 or wide == inputs) if across == 1 else (down == 1 and inputs % wide == 0)
        if whole:
            down, across, width = 1, 1, row
        if max(outputs, row, width, down, across) > MAX_COUNT:  # ctypes would cut off what an int does not hold
            raise ValueError("layers must have at most 2^30 outputs and elements of an output.")
        if found:
            found[-1].room = start - found[-1].slices
        runs = -(-span // width)
        found.append(Layer(start, kernels, start + span, outputs, row, width, down, across, runs, elements - start))
        kernels += outputs * row
    return found


def plan_crop(layers: Sequence[Layer]) -> list[Part]:
    """`plan_crop` in C++, but for what depends on the tensors."""
    return [_part(layer.slices, layer.kernels, layer.outputs * layer.row, layer) for layer in layers]


def plan_uncrop(layers: Sequence[Layer], elements: int) -> list[Part]:
    """`plan_uncrop` in C++, but for what depends on the tensors."""
    zeros = Part(count=layers[0].slices if layers else elements, row=16, width=16, down=1, across=1)
    return [zeros, *(_part(layer.kernels, layer.slices, layer.room, layer) for layer in layers)]


def launches(parts: Sequence[Part], source: Tensor, target: Tensor) -> list[Launch]:
    """What is queued for dense tensors."""
    found: list[Launch] = []
    lanes = 16 // source.element_size()
    aligned = (source.data_ptr() | target.data_ptr()) % 16 == 0
    for part in parts:
        if not part.count:
            continue
        if not found or found[-1][0].parts == PARTS:
            found.append((Params(source.data_ptr(), target.data_ptr()), 0))
        params, blocks = found[-1]
        part.vectors = aligned and (part.source | part.target | part.count | part.row | part.width) % lanes == 0
        part.block = blocks
        params.part[params.parts] = part
        params.parts += 1
        found[-1] = params, blocks - (-part.count // (THREADS * MOVES * (lanes if part.vectors else 1)))
    return found


def _part(source: int, target: int, count: int, layer: Layer) -> Part:
    return Part(source, target, count, layer.outputs, layer.row, layer.width, layer.down, layer.across)


def _launch(kernel: str, source: Tensor, target: Tensor, parts: Sequence[Part]) -> None:
    name = f"{kernel}<{C_TYPES[source.element_size()]}>"
    for params, blocks in launches(parts, source, target):
        launch(name, params, blocks, source.device)
