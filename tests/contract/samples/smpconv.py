"""Inputs of smpconv's functions for the contract."""

from __future__ import annotations

import torch
from contract import BadInput, Draw, Inputs, Op

import smpconv


def image(draw: Draw, n: int, c: int, h: int, w: int, k: int | tuple[int, int], *, bias: bool = True) -> Inputs:
    rows, columns = (k, k) if isinstance(k, int) else k
    return {"x": draw(n, c, h, w), "weight": draw(c, rows, columns), "bias": draw(c) if bias else None}


def image_samples(draw: Draw) -> dict[str, Inputs]:
    return {
        "31 taps": image(draw, 1, 16, 28, 28, 31),
        "27 taps beyond the image": image(draw, 2, 18, 14, 14, 27, bias=False),
        "13 taps on a small image": image(draw, 3, 37, 7, 7, 13),
        "7 taps": image(draw, 2, 5, 17, 19, 7),
        "3 taps": image(draw, 2, 8, 9, 33, 3),
        "63 taps": image(draw, 1, 3, 40, 35, 63),
        "one tap": image(draw, 2, 8, 5, 6, 1),
        "wide kernel": image(draw, 2, 8, 12, 11, (3, 15)),
        "tall kernel": image(draw, 2, 8, 12, 11, (15, 3)),
        "one channel": image(draw, 3, 1, 18, 9, 9),
        "one pixel": image(draw, 2, 16, 1, 1, 5),
        "one row": image(draw, 2, 8, 1, 37, 9),
        "one column": image(draw, 2, 8, 37, 1, 9),
        "wide image": image(draw, 1, 2, 5, 140, 11),
        "many samples": image(draw, 19, 4, 6, 6, 5),
        "empty batch": image(draw, 0, 8, 7, 5, 5),
    }


def image_tiny(draw: Draw) -> dict[str, Inputs]:
    return {"square": image(draw, 2, 2, 3, 4, 3), "wide": image(draw, 1, 2, 2, 3, (1, 5), bias=False)}


def image_ops(draw: Draw) -> dict[str, tuple]:
    x, weight, grad = draw(2, 4, 9, 8).float(), draw(4, 7, 7).float(), draw(2, 4, 9, 8).float()
    return {
        "depthwise_conv2d": (x, weight, draw(4).float()),
        "depthwise_conv2d_grad_input": (grad, weight),
        "depthwise_conv2d_grad_weight": (grad, x, [7, 7]),
    }


def _bad(id: str, error: type[Exception], *says: str, **change) -> BadInput:
    def changed(good: Inputs) -> Inputs:
        return {**good, **{name: value(good[name]) if callable(value) else value for name, value in change.items()}}

    return BadInput(id, changed, error, says)


BAD_IMAGES = (
    _bad("x is no tensor", TypeError, "x", "ndarray", x=lambda x: x.numpy()),
    _bad("x of rank 3", ValueError, "x", "(N, C, H, W)", "(4, 9, 8)", x=lambda x: x[0]),
    _bad("x of integers", TypeError, "x", "int64", x=lambda x: x.long()),
    _bad("x on another device", ValueError, "weight is on cpu", "x is on meta", x=lambda x: x.to("meta")),
    _bad("x in another dtype", TypeError, "weight", "float32", "bfloat16", x=lambda x: x.bfloat16()),
    _bad("channels do not fit", ValueError, "4 kernels", "3 channels", x=lambda x: x[:, :3]),
    _bad("weight is no tensor", TypeError, "weight", "list", weight=lambda w: w.tolist()),
    _bad("weight of rank 2", ValueError, "weight", "(C, Kh, Kw)", weight=lambda w: w[0]),
    _bad("weight for dense", ValueError, "weight", "(C, Kh, Kw)", weight=lambda w: w[:, None].expand(4, 4, 7, 7)),
    _bad("even kernel", ValueError, "odd sizes up to 63", "(6, 7)", weight=lambda w: w[:, :6]),
    _bad("large kernel", ValueError, "odd sizes up to 63", "(65, 1)", weight=lambda w: w.new_ones(4, 65, 1)),
    _bad("no taps", ValueError, "odd sizes", "(7, 0)", weight=lambda w: w[:, :, :0]),
    _bad("weight of integers", TypeError, "weight", "int64", weight=lambda w: w.long()),
    _bad("bias too short", ValueError, "bias has 3 entries", "4", bias=lambda b: b[:3]),
    _bad("bias in another dtype", TypeError, "bias", "float64", bias=lambda b: b.double()),
    _bad("unknown algorithm", ValueError, "algorithm", "'winograd'", algorithm="winograd"),
    _bad("algorithm no name", ValueError, "algorithm", "3", algorithm=3),
)

# Groups, points, channels, taps, and whether averaged and flipped.
POINTS = {
    "plain": ((1, 24, 37, (13, 13)), False, True),
    "averaged": ((5, 9, 3, (15, 15)), True, True),
    "not flipped": ((2, 9, 8, (7, 12)), False, False),
    "averaged, not flipped": ((2, 9, 8, (12, 7)), True, False),
    "sequence": ((7, 10, 5, (57,)), True, False),
    "plain sequence": ((3, 10, 33, (40,)), False, False),
    "one tap": ((2, 3, 8, (1, 1)), False, True),
    "two taps": ((2, 3, 8, (2,)), False, False),
    "one point": ((1, 1, 16, (9, 9)), True, True),
    "one channel": ((6, 5, 1, (9, 9)), False, True),
    "no groups": ((0, 5, 4, (9, 9)), False, True),
}


