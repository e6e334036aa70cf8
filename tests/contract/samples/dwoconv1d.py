"""Inputs of `dwoconv1d.oriented_conv1d` for the contract."""

from __future__ import annotations

import math

import torch
from contract import BadInput, Draw, Inputs, Op

import dwoconv1d


def inputs(
    draw: Draw, n: int, c: int, h: int, w: int, k: int, *, bias: bool = True, directions: int = 8, **options
) -> Inputs:
    return {
        "x": draw(n, c, h, w),
        "weight": draw(c, k),
        "angle": dwoconv1d.assign_angles(c, directions) if directions else torch.linspace(-7, 7, c),
        "bias": draw(c) if bias else None,
        **options,
    }


def samples(draw: Draw) -> dict[str, Inputs]:
    return {
        "square": inputs(draw, 2, 16, 14, 14, 7),
        "odd size": inputs(draw, 2, 8, 9, 11, 31),
        "wide": inputs(draw, 1, 9, 5, 67, 15, bias=False),
        "tall": inputs(draw, 1, 8, 67, 5, 15, directions=0),
        "own angle per channel": inputs(draw, 2, 37, 12, 13, 9, directions=0),
        "one channel": inputs(draw, 3, 1, 8, 9, 5, directions=0),
        "one pixel": inputs(draw, 2, 8, 1, 1, 7, residual=True),
        "one row": inputs(draw, 2, 8, 1, 17, 7, stride=2),
        "one column": inputs(draw, 2, 8, 17, 1, 7, stride=(1, 3)),
        "one tap": inputs(draw, 2, 8, 6, 7, 1, stride=2),
        "even taps": inputs(draw, 2, 8, 10, 9, 4, stride=2),
        "stride 2": inputs(draw, 2, 24, 28, 28, 15, stride=2),
        "stride 4 by 2": inputs(draw, 1, 8, 19, 22, 31, stride=(4, 2)),
        "stride beyond image": inputs(draw, 1, 8, 3, 4, 5, stride=9),
        "dilation": inputs(draw, 2, 16, 17, 16, 7, dilation=3),
        "dilation and stride": inputs(draw, 2, 8, 17, 16, 5, dilation=2, stride=3),
        "residual": inputs(draw, 2, 8, 11, 12, 31, residual=True, stride=2),
        "nearest": inputs(draw, 2, 8, 11, 12, 15, rounding="nearest"),
        "line longer than image": inputs(draw, 1, 16, 4, 3, 63),
        "empty batch": inputs(draw, 0, 8, 6, 7, 5),
        "no rows": inputs(draw, 2, 8, 0, 7, 5),
    }


def tiny(draw: Draw) -> dict[str, Inputs]:
    return {
        "plain": inputs(draw, 1, 4, 4, 3, 5, directions=4),
        "all options": inputs(
            draw, 2, 2, 5, 4, 4, directions=0, stride=(2, 1), dilation=2, residual=True, rounding="nearest"
        ),
    }


def ops(draw: Draw) -> dict[str, tuple]:
    offsets = torch.stack(dwoconv1d.tap_offsets(5, dwoconv1d.assign_angles(4))).int()
    x, weight, grad = draw(2, 4, 6, 5).float(), draw(4, 5).float(), draw(2, 4, 3, 5).float()
    return {
        "oriented_conv1d": (x, weight, offsets, draw(4).float(), 2, 1, True),
        "oriented_conv1d_grad_input": (grad, weight, offsets, 6, 5, 2, 1, True),
        "oriented_conv1d_grad_weight": (grad, x, offsets, 2, 1),
    }


def _bad(id: str, error: type[Exception], *says: str, **change) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


def _with_nan(angle):
    return angle.index_fill(0, torch.tensor([1]), math.nan)


BAD = (
    _bad("x is no tensor", TypeError, "x", "ndarray", x=lambda x: x.numpy()),
    _bad("x of rank 3", ValueError, "x", "(N, C, H, W)", "(4, 6, 5)", x=lambda x: x[0]),
    _bad("x of integers", TypeError, "x", "int64", x=lambda x: x.long()),
    _bad("x complex", TypeError, "x", "complex64", x=lambda x: x.to(torch.complex64)),
    _bad("x in float8", TypeError, "x", "float8", x=lambda x: x.to(torch.float8_e4m3fn)),
    _bad("channels differ", ValueError, "x has 3 channels", "4 rows", x=lambda x: x[:, :3]),
    _bad("x on another device", ValueError, "weight is on cpu", "x is on meta", x=lambda x: x.to("meta")),
    _bad("x in another dtype", TypeError, "weight", "float32", "bfloat16", x=lambda x: x.bfloat16()),
    _bad("weight of rank 4", ValueError, "weight", "(C, K)", weight=lambda w: w[:, None, None]),
    _bad("no taps", ValueError, "K", "0", weight=lambda w: w[:, :0]),
    _bad("weight of integers", TypeError, "weight", "int64", weight=lambda w: w.long()),
    _bad("bias too long", ValueError, "bias has 5 entries", "4 rows", bias=lambda b: b.new_zeros(5)),
    _bad("bias in another dtype", TypeError, "bias", "float64", bias=lambda b: b.double()),
    _bad("angle not finite", ValueError, "angle[1]", "nan", angle=_with_nan),
    _bad("angle infinite", ValueError, "angle[0]", "inf", angle=lambda a: a + math.inf),
    _bad("angle too short", ValueError, "angle", "(3,)", angle=lambda a: a[:3]),
    _bad("angle of one entry", ValueError, "angle", "(1,)", angle=lambda a: a[:1]),
    _bad("angle is a number", TypeError, "angle", "float", angle=0.5),
    _bad("angle of integers", TypeError, "angle", "int64", angle=lambda a: a.long()),
    _bad("angle learns", ValueError, "angle", "constant", "detach", angle=lambda a: a.clone().requires_grad_()),
    _bad("angle on another device", ValueError, "angle is on meta", "x is on cpu", angle=lambda a: a.to("meta")),
    _bad("stride 0", ValueError, "stride", "0", stride=0),
    _bad("stride negative", ValueError, "stride", "-1", stride=(1, -1)),
    _bad("stride of three", ValueError, "stride", "(1, 1, 1)", stride=(1, 1, 1)),
    _bad("stride no integer", TypeError, "stride", "1.5", stride=1.5),
    _bad("stride true", TypeError, "stride", "True", stride=True),
    _bad("dilation 0", ValueError, "dilation", "0", dilation=0),
    _bad("rounding unknown", ValueError, "rounding", "floor", rounding="floor"),
)

OPS = [
    Op(
        package=dwoconv1d,
        function=dwoconv1d.oriented_conv1d,
        reference=dwoconv1d.reference.oriented_conv1d,
        differentiable=("x", "weight", "bias"),
        samples=samples,
        tiny=tiny,
        ops=ops,
        module=lambda: dwoconv1d.OrientedConv1d(8, 7, stride=2, residual=True),
        module_input=lambda batch: torch.randn(batch, 8, 9, 10),
        mapped=({"x": 0}, {"x": 2}, {"weight": 1}, {"x": 1, "weight": 0, "bias": 1}, {"bias": 0}),
        good=lambda draw: {**inputs(draw, 2, 4, 6, 5, 5), "stride": 1, "dilation": 1, "rounding": "trunc"},
        bad_inputs=BAD,
    )
]
