"""Inputs of csgconv's functions for the contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from contract import BadInput, Draw, Inputs, Op
from torch import Tensor, nn

import csgconv
from csgconv.layouts import Layer, table

# Kernel shapes, slice shape and layout.
KERNELS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[int, ...], str]] = {
    "raster": (((16, 16, 3, 3), (32, 16, 3, 3), (9, 25, 3, 3)), (12, 12, 3, 3), "raster"),
    "raster of whole slices": (((16, 16, 3, 3), (32, 16, 3, 3)), (16, 16, 3, 3), "raster"),
    "raster of oblong slices": (((6, 5, 3, 2), (2, 9, 3, 2)), (2, 4, 3, 2), "raster"),
    "raster, smaller than a slice": (((2, 3, 1, 1),), (4, 4, 1, 1), "raster"),
    "tile": (((16, 16, 3, 3), (5, 30, 3, 3), (12, 12, 3, 3)), (12, 12, 3, 3), "tile"),
    "tile of columns": (((7, 4, 1, 1), (30, 4, 1, 1)), (6, 4, 1, 1), "tile"),
    "tile of rows": (((3, 5, 2, 2), (4, 8, 2, 2)), (1, 2, 2, 2), "tile"),
    "flat": (((16, 3, 7, 7), (8, 1, 5, 5), (4, 9, 1, 1)), (4, 4, 3, 3), "flat"),
}
TINY = {
    "raster": (((3, 3, 1, 2), (2, 2, 1, 2)), (2, 2, 1, 2), "raster"),
    "flat": (((2, 3, 2, 1), (1, 1, 1, 1)), (2, 2, 1, 1), "flat"),
}


def layers_of(shapes: Sequence[tuple[int, ...]], slice_shape: tuple[int, ...], layout: str) -> list[Layer]:
    return [Layer(shape, slice_shape, layout) for shape in shapes]


def crops(draw: Draw, *kind) -> Inputs:
    layers = layers_of(*kind)
    rows, size = sum(layer.rows for layer in layers), torch.Size(kind[1]).numel()
    return {"slices": draw(rows, size), "layers": table(layers)}


def products(draw: Draw, shapes, slice_shape, layout: str, *, d: int = 5, bias: bool = True) -> Inputs:
    rows = sum(layer.rows for layer in layers_of(shapes, slice_shape, layout))
    size = torch.Size(slice_shape).numel()
    return {
        "codes": draw(rows, d),
        "weight": draw(size, d),
        "bias": draw(size) if bias else None,
        "shapes": shapes,
        "slice_shape": slice_shape,
        "layout": layout,
    }


# The functions return tensors of rank 1 or several; the suite lays tensors of rank 2 out in all ways.


def crop(**inputs) -> Tensor:
    return csgconv.functional.crop(**inputs)[:, None]


def reference_crop(**inputs) -> Tensor:
    return csgconv.reference.crop(**inputs)[:, None]


def generate(**inputs) -> Tensor:
    return torch.cat([kernel.flatten() for kernel in csgconv.generate(**inputs)])[:, None]


def reference_generate(**inputs) -> Tensor:
    return torch.cat([kernel.flatten() for kernel in csgconv.reference.generate(**inputs)])[:, None]


def product_samples(draw: Draw) -> dict[str, Inputs]:
    samples = {name: products(draw, *kind, d=3 + n) for n, (name, kind) in enumerate(KERNELS.items())}
    samples["one number a code, no bias"] = products(draw, *KERNELS["raster"], d=1, bias=False)
    return samples


def crop_ops(draw: Draw) -> dict[str, tuple]:
    inputs = {
        name: value.float() if name == "slices" else value for name, value in crops(draw, *TINY["raster"]).items()
    }
    rows, size = inputs["slices"].shape
    return {
        "crop": tuple(inputs.values()),
        "uncrop": (draw(3 * 3 * 2 + 2 * 2 * 2).float(), inputs["layers"], rows, size),
    }


class Net(nn.Module):
    """Layers of all layouts, groups among them.

    A compiled layer sums the product of its own rows, in another order than the product of all; the output is small so
    that this is less than the suite's absolute tolerance.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = csgconv.SliceGenerator(5, (4, 4, 3, 3))
        self.raster = csgconv.CSGConv2d(3, 6, 3, generator, padding=1)
        self.flat = csgconv.CSGConv2d(6, 4, (3, 1), generator, groups=2, layout="flat", bias=False)
        self.tile = csgconv.CSGConv2d(4, 5, 3, generator, padding=1, padding_mode="circular", layout="tile")

    def forward(self, x: Tensor) -> Tensor:
        return self.tile(self.flat(self.raster(x).tanh())) / 64