def points(draw: Draw, g: int, n: int, c: int, size: tuple[int, ...], average: bool, flip: bool) -> Inputs:
    """Radii from a quarter to 1; of integers, points and radii lie on taps of five and three."""
    coords = torch.tanh(draw(g, n, len(size))) if _fractional(draw) else draw(g, n, len(size)) / 2
    return {
        "weight": draw(g, c, n),
        "coords": coords,
        "radius": torch.exp2(draw(g, n).clamp(-1, 1) - 1),
        "size": size,
        "average": average,
        "flip": flip,
    }


def _fractional(draw: Draw) -> bool:
    values = draw(64)
    return not torch.equal(values, values.round())


def point_samples(draw: Draw) -> dict[str, Inputs]:
    samples = {name: points(draw, *sizes, average, flip) for name, (sizes, average, flip) in POINTS.items()}
    samples["five taps"] = points(draw, 2, 6, 9, (5, 5), False, True)
    samples["three and five taps"] = points(draw, 2, 6, 9, (3, 5), False, False)
    return samples


def clear_of_taps(inputs: Inputs, margin: float = 1e-3) -> Inputs:
    """Moves points until no tap is so near the edge or the corner of a tent that a difference quotient meets it."""
    coords, radius = inputs["coords"], inputs["radius"]
    grid = smpconv.reference.tap_coordinates(inputs["size"], inputs["flip"])
    for _ in range(100):
        offset = (coords[:, :, None] - grid).abs()
        near = ((offset.sum(-1) - radius[:, :, None]).abs() < margin) | (offset < margin).any(-1)
        if not near.any():
            return {**inputs, "coords": coords}
        coords = coords + 3 * margin * near.any(2)[:, :, None]
    raise AssertionError("points that stay on the edges of taps")


def point_tiny(draw: Draw) -> dict[str, Inputs]:
    return {
        "image": clear_of_taps(points(draw, 2, 3, 2, (3, 4), True, True)),
        "sequence": clear_of_taps(points(draw, 1, 3, 2, (5,), False, False)),
    }


def point_ops(draw: Draw) -> dict[str, tuple]:
    inputs = points(draw, 2, 5, 3, (7, 7), True, True)
    tensors = [inputs[name].float() for name in ("coords", "radius", "weight")]
    return {
        "rasterize": (*tensors, [7, 7], True, True),
        "rasterize_backward": (draw(2, 3, 7, 7).float(), *tensors, True, True),
    }


BAD_POINTS = (
    _bad("coords are no tensor", TypeError, "coords", "list", coords=lambda p: p.tolist()),
    _bad("coords in space", ValueError, "1 or 2 components", "(1, 5, 3)", coords=lambda p: p.new_ones(1, 5, 3)),
    _bad("coords not finite", ValueError, "finite", "5 of 5", coords=lambda p: p * torch.nan),
    _bad("radius for other points", ValueError, "radius", "(1, 5)", radius=lambda r: r[:, :4]),
    _bad("radius not positive", ValueError, "radius must be positive", "clip", radius=lambda r: -r),
    _bad("radius in another dtype", TypeError, "radius", "float64", radius=lambda r: r.double()),
    _bad("weight for other points", ValueError, "weight", "(1, C, 5)", weight=lambda w: w[..., :4]),
    _bad("weight on another device", ValueError, "weight is on meta", weight=lambda w: w.to("meta")),
    _bad("size of three axes", ValueError, "size", "(3, 3, 3)", size=(3, 3, 3)),
    _bad("no taps", ValueError, "size must be at least 1", size=0),
    _bad("a sequence flipped", ValueError, "flip must be False", coords=lambda p: p[..., :1], size=7),
)


def _exact(sample: Inputs) -> bool:
    """Halves and quarters alone: taps of three and five, which are not averaged."""
    return not sample["average"] and set(sample["size"]) <= {2, 3, 5}


OPS = [
    Op(
        package=smpconv,
        function=smpconv.depthwise_conv2d,
        reference=smpconv.reference.depthwise_conv2d,
        differentiable=("x", "weight", "bias"),
        samples=image_samples,
        tiny=image_tiny,
        ops=image_ops,
        module=lambda: smpconv.SMPDepthwiseConv2d(8, 9, bias=True),
        module_input=lambda batch: torch.randn(batch, 8, 9, 11),
        mapped=({"x": 0}, {"x": 2}, {"weight": 1}, {"x": 1, "weight": 0, "bias": 1}, {"bias": 0}),
        good=lambda draw: {**image(draw, 2, 4, 9, 8, 7), "algorithm": "direct"},
        bad_inputs=BAD_IMAGES,
    ),
    Op(
        package=smpconv,
        function=smpconv.rasterize,
        reference=smpconv.reference.rasterize,
        differentiable=("weight", "coords", "radius"),
        samples=point_samples,
        tiny=point_tiny,
        ops=point_ops,
        module=lambda: smpconv.SMPConv2d(3, 4, 9, bias=True),
        module_input=lambda batch: torch.randn(batch, 3, 8, 9),
        mapped=({"weight": 0}, {"weight": 2, "coords": 1}, {"coords": 0}),
        good=lambda draw: points(draw, 1, 5, 4, (7, 7), True, True),
        bad_inputs=BAD_POINTS,
        autocast=False,
        exact_with_integers=_exact,
        image=False,
        once=("rasterize_backward",),
    ),
]
