"""`SliceGenerator`: one small matrix and the codes that make every kernel of a network."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ._common.checks import positive_int
from .functional import cropped
from .layouts import Layer, check_layout, four_sizes
from .product import Generate, Plan, Sources, kernels, slice_size, versions, without_autocast

INITS = ("he", "reference", "uniform")
PLAIN = (Tensor, nn.Parameter)


class KernelSet:
    """The kernels of all layers as they were made at once."""

    def __init__(self, sources: Sources, dtype: torch.dtype, task: int = -1) -> None:
        self.sources, self.versions, self.dtype, self.task = sources, versions(sources), dtype, task
        self.learning = [t is not None and t.requires_grad for t in sources]
        self.asked: set[int] = set()  # layers, in this round
        self.spent = False  # whether a gradient has passed through them
        self.kernels: tuple[Tensor, ...] = ()
        self.made = 0
        self.values: list[Tensor] = []

    def fits(self, sources: Sources, dtype: torch.dtype) -> bool:
        """Whether the same tensors, unchanged as far as torch knows, would make the same kernels."""
        mine = self.sources
        return (
            mine[0] is sources[0]
            and mine[1] is sources[1]
            and mine[2] is sources[2]
            and self.dtype == dtype
            and self.versions == versions(sources)
            and self.kernels[0]._version == self.made
        )


class SliceGenerator(nn.Module):
    """Makes the kernels of all layers that were made with it: see :func:`csgconv.functional.generate`.

    It owns W, of shape (P, d), and one matrix with the codes of all layers: their live rows in the order of the layers,
    then the dead ones, which reach no kernel. In a training step the first layer that needs its kernel has all of them
    made by one product. Without gradients they are kept between calls, until a parameter changes: torch's version
    numbers tell, and on a CPU the values themselves are compared too, once per pass. On CUDA a write through `.data`,
    which leaves no trace, needs `invalidate()`.

    Do not make it an attribute of your network: the first layer made with it registers it, once.

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
        TypeError, ValueError: sizes that are no positive integers, an unknown layout or init.

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
        self.layout, self.binary, self.init = layout, bool(binary), init
        size, place = slice_size(self.slice_shape), {"device": device, "dtype": dtype}
        self._plan = Plan((), size)
        self._learning: KernelSet | None = None
        self._resting: KernelSet | None = None
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
        return self._plan.ranges(index)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the generator and all codes, as `init` says."""
        if self.binary:
            signs = torch.randn(self.weight.shape, device=self.weight.device) < 0
            self.bits.copy_(pack(signs))
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
        """The kernels of all layers, in their order, by one product; differentiable, to the bit what layers use."""
        return tuple(self.kernel(index) for index in range(len(self.layers)))

    def kernel(self, index: int) -> Tensor:
        """The kernel of a layer; for reading only."""
        if torch.compiler.is_compiling() or self._transformed():
            return self._alone(index)
        sources = self._sources()
        if sources is None:
            return self._alone(index)
        codes, weight, bias = sources
        dtype = self._dtype(codes)
        if torch.is_grad_enabled() and (
            codes.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            return self._learning_kernel(index, sources, dtype)
        return self._resting_kernel(index, sources, dtype)

    def _learning_kernel(self, index: int, sources: Sources, dtype: torch.dtype) -> Tensor:
        """Of the set of this step. A layer that asks again, unless a backward pass recomputes it, begins a new one."""
        task, kept = torch._C._current_graph_task_id(), self._learning
        if (
            kept is None
            or not kept.fits(sources, dtype)
            or kept.task not in (-1, task)
            or (task == -1 and (kept.spent or index in kept.asked))
            or kept.learning != [t is not None and t.requires_grad for t in sources]
        ):
            self._resting = None
            kept = KernelSet(sources, dtype, task)
            kept.kernels = Generate.apply(self._plan, dtype, weakref.ref(kept), *sources)
            kept.made = kept.kernels[0]._version
            self._learning = kept
        kept.asked.add(index)
        return kept.kernels[index]

    def _resting_kernel(self, index: int, sources: Sources, dtype: torch.dtype) -> Tensor:
        """Of the kept set, while its sources are the same. A layer that asks again begins a round."""
        kept = self._resting
        if kept is not None and kept.fits(sources, dtype):
            if index not in kept.asked:
                kept.asked.add(index)
                return kept.kernels[index]
            kept.asked = {index}
            if all(t is None or torch.equal(t, value) for t, value in zip(sources, kept.values)):
                return kept.kernels[index]
        # An inference tensor has no version, and cannot be trained on.
        with torch.inference_mode(False), torch.no_grad():
            kept = KernelSet(sources, dtype)
            kept.kernels = kernels(self._plan, sources, dtype)
            kept.made = kept.kernels[0]._version
            if sources[0].is_cpu:
                kept.values = [torch.empty(0) if t is None else t.detach().clone() for t in sources]
        kept.asked.add(index)
        self._resting = kept
        return kept.kernels[index]

    def _alone(self, index: int) -> Tensor:
        """By the product of the layer's own rows: where a program is made or transformed, and nothing may be kept."""
        layer, first = self.layers[index], self._plan.first[index]
        codes, weight, bias = self.codes, self.weight, self.bias
        dtype = self._dtype(codes)
        with without_autocast(codes):
            live = codes[first : first + layer.live].to(dtype)
            slices = nn.functional.linear(live, weight.to(dtype), None if bias is None else bias.to(dtype))
            return cropped(slices, [layer], layer.entry(0))[0].view(layer.shape)

    def _sources(self) -> Sources | None:
        """The tensors as they are registered; None where they are not plain ones."""
        registered = self._parameters
        codes, bias = registered.get("codes"), registered.get("bias")
        weight = self._buffers["weight"] if self.binary else registered.get("weight")
        for t in (codes, weight):
            if type(t) not in PLAIN or t.is_inference():  # type: ignore[union-attr]
                return None
        if bias is not None and (type(bias) not in PLAIN or bias.is_inference()):
            return None
        if bias is None and self.bias is not None:  # parametrized
            return None
        return codes, weight, bias  # type: ignore[return-value]

    @staticmethod
    def _transformed() -> bool:
        return (
            torch._C._functorch.peek_interpreter_stack() is not None
            or torch._C._len_torch_dispatch_stack() > 0
            or forward_ad._current_level >= 0
            or torch.jit.is_tracing()
        )

    @staticmethod
    def _dtype(codes: Tensor) -> torch.dtype:
        """Of kernels: autocast's where that is on."""
        dtype, device = codes.dtype, codes.device.type
        if dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
            return dtype
        return torch.get_autocast_dtype(device)

    def _unpack(self) -> None:
        """The binary W from its bits."""
        with torch.no_grad():
            signs = unpack(self.bits, self.weight.numel()).view(self.weight.shape)
            self.weight.copy_(torch.where(signs, -0.5, 0.5))

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


def pack(signs: Tensor) -> Tensor:
    """Eight signs in a byte, the first one lowest."""
    flat = torch.nn.functional.pad(signs.flatten().to(torch.uint8), (0, -signs.numel() % 8))
    return (flat.view(-1, 8) << torch.arange(8, device=signs.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:
    """What `pack` packed."""
    return (bits[:, None] >> torch.arange(8, device=bits.device, dtype=torch.uint8)).flatten()[:count] % 2 == 1