def _bad(id: str, error: type[Exception], *says: str, **change) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


BAD_CROPS = (
    _bad("slices are no tensor", TypeError, "slices", "list", slices=lambda s: s.tolist()),
    _bad("slices of rank 1", ValueError, "slices", "(rows, P)", slices=lambda s: s[0]),
    _bad("slices of integers", TypeError, "slices", "int64", slices=lambda s: s.long()),
    _bad("too few slices", ValueError, "layer 2", "slices", slices=lambda s: s[:-1]),
    _bad("layers no list", TypeError, "layers", "int", layers=3),
    _bad("layers of floats", TypeError, "layers", "0.5", layers=[0.5] * 6),
    _bad("half a layer", ValueError, "6 numbers", "9", layers=lambda t: t[:9]),
    _bad("a negative size", ValueError, "layers", "-1", layers=[0, 2, -1, 1, 1, 2]),
    _bad("a block of nothing", ValueError, "blocks", "(0, 2, 2, 1, 0, 2)", layers=[0, 2, 2, 1, 0, 2]),
    _bad("layers overlap", ValueError, "layer 1 starts at 3", "before 4", layers=[0, 2, 2, 1, 1, 2, 3, 1, 1, 1, 1, 1]),
)
BAD_PRODUCTS = (
    _bad("codes are no tensor", TypeError, "codes", "list", codes=lambda c: c.tolist()),
    _bad("codes of rank 1", ValueError, "codes", "(rows, d)", codes=lambda c: c[0]),
    _bad("rows missing", ValueError, "12 rows", "13", codes=lambda c: c[:12]),
    _bad("weight for other slices", ValueError, "weight", "(1296, 5)", "(12, 12, 3, 3)", weight=lambda w: w[1:]),
    _bad("weight for other codes", ValueError, "weight", "(1296, 4)", codes=lambda c: c[:, :4]),
    _bad("weight in another dtype", TypeError, "weight", "float64", weight=lambda w: w.double()),
    _bad("weight on another device", ValueError, "weight is on meta", weight=lambda w: w.to("meta")),
    _bad("bias too short", ValueError, "bias has 1295 entries", "1296", bias=lambda b: b[1:]),
    _bad("bias of integers", TypeError, "bias", "int64", bias=lambda b: b.long()),
    _bad("unknown layout", ValueError, "layout", "raster, flat, tile", "'rows'", layout="rows"),
    _bad("slices of rank 3", ValueError, "slice_shape", "(12, 12, 3)", slice_shape=(12, 12, 3)),
    _bad("slices of nothing", ValueError, "slice_shape", "0", slice_shape=(12, 0, 3, 3)),
    _bad("a kernel of rank 2", ValueError, "shape", "(16, 16)", shapes=[(16, 16)]),
    _bad("another kernel size", ValueError, "3 x 3", "5 x 5", 'layout="flat"', shapes=[(16, 16, 5, 5)]),
)

OPS = [
    Op(
        package=csgconv,
        function=crop,
        reference=reference_crop,
        differentiable=("slices",),
        samples=lambda draw: {name: crops(draw, *kind) for name, kind in KERNELS.items()},
        tiny=lambda draw: {name: crops(draw, *kind) for name, kind in TINY.items()},
        ops=crop_ops,
        module=Net,
        module_input=lambda batch: torch.randn(batch, 3, 8, 9),
        mapped=({"slices": 0}, {"slices": 2}),
        good=lambda draw: crops(draw, *KERNELS["raster"]),
        bad_inputs=BAD_CROPS,
        cpu_levels=("",),
        autocast=False,
        image=False,
    ),
    Op(
        package=csgconv,
        function=generate,
        reference=reference_generate,
        differentiable=("codes", "weight", "bias"),
        samples=product_samples,
        tiny=lambda draw: {name: products(draw, *kind, d=2, bias=name == "flat") for name, kind in TINY.items()},
        ops=lambda draw: {},
        module=lambda: csgconv.CSGConv2d(3, 6, 3, csgconv.SliceGenerator(5, (4, 4, 3, 3), bias=True), padding=1),
        module_input=lambda batch: torch.randn(batch, 3, 8, 9),
        mapped=({"codes": 0}, {"weight": 2}, {"codes": 1, "bias": 0}, {"bias": 1}),
        good=lambda draw: products(draw, *KERNELS["raster"]),
        bad_inputs=BAD_PRODUCTS,
        cpu_levels=("",),
        thread_independent=False,
        image=False,
    ),
]
