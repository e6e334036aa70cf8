"""What an op must bring to be held to the contract of `test_contract.py`.

To join, a package adds `samples/<package>.py` with a list `OPS` of `Op`. Everything the suite does follows from it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Inputs = dict[str, Any]  # argument name -> value
Draw = Callable[..., Tensor]  # shape -> float64 tensor

# Largest difference from the float64 reference: relative to a value, and to the largest value of its tensor. Kernels
# sum in float32 and round once, so half precision differs by little more than half a unit in the last place.
TOLERANCES = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (2e-6, 1e-6),
    torch.float16: (1e-3, 2e-5),
    torch.bfloat16: (8e-3, 2e-5),
}
# The same of what is summed from an output that was rounded already: its errors do not shrink where the sum cancels.
ROUNDED_TOLERANCES = {**TOLERANCES, torch.float16: (2e-3, 1e-3), torch.bfloat16: (2e-2, 1e-2)}


@dataclass(frozen=True)
class BadInput:
    """A call that must fail with `error`, in one sentence that contains every word of `says`."""

    id: str
    change: Callable[[Inputs], Inputs]  # of a good sample
    error: type[Exception]
    says: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Op:
    """One public function and all the contract needs to know about it.

    Args:
        samples: `samples(draw)` gives named inputs, where `draw(*shape)` makes the float64 tensors; the suite
            converts them.
        tiny: as few and small samples as show all that is differentiable, for numerical gradients and `opcheck`.
        differentiable: names of the arguments that get gradients, image first.
        ops: `ops(draw)` gives the name of every op in `torch.ops.<package>` with the arguments of one call.
        module: makes the layer, without arguments, on the CPU in float32; it takes `module_input(batch)`.
        good: a call that `bad_inputs` spoil, in float32.
        mapped: `in_dims` of `vmap` that must work, as argument name -> dimension.
        thread_independent: the native kernels promise the same bits for any number of threads.
        exact_with_integers: results for integers have so few digits that all kernels agree to the bit; or a function
            that says so of a sample.
        autocast: runs in autocast's dtype; what only moves numbers keeps theirs.
        dynamic: dimensions of the module's input that an exported program leaves open.
        from_output: arguments whose gradients are computed from the output, as it was rounded.
        image: the first differentiable argument is an image or a sequence, whose layout the result takes.
        once: names of the ops, in `ops`, that have no derivative: the function refuses a second one in a sentence.
    """

    package: ModuleType
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    differentiable: tuple[str, ...]
    samples: Callable[[Draw], dict[str, Inputs]]
    tiny: Callable[[Draw], dict[str, Inputs]]
    ops: Callable[[Draw], dict[str, tuple]]
    module: Callable[[], nn.Module]
    module_input: Callable[[int], Tensor]
    mapped: tuple[dict[str, int], ...]
    good: Callable[[Draw], Inputs]
    bad_inputs: tuple[BadInput, ...]
    cpu_levels: tuple[str, ...] = ("baseline", "avx2", "avx512")
    thread_independent: bool = True
    exact_with_integers: bool | Callable[[Inputs], bool] = True
    autocast: bool = True
    dynamic: tuple[int, ...] = (0, 2, 3)
    from_output: tuple[str, ...] = ()
    image: bool = True
    once: tuple[str, ...] = ()

    def tolerance(self, part: str, dtype: torch.dtype) -> tuple[float, float]:
        """Of "out" or "grad_<argument>"."""
        return (ROUNDED_TOLERANCES if part.removeprefix("grad_") in self.from_output else TOLERANCES)[dtype]

    def exact(self, sample: Inputs) -> bool:
        """Whether all kernels agree to the bit on a sample of integers."""
        wanted = self.exact_with_integers
        return wanted(sample) if callable(wanted) else wanted

    def __str__(self) -> str:
        return f"{self.package.__name__}.{self.function.__name__}"


def discover() -> list[Op]:
    """All ops of all modules in `samples/`."""
    names = sorted(path.stem for path in (Path(__file__).parent / "samples").glob("[a-z]*.py"))
    return [op for name in names for op in importlib.import_module(f"samples.{name}").OPS]


def normal(seed: int = 0) -> Draw:
    """Drawing of normal numbers in float64, the same ones for every dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def integers(seed: int = 0) -> Draw:
    """Drawing of -1, 0 and 1: sums of their products are exact in any dtype and order, so results agree to the bit."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randint(-1, 2, shape, generator=generator).double()


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


# Ways an image (N, C, H, W) or a sequence (N, C, L) can lie in memory; all show the same values.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": _channels_last,
    "slice": lambda x: _inside_larger(x),
    "channels_last_slice": lambda x: _inside_larger(x.movedim(1, -1)).movedim(-1, 1),
    "every_second": lambda x: torch.stack((x, x + 1), -1).flatten(-2)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
}


def lies_channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _inside_larger(x: Tensor) -> Tensor:
    margins = (1, 2, 3, 5)[: x.dim()]
    larger = x.new_full([size + 2 * margin for size, margin in zip(x.shape, margins)], torch.nan)
    view = larger[tuple(slice(margin, margin + size) for size, margin in zip(x.shape, margins))]
    view.copy_(x)
    return view


def with_gradients(
    op: Op, function: Callable[..., Tensor], inputs: Inputs, upstream: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Output and gradients of `function` for `upstream(output)`, by name; `inputs` stay untouched."""
    leaves = {
        name: inputs[name].detach().requires_grad_() for name in op.differentiable if inputs.get(name) is not None
    }
    out = function(**{**inputs, **leaves})
    grads = torch.autograd.grad(out, list(leaves.values()), upstream(out))
    return {"out": out.detach(), **{f"grad_{name}": grad for name, grad in zip(leaves, grads)}}


