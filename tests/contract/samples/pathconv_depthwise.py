"""Inputs of `pathconv.depthwise_conv1d` for the contract."""

from __future__ import annotations

import torch
from contract import BadInput, Draw, Inputs, Op

import pathconv


def inputs(
    draw: Draw,
    n: int,
    c: int,
    length: int,
    k: int,
    *,
    multiplier: int = 1,
    bias: bool = True,
    per_sample: bool = False,
    **options,
) -> Inputs:
    outputs = multiplier * c
    return {
        "x": draw(n, c, length),
        "weight": draw(n, outputs, k) if per_sample else draw(outputs, k),
        "bias": draw(outputs) if bias else None,
        **options,
    }


def samples(draw: Draw) -> dict[str, Inputs]:
    return {
        "stem": inputs(draw, 2, 48, 64, 11, padding=5),
        "block": inputs(draw, 3, 24, 40, 9, padding=4, per_sample=True),
        "downsampling": inputs(draw, 2, 32, 66, 9, multiplier=2, stride=2, padding=4),
        "no full vector": inputs(draw, 2, 37, 19, 9, padding=4, bias=False),
        "few channels": inputs(draw, 2, 3, 70, 5, multiplier=4, padding=2),
        "overlapping blocks": inputs(draw, 2, 20, 33, 9, multiplier=2, stride=2, padding=4, per_sample=True),
        "no padding": inputs(draw, 2, 16, 31, 4, stride=3),
        "more padding than taps": inputs(draw, 1, 17, 9, 3, stride=2, padding=7),
        "one channel": inputs(draw, 3, 1, 50, 7, padding=3),
        "one position": inputs(draw, 2, 8, 1, 9, padding=4),
        "one output": inputs(draw, 2, 8, 9, 9, multiplier=3, per_sample=True),
        "one tap": inputs(draw, 2, 8, 10, 1, stride=2),
        "many taps": inputs(draw, 2, 16, 60, 41, padding=20),
        "stride beyond the sequence": inputs(draw, 2, 8, 7, 3, stride=99, padding=1),
        "many samples": inputs(draw, 35, 16, 12, 3, padding=1),
        "several tiles": inputs(draw, 1, 8, 4200, 9, multiplier=2, stride=2, padding=4),
        "empty batch": inputs(draw, 0, 8, 7, 5),
    }


def tiny(draw: Draw) -> dict[str, Inputs]:
    return {
        "plain": inputs(draw, 1, 2, 6, 3, padding=1),
        "all options": inputs(draw, 2, 2, 5, 4, multiplier=2, stride=2, padding=3, per_sample=True),
    }


def ops(draw: Draw) -> dict[str, tuple]:
    x, weight, grad = draw(2, 4, 9).float(), draw(2, 8, 3).float(), draw(2, 8, 5).float()
    return {
        "depthwise_conv1d": (x, weight, draw(8).float(), 2, 1),
        "depthwise_conv1d_grad_input": (grad, weight, 4, 9, 2, 1),
        "depthwise_conv1d_grad_weight": (grad, x, 3, 2, 1, True),
    }


def _bad(id: str, error: type[Exception], *says: str, **change) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


BAD = (
    _bad("x is no tensor", TypeError, "x", "ndarray", x=lambda x: x.numpy()),
    _bad("x of rank 2", ValueError, "x", "(N, C, L)", "(4, 9)", x=lambda x: x[0]),
    _bad("x of integers", TypeError, "x", "int64", x=lambda x: x.long()),
    _bad("x on another device", ValueError, "weight is on cpu", "x is on meta", x=lambda x: x.to("meta")),
    _bad("x in another dtype", TypeError, "weight", "float32", "bfloat16", x=lambda x: x.bfloat16()),
    _bad("x too short", ValueError, "5 taps", "2 positions", "padding is 1", x=lambda x: x[..., :2]),
    _bad("channels do not divide", ValueError, "8 kernels", "3 channels", x=lambda x: x[:, :3]),
    _bad("weight is no tensor", TypeError, "weight", "list", weight=lambda w: w.tolist()),
    _bad("weight of rank 1", ValueError, "weight", "(M * C, K)", weight=lambda w: w[0]),
    _bad("weight of three samples", ValueError, "3 samples", "x has 2", weight=lambda w: w.expand(3, 8, 5)),
    _bad("no taps", ValueError, "K = 0", weight=lambda w: w[:, :0]),
    _bad("weight of integers", TypeError, "weight", "int64", weight=lambda w: w.long()),
    _bad("bias too short", ValueError, "bias has 4 entries", "8", bias=lambda b: b[:4]),
    _bad("bias in another dtype", TypeError, "bias", "float64", bias=lambda b: b.double()),
    _bad("stride 0", ValueError, "stride", "0", stride=0),
    _bad("stride no integer", TypeError, "stride", "1.5", stride=1.5),
    _bad("padding negative", ValueError, "padding", "-1", padding=-1),
    _bad("padding true", TypeError, "padding", "True", padding=True),
)

OPS = [
    Op(
        package=pathconv,
        function=pathconv.depthwise_conv1d,
        reference=pathconv.reference.depthwise_conv1d,
        differentiable=("x", "weight", "bias"),
        samples=samples,
        tiny=tiny,
        ops=ops,
        module=lambda: pathconv.DepthwiseConv1d(8, 5, multiplier=2, stride=2, padding=2),
        module_input=lambda batch: torch.randn(batch, 8, 11),
        mapped=({"x": 0}, {"x": 2}, {"weight": 1}, {"x": 1, "weight": 0, "bias": 1}, {"bias": 0}),
        good=lambda draw: {**inputs(draw, 2, 4, 9, 5, multiplier=2), "stride": 1, "padding": 1},
        bad_inputs=BAD,
        dynamic=(0, 2),
    )
]
