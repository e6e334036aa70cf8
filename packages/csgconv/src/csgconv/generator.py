"""`SliceGenerator`: one small matrix and the codes that make every kernel of a network."""

from __future__ import annotations

import math
from math import prod
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn.utils.parametrize import is_parametrized

from ._common.checks import DTYPES, boolean, integer, positive_int
from .bits import Made, pack, replaced, unpack, version
from .functional import cropped
from .kept import LearningSet, RestingSet, capturing, ordinary, transformed
from .layouts import Layer, check_layout, four_sizes
from .product import Plan, Sources, without_autocast

INITS = ("he", "reference", "uniform")


class SliceGenerator(nn.Module):
    """Makes the kernels of all layers that were made with it: see :func:`csgconv.functional.generate`.

    It owns W, of shape (P, d), and one matrix with the codes of all layers: their live rows in the order of the layers,
    then the dead ones, which reach no kernel. In a training step the first layer that needs its kernel has all of them
    made, by one product for each group of layers that need the same part of a slice. Without gradients they are kept
    between calls, until a parameter changes: every layer asks torch's version numbers, and on a CPU every pass compares
    a checksum of the values. On CUDA a write through `.data`, which leaves no trace, needs `invalidate()`; a CUDA graph
    records the products, as it must follow the parameters: `csgconv.export` what it shall run faster.

    Do not make it an attribute of your network: the first layer made with it registers it, once. A state dict holds the
    codes in the order in which layers were made, and fits only a model that makes its layers in the same order.

    Args:
        code_size: d.
        slice_shape: (S0, S1, sh, sw): a slice is P = S0 * S1 * sh * sw numbers.
        layout: of layers that choose none, "raster", "flat" or "tile": see :mod:`csgconv.layouts`.
        bias: learns one number per element of a slice; the published ones have none.
        binary: W is +-0.5 at random, never learns, and is stored in bits.
        init: "he" gives every kernel He's scale; "reference" is what the authors' CIFAR ResNets do, whose codes have
            mean 0.001 and deviation 1 where, it seems, a deviation of 0.001 was meant; "uniform" is what their other
            networks do.

    Raises:
        TypeError: sizes that are no integers, a `bias` or `binary` that is neither True nor False, a dtype other than
            float32, float64, float16 and bfloat16.
        ValueError: sizes below 1, an unknown layout or init.

    Example:
        >>> generator = SliceGenerator(72, (12, 12, 3, 3))
        >>> net = nn.Sequential(*(CSGConv2d(16, 16, 3, generator, padding=1) for _ in range(3)))
        >>> [tuple(p.shape) for p in generator.parameters()]
        [(1296, 72), (12, 72)]
    """

    weight: Tensor
    codes: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        code_size: int,
        slice_shape: tuple[int, int, int, int],
        *,
        layout: str = "raster",
        bias: bool = False,
        binary: bool = False,
        init: str = "he",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.code_size, self.slice_shape = positive_int("code_size", code_size), four_sizes("slice_shape", slice_shape)
        check_layout(layout)
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, but it is {init!r}.")
        if not (dtype is None or dtype in DTYPES):
            raise TypeError(f"dtype must be float32, float64, float16 or bfloat16 of torch, but it is {dtype!r}.")
        bias, self.layout, self.binary, self.init = boolean("bias", bias), layout, boolean("binary", binary), init
        size, place = prod(self.slice_shape), {"device": device, "dtype": dtype}
        self._plan = Plan((), size)
        self._learning: LearningSet | None = None
        self._resting: RestingSet | None = None
        self._unpacked: Made = None, -1
        weight = torch.empty(size, self.code_size, **place)  # type: ignore[arg-type]
        if self.binary:
            self.register_buffer("weight", weight, persistent=False)
            self.register_buffer("bits", torch.empty(-(-weight.numel() // 8), dtype=torch.uint8, device=device))
        else:
            self.weight = nn.Parameter(weight)
        self.codes = nn.Parameter(torch.empty(0, self.code_size, **place))  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.empty(size, **place)) if bias else None  # type: ignore[arg-type]
        self.reset_parameters()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What it makes, in the order of the layers."""
        return self._plan.layers

    def rows(self, index: int) -> tuple[range, range]:
        """Rows of `codes` that belong to layer `index`: the live ones, the dead ones."""
        return self._plan.ranges(self._checked(index))

    def place(self, index: int) -> tuple[list[int], tuple[int, ...]]:
        """Layer `index` in a table of `csgconv.functional.crop` for the product of all codes; shape of its kernel."""
        layer = self.layers[self._checked(index)]
        return list(layer.entry(self._plan.first[index])), layer.shape

    def _checked(self, index: int) -> int:
        count = len(self.layers)
        if integer("index", index, 0) >= count:
            how = f"give at most {count - 1}" if count else "make a CSGConv2d with this generator first"
            raise ValueError(f"index={index} is that of no layer, of which the generator has {count}: {how}.")
        return index

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the generator and all codes, as `init` says."""
        if self.binary:
            signs = torch.randn(self.weight.shape, device=self.weight.device) < 0
            self.get_buffer("bits").copy_(pack(signs))
            self._unpack()
        elif self.init == "uniform":
            nn.init.uniform_(self.weight, -1 / math.sqrt(self.code_size), 1 / math.sqrt(self.code_size))
        else:
            nn.init.normal_(self.weight, std=math.sqrt((2 if self.init == "reference" else 1) / self.code_size))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for index, layer in enumerate(self.layers):
            for rows in self.rows(index):
                self._draw(self.codes[rows.start : rows.stop], layer)
        self.invalidate()

    def _draw(self, codes: Tensor, layer: Layer) -> None:
        """Codes of a layer."""
        if self.init != "he":
            nn.init.normal_(codes, 1 / 1000 if self.init == "reference" else 0.0)
            return
        fan_out = layer.shape[0] * layer.taps // layer.groups
        variance = 1 / 4 if self.binary else 1 / self.code_size  # of the elements of W
        nn.init.normal_(codes, std=math.sqrt(2 / fan_out / variance / self.code_size))

    @torch.no_grad()
    def add(self, layer: Layer) -> int:
        """Adds codes for one more layer, in place; a layer's constructor calls it. Returns the layer's number."""
        if layer.slice_shape != self.slice_shape:
            raise ValueError(f"The layer has slices of shape {layer.slice_shape}, the generator of {self.slice_shape}.")
        old, self._plan = self._plan, Plan((*self.layers, layer), self._plan.slice_size)
        new = self.codes.new_empty(layer.rows, self.code_size)
        self._draw(new, layer)
        parts = self.codes[: old.live], new[: layer.live], self.codes[old.live :], new[layer.live :]
        self.codes.grad = None
        self.codes.data = torch.cat(parts)
        self.invalidate()
        return len(old.layers)

    def invalidate(self) -> None:
        """Forgets the kernels that were kept: needed after a write through `.data` on CUDA."""
        self._learning = self._resting = None

    def kernels(self) -> tuple[Tensor, ...]:
        """The kernels of all layers, in their order, made together; differentiable, to the bit what layers use."""
        found = (self.in_pass(index) for index in range(len(self.layers)))
        return tuple(kernel if kernel.requires_grad else kernel.clone() for kernel in found)

    def kernel(self, index: int) -> Tensor:
        """The kernel of a layer, or a copy of the one that is kept: writing to it changes no layer."""
        kernel = self._kernel(self._checked(index), passing=False)
        return kernel if kernel.requires_grad else kernel.clone()

    def in_pass(self, index: int) -> Tensor:
        """The kernel of a layer that computes with it now: values are compared once for the layers of a pass."""
        return self._kernel(index, passing=True)

    def _kernel(self, index: int, passing: bool) -> Tensor:
        if is_compiling():
            return self._alone(index)
        if transformed():
            if self._resting is not None:
                self._resting.next = -1  # no layer after this one takes a kept kernel without asking the same
            return self._alone(index)
        if self.binary:
            self._follow_bits()
        registered = self._parameters
        codes, bias = registered.get("codes"), registered.get("bias")
        weight = (self._buffers if self.binary else registered).get("weight")
        if codes is None or weight is None:  # parametrized
            return self._alone(index)
        sources, dtype = (codes, weight, bias), _dtype(codes)
        if is_grad_enabled() and (
            codes.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return self._learning_kernel(index, sources, dtype)
        return self._resting_kernel(index, sources, dtype, passing)

    def _learning_kernel(self, index: int, sources: Sources, dtype: torch.dtype) -> Tensor:
        """Of the set of this step, which begins when a layer asks again."""
        kept = self._learning
        if kept is None or not kept.fits(index, sources, dtype) or not kept.in_step(index):
            if not self._keeps(sources):
                return self._alone(index)
            self._resting = None
            kept = self._learning = LearningSet(self._plan, sources, dtype, self, index)
        kept.asked.add(index)
        return kept.kernels[index]

    def _resting_kernel(self, index: int, sources: Sources, dtype: torch.dtype, passing: bool) -> Tensor:
        """Of the kept set, while its sources are the same."""
        kept = self._resting
        if capturing(sources):
            if kept is not None:
                kept.next = -1
            return self._alone(index)
        continues = passing and kept is not None and index == kept.next
        if kept is None or not kept.fits(index, sources, dtype) or not (continues or kept.holds()):
            if not self._keeps(sources):
                return self._alone(index)
            kept = self._resting = RestingSet(self._plan, sources, dtype, self)
            if passing:
                kept.begin(index)
        elif passing:
            kept.go_on(index)
        return kept.kernels[index]

    def _keeps(self, sources: Sources) -> bool:
        """Whether kernels of these may be kept. A parametrized bias is not among the registered ones."""
        return ordinary(sources) and (sources[2] is not None or self.bias is None)

    def _alone(self, index: int) -> Tensor:
        """By the product of the layer's own rows: where a program is made or transformed, and nothing may be kept."""
        self._refuse_hooks()
        layer, first = self.layers[index], self._plan.first[index]
        codes, weight, bias = self.codes, self.weight, self.bias
        if self.binary and not is_compiling():
            weight = self._of_bits()
        dtype = _dtype(codes)
        with without_autocast(codes):
            live = codes[first : first + layer.live].to(dtype)
            slices = nn.functional.linear(live, weight.to(dtype), None if bias is None else bias.to(dtype))
            return cropped(slices, [layer], layer.entry(0))[0].view(layer.shape)

    def _refuse_hooks(self) -> None:
        """What `torch.nn.utils.prune` and the old norms do to a parameter waits for a call of `forward`, of which there
        is none."""
        if not self._forward_pre_hooks:
            return
        for name in ("codes", "weight", "bias"):
            if name not in self._parameters and name not in self._buffers and not is_parametrized(self, name):
                raise RuntimeError(
                    f"{name} of the SliceGenerator is made by a hook before its forward(), which is never called: use "
                    "torch.nn.utils.parametrize, or end it with torch.nn.utils.prune.remove or remove_weight_norm."
                )

    def _unpack(self) -> None:
        """The binary W from its bits."""
        with torch.no_grad():
            bits = self.get_buffer("bits")
            if self.weight.is_meta and not bits.is_meta:  # the bits of a file were assigned to a network without values
                self.weight = torch.empty_like(self.weight, device=bits.device)
            signs = unpack(bits, self.weight.numel()).view(self.weight.shape)
            self.weight.copy_(torch.where(signs, -0.5, 0.5))
            self._unpacked = bits, version(bits)

    def _of_bits(self) -> Tensor:
        """The binary W, of other bits where a transformed function has put them in place of its own."""
        if not replaced(self._buffers, self._unpacked):
            return self.weight
        signs = unpack(self.get_buffer("bits"), self.weight.numel()).view(self.weight.shape)
        return torch.where(signs, -0.5, 0.5).to(self.weight.dtype)

    def _follow_bits(self) -> None:
        """The binary W after a write to its bits alone, as averages of models copy them, or when they are others, as
        `torch.func.functional_call` with a state dict puts them in place of these."""
        if replaced(self._buffers, self._unpacked):
            self._unpack()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.binary:
            self._unpack()
        self.invalidate()

    def _apply(self, fn: Any, recurse: bool = True) -> SliceGenerator:
        self.invalidate()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> SliceGenerator:
        """As `nn.Module.train`; forgets the kernels that were kept."""
        self.invalidate()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_learning": None, "_resting": None}

    def extra_repr(self) -> str:
        text = f"{self.code_size}, {self.slice_shape}, layers={len(self.layers)}, rows={self._plan.rows}"
        text += "" if self.layout == "raster" else f", layout={self.layout!r}"
        text += "" if self.bias is None else ", bias=True"
        return f"{text}, binary=True" if self.binary else text


def _dtype(codes: Tensor) -> torch.dtype:
    """Of kernels: autocast's where that is on."""
    dtype, device = codes.dtype, codes.device.type
    if dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
        return dtype
    return torch.get_autocast_dtype(device)
