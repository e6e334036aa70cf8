"""Inputs of pathconv's functions for the contract; `pathconv_depthwise.py` has those of its depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from contract import BadInput, Draw, Inputs, Op
from torch import Tensor, nn

import pathconv


def drawn_paths(num_paths: int, height: int, width: int) -> Tensor:  # int64 (P, H * W, 2)
    """Any orders of all pixels."""
    generator = torch.Generator().manual_seed(height * width)
    order = torch.stack([torch.randperm(height * width, generator=generator) for _ in range(num_paths)])
    return torch.stack((order // max(width, 1), order % max(width, 1)), -1)


# Channels, height, width and paths of an image; its batch.
SIZES: dict[str, tuple[int, int, int, int, Any]] = {
    "square": (2, 3, 8, 8, "og"),
    "three shifted paths": (2, 3, 32, 32, "g"),
    "configurations": (2, 3, 9, 11, [pathconv.PathConfig("hilbert"), pathconv.PathConfig("serpentine")]),
    "path set": (2, 2, 4, 8, pathconv.PathSet.of([pathconv.PathConfig("raster")], 4, 8)),
    "one path": (3, 5, 6, 7, drawn_paths(1, 6, 7)[0]),
    "many channels": (2, 37, 5, 6, drawn_paths(2, 5, 6)),
    "many paths": (1, 2, 16, 17, drawn_paths(7, 16, 17)),
    "one channel": (3, 1, 13, 14, drawn_paths(3, 13, 14)),
    "one pixel": (2, 3, 1, 1, drawn_paths(2, 1, 1)),
    "one row": (2, 3, 1, 37, drawn_paths(2, 1, 37)),
    "one column": (2, 3, 37, 1, drawn_paths(2, 37, 1)),
    "more positions than a block": (1, 1, 40, 41, drawn_paths(2, 40, 41)),
    "empty batch": (0, 3, 4, 4, drawn_paths(2, 4, 4)),
}
TINY: dict[str, tuple[int, int, int, int, Any]] = {
    "two paths": (2, 2, 3, 2, drawn_paths(2, 3, 2)),
    "one path": (1, 1, 2, 3, drawn_paths(1, 2, 3)),
}


def num_paths(paths: Any, height: int, width: int) -> int:
    return len(pathconv.path_tables(paths, height, width).index)


def images(draw: Draw, n: int, c: int, h: int, w: int, paths: Any) -> Inputs:
    return {"x": draw(n, c, h, w), "paths": paths}


def sequences(draw: Draw, n: int, c: int, h: int, w: int, paths: Any) -> Inputs:
    return {"y": draw(n, num_paths(paths, h, w) * c, h * w), "paths": paths, "height": h, "width": w}


def stems(draw: Draw, n: int, c: int, h: int, w: int, paths: Any, d: int = 20, **options: Any) -> Inputs:
    inputs = num_paths(paths, h, w) * c
    return {"x": draw(n, c, h, w), "paths": paths, "weight": draw(d, inputs), "bias": draw(d), **options}


def stem_samples(draw: Draw) -> dict[str, Inputs]:
    samples = {name: stems(draw, *size) for name, size in SIZES.items()}
    samples["no bias"] = {**stems(draw, *SIZES["many paths"]), "bias": None}
    samples["few outputs"] = stems(draw, *SIZES["square"], d=3)
    samples["many outputs"] = stems(draw, *SIZES["many channels"], d=96)
    return samples


def tables() -> tuple[Tensor, Tensor]:
    found = pathconv.path_tables(drawn_paths(2, 4, 3), 4, 3)
    return found.index, found.inverse


def move_ops(draw: Draw) -> dict[str, tuple]:
    index, inverse = tables()
    return {
        "traverse": (draw(2, 3, 4, 3).float(), index, inverse, False),
        "traverse_adjoint": (draw(2, 6, 12).float(), index, inverse, 4, 3, True),
    }


def stem_ops(draw: Draw) -> dict[str, tuple]:
    index, inverse = tables()
    x, weight, grad = draw(2, 3, 4, 3).float(), draw(5, 6).float(), draw(2, 5, 12).float()
    return {
        "traverse_conv1d": (x, index, inverse, weight, draw(5).float(), True),
        "traverse_conv1d_grad_input": (grad, index, inverse, weight, 4, 3, False),
        "traverse_conv1d_grad_weight": (grad, x, index, inverse),
    }


class ThereAndBack(nn.Module):
    """Sequences brought onto the image, behind something that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.traverse = pathconv.Traverse(drawn_paths(2, 5, 6), (5, 6))
        self.mix = nn.Conv1d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return pathconv.untraverse(self.mix(self.traverse(x)), self.traverse.tables)


def _bad(id: str, error: type[Exception], *says: str, **change: Any) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


def _twice_a_pixel(paths: Tensor) -> Tensor:
    paths = paths.clone()
    paths[0, 0] = paths[0, 1]
    return paths