def convert(inputs: Inputs, device: str, dtype: torch.dtype) -> Inputs:
    """Inputs on `device`, those in float64 as `dtype`; what has another dtype in the sample, as an angle, keeps it."""

    def converted(value):
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.dtype == torch.float64 else None)

    return {name: converted(value) for name, value in inputs.items()}


def assert_close(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    tolerance: Callable[[str], tuple[float, float]],
    of: str = "",
) -> None:
    """`tolerance(part)` are rtol and an atol that is relative to the largest expected value of a tensor."""
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        rtol, atol = tolerance(name)
        wanted = expected[name].double().cpu()
        scale = wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(
            tensor.double().cpu(),
            wanted,
            rtol=rtol,
            atol=atol * scale,
            msg=lambda text, name=name: f"{name} of {of}: {text}",
        )


def assert_kernels_hold(
    ops: list[Op], kernels: dict[str, Callable], dtype: torch.dtype, numbers: Callable[..., Draw] = normal
) -> None:
    """Hold other kernels to all samples of `ops`, forward and backward, through the public functions.

    Each sample comes in two of the six layouts, and each layout with every third sample. `kernels`, by their names in
    `torch.ops`, take the place of the reference, and all of them must be called. Of `integers`, results must be exact
    where an op promises that.
    """
    package, called, left_out = ops[0].package, set(), []

    def spy(name):
        return lambda *args: called.add(name) or kernels[name](*args)

    def upstream(out):
        return numbers(1)(*out.shape).to(dtype)

    with mock.patch.dict(package.ops.KERNELS, {name: spy(name) for name in kernels}), package.use_backend("reference"):
        for op in ops:
            image = op.differentiable[0]
            for number, (name, sample) in enumerate(op.samples(numbers()).items()):
                if numbers is integers and not op.exact(sample):
                    left_out.append(name)
                    continue
                inputs = convert(sample, "cpu", dtype)
                wide = {
                    key: value.double() if key in op.differentiable and value is not None else value
                    for key, value in inputs.items()
                }
                expected = with_gradients(op, op.reference, wide, lambda out: upstream(out).double())
                for layout in list(LAYOUTS)[number % 3 :: 3]:
                    given = {**inputs, image: LAYOUTS[layout](inputs[image])}
                    got = with_gradients(op, op.function, given, upstream)
                    assert_close(got, expected, functools.partial(op.tolerance, dtype=dtype), f"{op} {name} {layout}")
                    if numbers is integers:
                        assert all(torch.equal(t, expected[part].to(dtype)) for part, t in got.items()), f"{op} {name}"
    assert called == set(kernels) or left_out
