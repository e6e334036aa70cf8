"""Inputs of pix's functions for the contract."""

from __future__ import annotations

import math
from typing import Any

import torch
from contract import BadInput, Draw, Inputs, Op

import pix
from pix.functional import pix as layer

# Batch, channels, height, width, zeta of an image, and options.
SIZES: dict[str, tuple[tuple[int, int, int, int, int], dict[str, Any]]] = {
    "squeeze": ((2, 64, 14, 14, 4), {}),
    "zeta 1": ((2, 8, 9, 11, 1), {}),
    "zeta 2": ((3, 36, 7, 7, 2), {}),
    "zeta 3": ((2, 12, 8, 6, 3), {}),
    "zeta 8": ((2, 32, 5, 6, 8), {}),
    "zeta 16": ((2, 48, 6, 5, 16), {}),
    "one output channel": ((3, 6, 5, 5, 6), {}),
    "more than all channels": ((2, 5, 4, 4, 8), {}),
    "positions beyond a byte": ((1, 600, 3, 3, 300), {}),
    "short subset": ((2, 37, 6, 7, 4), {}),
    "short subset by its size": ((2, 37, 6, 7, 4), {"count_short": True}),
    "low threshold": ((2, 32, 8, 8, 4), {"tau": 0.3}),
    "always mixes": ((2, 16, 8, 9, 4), {"tau": -1.0}),
    "always picks": ((2, 16, 8, 9, 4), {"tau": 99.0}),
    "one channel": ((3, 1, 8, 9, 1), {}),
    "one pixel": ((2, 16, 1, 1, 4), {}),
    "one row": ((2, 16, 1, 37, 4), {}),
    "one column": ((2, 16, 37, 1, 2), {}),
    "large plane": ((1, 8, 61, 67, 4), {}),
    "many samples": ((37, 8, 3, 3, 2), {}),
    "empty batch": ((0, 8, 6, 7, 4), {}),
}
TINY: dict[str, tuple[tuple[int, int, int, int, int], dict[str, Any]]] = {
    "plain": ((2, 4, 3, 2, 2), {}),
    "all options": ((1, 5, 2, 2, 3), {"count_short": True, "tau": 0.6}),
}