BAD_PATHS = (
    _bad("paths unknown", ValueError, "'q'", paths="q"),
    _bad("paths is a number", TypeError, "path", "int", paths=3),
    _bad("paths visit a pixel twice", ValueError, "path", paths=_twice_a_pixel),
    _bad("paths of another size", ValueError, "path", "4", paths=lambda paths: paths[:, :6]),
)
BAD_IMAGES = (
    _bad("x is no tensor", TypeError, "x", "ndarray", x=lambda x: x.numpy()),
    _bad("x of rank 3", ValueError, "x", "(N, C, H, W)", "(3, 4, 3)", x=lambda x: x[0]),
    _bad("x of integers", TypeError, "x", "int64", x=lambda x: x.long()),
    _bad("x complex", TypeError, "x", "complex64", x=lambda x: x.to(torch.complex64)),
    _bad(
        "tables of another size",
        ValueError,
        "paths cover 3 x 4",
        "x has 4 x 3",
        paths=pathconv.path_tables(drawn_paths(2, 3, 4), 3, 4),
    ),
    _bad(
        "tables on another device",
        ValueError,
        "paths is on meta",
        "x is on cpu",
        paths=pathconv.PathTables(*(table.to("meta") for table in tables()), 4, 3),
    ),
)
BAD_SEQUENCES = (
    _bad("y of rank 4", ValueError, "y", "(N, P * C, L)", y=lambda y: y[..., None]),
    _bad("y of integers", TypeError, "y", "int64", y=lambda y: y.long()),
    _bad("channels are no multiple", ValueError, "5 channels", "2 paths", y=lambda y: y[:, :5]),
    _bad("positions differ", ValueError, "y has 11 positions", "4 x 3", y=lambda y: y[:, :, :11]),
    _bad("height alone", ValueError, "height and width", "None", width=None),
)
BAD_STEMS = (
    _bad("columns differ", ValueError, "weight has 5 columns", "3 channels", "2 paths", weight=lambda w: w[:, :5]),
    _bad("weight of rank 4", ValueError, "weight", "(D, P * C)", weight=lambda w: w[..., None, None]),
    _bad("weight of kernel size 2", ValueError, "weight", "(4, 6, 2)", weight=lambda w: torch.stack((w, w), -1)),
    _bad("weight of integers", TypeError, "weight", "int64", weight=lambda w: w.long()),
    _bad("weight in another dtype", TypeError, "weight", "bfloat16", "float32", weight=lambda w: w.bfloat16()),
    _bad("weight on another device", ValueError, "weight is on meta", "x is on cpu", weight=lambda w: w.to("meta")),
    _bad("bias too long", ValueError, "bias has 5 entries", "4 rows", bias=lambda b: b.new_zeros(5)),
    _bad("bias in another dtype", TypeError, "bias", "float64", bias=lambda b: b.double()),
)

OPS = [
    Op(
        package=pathconv,
        function=pathconv.traverse,
        reference=pathconv.reference.traverse,
        differentiable=("x",),
        samples=lambda draw: {name: images(draw, *size) for name, size in SIZES.items()},
        tiny=lambda draw: {name: images(draw, *size) for name, size in TINY.items()},
        ops=move_ops,
        module=lambda: nn.Sequential(nn.Conv2d(2, 3, 1), pathconv.Traverse(drawn_paths(2, 5, 6), (5, 6))),
        module_input=lambda batch: torch.randn(batch, 2, 5, 6),
        mapped=({"x": 0}, {"x": 2}),
        good=lambda draw: images(draw, 2, 3, 4, 3, drawn_paths(2, 4, 3)),
        bad_inputs=BAD_PATHS + BAD_IMAGES,
        autocast=False,
        dynamic=(0,),
    ),
    Op(
        package=pathconv,
        function=pathconv.untraverse,
        reference=pathconv.reference.untraverse,
        differentiable=("y",),
        samples=lambda draw: {name: sequences(draw, *size) for name, size in SIZES.items()},
        tiny=lambda draw: {name: sequences(draw, *size) for name, size in TINY.items()},
        ops=move_ops,
        module=ThereAndBack,
        module_input=lambda batch: torch.randn(batch, 3, 5, 6),
        mapped=({"y": 0}, {"y": 2}),
        good=lambda draw: sequences(draw, 2, 3, 4, 3, drawn_paths(2, 4, 3)),
        bad_inputs=BAD_PATHS + BAD_SEQUENCES,
        autocast=False,
        dynamic=(0,),
    ),
    Op(
        package=pathconv,
        function=pathconv.traverse_conv1d,
        reference=pathconv.reference.traverse_conv1d,
        differentiable=("x", "weight", "bias"),
        samples=stem_samples,
        tiny=lambda draw: {name: stems(draw, *size, d=3) for name, size in TINY.items()},
        ops=stem_ops,
        module=lambda: pathconv.TraverseConv1d(drawn_paths(2, 5, 6), 2, 4, (5, 6)),
        module_input=lambda batch: torch.randn(batch, 2, 5, 6),
        mapped=({"x": 0}, {"x": 2}, {"weight": 1}, {"x": 1, "weight": 0, "bias": 1}, {"bias": 0}),
        good=lambda draw: stems(draw, 2, 3, 4, 3, drawn_paths(2, 4, 3), d=4),
        bad_inputs=BAD_PATHS + BAD_IMAGES + BAD_STEMS,
        dynamic=(0,),
    ),
]