def outputs(channels: int, zeta: int) -> int:
    return -(-channels // zeta)


def sampled(draw: Draw, n: int, c: int, h: int, w: int, zeta: int, **options: Any) -> Inputs:
    """Gates around 1/2; of integers they are 1/4, 1/2 and 1."""
    return {"x": draw(n, c, h, w), "p": torch.exp2(draw(n, outputs(c, zeta)) - 1), "zeta": zeta, **options}


def layers(draw: Draw, n: int, c: int, h: int, w: int, zeta: int, *, bias: bool = True, **options: Any) -> Inputs:
    weight = draw(outputs(c, zeta), c) / c**0.5  # logits near 0: nothing can be told of p near 1, as 1 - p is rounded
    inputs = {"x": draw(n, c, h, w), "weight": weight, "bias": draw(len(weight)) if bias else None, "zeta": zeta}
    return clear_of_threshold({**inputs, **options})


def clear_of_threshold(inputs: Inputs, margin: float = 0.1) -> Inputs:
    """Moves the channels' means until no logit is so near the threshold that rounding could decide."""
    x, weight, bias, tau = inputs["x"], inputs["weight"], inputs["bias"], inputs.get("tau", 0.5)
    if not 0 < tau < 1:
        return inputs
    l1 = inputs.get("context") == "l1"
    z = (x.abs() if l1 else x).mean((2, 3))
    above = z @ weight.T + (0 if bias is None else bias) - math.log(tau / (1 - tau))
    wanted = torch.where(above < 0, -1, 1) * above.abs().clamp(min=margin)
    moved = z + (wanted - above) @ torch.linalg.pinv(weight).T
    if l1:
        assert (moved > 0).all()
    x = x * (moved / z)[:, :, None, None] if l1 else x + (moved - z)[:, :, None, None]
    return {**inputs, "x": x}


def sampled_samples(draw: Draw) -> dict[str, Inputs]:
    samples = {name: sampled(draw, *size, **options) for name, (size, options) in SIZES.items()}
    samples["gates as images"] = {**samples["zeta 2"], "p": samples["zeta 2"]["p"][:, :, None, None]}
    samples["no rows"] = sampled(draw, 2, 8, 0, 7, 4)
    samples["gates of zero"] = {**samples["squeeze"], "p": (draw(2, 16) > 0).double(), "zero_gates": True}
    return samples


def layer_samples(draw: Draw) -> dict[str, Inputs]:
    samples = {name: layers(draw, *size, **options) for name, (size, options) in SIZES.items()}
    samples["no bias"] = layers(draw, 2, 32, 7, 9, 4, bias=False)
    samples["absolute values"] = layers(draw, 2, 16, 7, 9, 4, context="l1")
    return samples


def tiny_layers(draw: Draw) -> dict[str, Inputs]:
    return {
        **{name: layers(draw, *size, **options) for name, (size, options) in TINY.items()},
        "absolute values": layers(draw, 1, 4, 2, 3, 2, context="l1", bias=False),
    }


def sums_are_exact(inputs: Inputs) -> bool:
    """A division by `zeta` loses no digit, so y has all of them, from which the gradient of the gates is computed."""
    return inputs["zeta"].bit_count() == 1 and not inputs.get("count_short")


def sampled_ops(draw: Draw) -> dict[str, tuple]:
    x, p, grad, y = draw(2, 7, 4, 5).float(), draw(2, 4).float(), draw(2, 4, 4, 5).float(), draw(2, 4, 4, 5).float()
    choice = (draw(2, 4, 4, 5) > 0).byte()
    return {
        "pick_or_mix": (x, p, 2, 0.3, False, True),
        "pick_or_mix_backward": (grad, y, p, choice, 7, 2, 0.3, False),
    }


def layer_ops(draw: Draw) -> dict[str, tuple]:
    x, weight, bias = draw(2, 7, 4, 5).float(), draw(4, 7).float(), draw(4).float()
    grad, y, choice = draw(2, 4, 4, 5).float(), draw(2, 4, 4, 5).float(), (draw(2, 4, 4, 5) > 0).byte()
    grad_p, z, p = draw(2, 4).float(), draw(2, 7).float(), draw(2, 4).sigmoid().float()
    return {
        "pix": (x, weight, bias, 2, 0.5, True, True, True),
        "pix_backward": (grad, grad_p, y, z, p, choice, weight, x, 2, 0.5, True),
    }


def _bad(id: str, error: type[Exception], *says: str, **change: Any) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


BAD = (
    _bad("x is no tensor", TypeError, "x", "ndarray", x=lambda x: x.numpy()),
    _bad("x of rank 3", ValueError, "x", "(N, C, H, W)", "(6, 4, 3)", x=lambda x: x[0]),
    _bad("x of integers", TypeError, "x", "int64", x=lambda x: x.long()),
    _bad("x without channels", ValueError, "x", "(2, 0, 4, 3)", x=lambda x: x[:, :0]),
    _bad("zeta 0", ValueError, "zeta", "0", zeta=0),
    _bad("zeta no integer", TypeError, "zeta", "2.0", zeta=2.0),
    _bad("zeta true", TypeError, "zeta", "True", zeta=True),
    _bad("tau no number", TypeError, "tau", "'0.5'", tau="0.5"),
    _bad("tau a tensor", TypeError, "tau", "tensor(0.5000)", tau=torch.tensor(0.5)),
    _bad("tau nan", ValueError, "tau", "nan", tau=math.nan),
)
BAD_GATES = (
    _bad("p is no tensor", TypeError, "p", "float", p=0.5),
    _bad("p of rank 1", ValueError, "p", "(N, C')", "(3,)", p=lambda p: p[0]),
    _bad("a gate per pixel", ValueError, "p", "(2, 3, 4, 3)", p=lambda p: p[:, :, None, None].expand(2, 3, 4, 3)),
    _bad("p too short", ValueError, "(2, 3) or (2, 3, 1, 1)", "(2, 2)", p=lambda p: p[:, :2]),
    _bad("p of one sample", ValueError, "p", "(1, 3)", p=lambda p: p[:1]),
    _bad("p of integers", TypeError, "p", "int64", p=lambda p: p.long()),
    _bad("p too precise", TypeError, "p is torch.float64", "x is torch.float32", p=lambda p: p.double()),
    _bad("p on another device", ValueError, "p is on meta", "x is on cpu", p=lambda p: p.to("meta")),
)
BAD_WEIGHTS = (
    _bad("weight is no tensor", TypeError, "weight", "list", weight=lambda w: w.tolist()),
    _bad("weight of rank 3", ValueError, "weight", "(C', C)", weight=lambda w: w[..., None]),
    _bad("weight of kernel size 2", ValueError, "weight", "(3, 6, 2, 2)", weight=lambda w: w.new_ones(3, 6, 2, 2)),
    _bad("rows missing", ValueError, "(3, 6) or (3, 6, 1, 1)", "zeta=2", "(2, 6)", weight=lambda w: w[:2]),
    _bad("columns missing", ValueError, "6 channels", "(3, 5)", weight=lambda w: w[:, :5]),
    _bad("weight of integers", TypeError, "weight", "int64", weight=lambda w: w.long()),
    _bad("weight in another dtype", TypeError, "weight", "bfloat16", "float32", weight=lambda w: w.bfloat16()),
    _bad("weight on another device", ValueError, "weight is on meta", "x is on cpu", weight=lambda w: w.to("meta")),
    _bad("bias too long", ValueError, "bias has 5 entries", "3 rows", bias=lambda b: b.new_zeros(5)),
    _bad("bias in another dtype", TypeError, "bias", "float64", bias=lambda b: b.double()),
    _bad("context unknown", ValueError, "context", '"mean" or "l1"', "'max'", context="max"),
)

OPS = [
    Op(
        package=pix,
        function=pix.pick_or_mix,
        reference=pix.reference.pick_or_mix,
        differentiable=("x", "p"),
        samples=sampled_samples,
        tiny=lambda draw: {name: sampled(draw, *size, **options) for name, (size, options) in TINY.items()},
        ops=sampled_ops,
        module=lambda: pix.PiX(8, 2, bias=True, fused=False),
        module_input=lambda batch: torch.randn(batch, 8, 5, 6),
        mapped=({"x": 0}, {"x": 2}, {"p": 1}, {"x": 1, "p": 0}),
        good=lambda draw: {**sampled(draw, 2, 6, 4, 3, 2), "tau": 0.5},
        bad_inputs=BAD + BAD_GATES,
        exact_with_integers=sums_are_exact,
        autocast=False,
        from_output=("p",),
    ),
    Op(
        package=pix,
        function=layer,
        reference=pix.reference.pix,
        differentiable=("x", "weight", "bias"),
        samples=layer_samples,
        tiny=tiny_layers,
        ops=layer_ops,
        module=lambda: pix.PiX(8, 2, bias=True),
        module_input=lambda batch: torch.randn(batch, 8, 5, 6),
        mapped=({"x": 0}, {"x": 2}, {"weight": 1}, {"x": 1, "weight": 0, "bias": 1}, {"bias": 0}),
        good=lambda draw: {**layers(draw, 2, 6, 4, 3, 2), "tau": 0.5, "context": "mean"},
        bad_inputs=BAD + BAD_WEIGHTS,
        exact_with_integers=False,
        from_output=("x", "weight", "bias"),
        once=("pix_backward",),
    ),
]
