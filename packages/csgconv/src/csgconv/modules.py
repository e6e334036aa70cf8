"""`CSGConv2d`: a convolution whose kernel a generator makes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, conv2d, is_grad_enabled, nn
from torch.compiler import is_dynamo_compiling

from ._common.checks import boolean, integer, positive_int, positive_pair
from .functional import crop
from .generator import SliceGenerator
from .layouts import Layer


class CSGConv2d(nn.Module):
    """`nn.Conv2d` with a kernel that `generator` makes of the layer's codes: see :class:`csgconv.SliceGenerator`.

    The first layer made with a generator registers it as its submodule `generator`; the others refer to it, so that a
    state dict holds it once, under one name, and copies of a network share it as the network does. Do not assign the
    generator to the network as well. To freeze the first layer's parameters is to freeze the generator.

    Args:
        in_channels: of x.
        out_channels: O.
        kernel_size: kh and kw; in "raster" and "tile" those of the generator's slices.
        generator: makes the kernel; its codes grow by those of this layer.
        stride, padding, dilation, groups, bias, padding_mode: as of `nn.Conv2d`.
        layout: the generator's, unless given; groups need "flat".
        device, dtype: of the bias; the generator's, unless given, and no other dtype.

    Raises:
        TypeError, ValueError: what `nn.Conv2d` refuses, and kernels that the layout cannot make.

    Example:
        >>> generator = SliceGenerator(72, (12, 12, 3, 3))
        >>> CSGConv2d(16, 32, 3, generator, stride=2, padding=1)(torch.randn(1, 16, 32, 32)).shape
        torch.Size([1, 32, 16, 16])
    """

    generator: SliceGenerator

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        generator: SliceGenerator,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        layout: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(generator, SliceGenerator):
            raise TypeError(f"generator must be a SliceGenerator, but it is a {type(generator).__name__}.")
        positive_int("in_channels", in_channels), positive_int("out_channels", out_channels)
        positive_pair("kernel_size", kernel_size), positive_int("groups", groups)
        for name, sizes in (("stride", stride), ("dilation", dilation)):
            _check_sizes(name, sizes, 1)
        if not isinstance(padding, str):
            _check_sizes("padding", padding, 0)
        elif padding not in ("same", "valid"):
            raise ValueError(f"padding must be integers, 'same' or 'valid', but it is {padding!r}.")
        options: Any = (stride, padding, dilation, groups, False, padding_mode, "meta")
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, *options)  # checks its arguments
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            setattr(self, name, getattr(plain, name))
        self.padding_mode, self._margins = padding_mode, plain._reversed_padding_repeated_twice
        self.layout = generator.layout if layout is None else layout
        made = generator.codes
        place: Any = {"device": made.device if device is None else device, "dtype": dtype or made.dtype}
        if boolean("bias", bias) and place["dtype"] != made.dtype:
            raise ValueError(f"dtype is {dtype} but the generator makes kernels of {made.dtype}: choose one.")
        layer = Layer(tuple(plain.weight.shape), generator.slice_shape, self.layout, groups)  # type: ignore[arg-type]
        self.index = generator.add(layer)
        if self.index == 0:
            self.generator = generator
        else:
            self.__dict__["generator"] = generator
        self.bias = nn.Parameter(torch.zeros(out_channels, **place)) if bias else None

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of `nn.Module`, but for the kernel, which is none."""
        if name == "weight":
            raise AttributeError(
                "weight is made by the generator and cannot be set: write its codes, or use csgconv.export first."
            )
        super().register_parameter(name, param)

    @property
    def weight(self) -> Tensor:  # (O, I / groups, kh, kw)
        """The kernel, for reading only."""
        return self.generator.kernel(self.index)

    def forward(self, x: Tensor) -> Tensor:  # (N, I, H, W) -> (N, O, H', W')
        if type(x) is not Tensor and not isinstance(x, Tensor):
            return self._forward_traced(x)
        # What follows is written out, and around `nn.Module.__getattr__`: a network of one small image notices.
        own, weight = self.__dict__, None
        generator = own.get("generator") or self.generator
        if not is_grad_enabled() and not is_dynamo_compiling():
            resting = generator.__dict__["_resting"]
            if resting is not None:
                weight = resting.at_once(own["index"])
        if weight is None:
            weight = generator.in_pass(own["index"])
            if x.device != weight.device:
                raise _elsewhere(x, weight)
        try:
            if own["padding_mode"] != "zeros":
                return _conv2d(x, weight, self.bias, *self._options())
            return conv2d(x, weight, self.bias, own["stride"], own["padding"], own["dilation"], own["groups"])
        except RuntimeError:
            if x.device != weight.device:
                raise _elsewhere(x, weight) from None
            raise

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `nn.Module` calls in place of `forward` while `torch.jit.trace` looks on: no kernel is a constant."""
        resting = self.generator._resting
        if resting is not None:
            resting.next = -1
        return super()._slow_forward(*args, **kwargs)

    def _forward_traced(self, x: Any) -> Tensor:
        """Of a symbolic trace: one node that reads the parameters, where a kernel would be a constant."""
        if not isinstance(x, torch.fx.Proxy):
            raise TypeError(f"x must be a tensor of shape (N, I, H, W), but it is a {type(x).__name__}.")
        generator = self.generator
        sources = generator.codes, generator.weight, generator.bias
        place: Any = generator.place(self.index)
        return generated_conv2d(x, *sources, self.bias, *place, *self._options())  # type: ignore[arg-type]

    def _options(self) -> tuple[Any, ...]:
        margins = None if self.padding_mode == "zeros" else self._margins
        return self.stride, self.padding, self.dilation, self.groups, margins, self.padding_mode

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros", "layout": "raster"}
        values = {name: getattr(self, name) for name in defaults}
        text += "".join(f", {name}={value!r}" for name, value in values.items() if value != defaults[name])
        return text if self.bias is not None else f"{text}, bias=False"


def _elsewhere(x: Tensor, weight: Tensor) -> RuntimeError:
    return RuntimeError(
        f"x is on {x.device} but the generator is on {weight.device}: move the whole network, and use "
        "DistributedDataParallel in place of DataParallel."
    )


def generated_conv2d(
    x: Tensor,
    codes: Tensor,
    weight: Tensor,
    generator_bias: Tensor | None,
    bias: Tensor | None,
    numbers: list[int],
    shape: tuple[int, ...],
    *options: Any,
) -> Tensor:
    """What a layer computes, where a network is traced symbolically; `numbers` are the layer in a table of `crop`."""
    slices = F.linear(codes, weight, generator_bias)
    return _conv2d(x, crop(slices, numbers).view(shape), bias, *options)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: str | tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    margins: list[int] | None,
    padding_mode: str,
) -> Tensor:
    """As `nn.Conv2d` convolves; `margins` where what is outside the image is not zero."""
    if margins is not None:
        x, padding = F.pad(x, margins, padding_mode), (0, 0)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


torch.fx.wrap("generated_conv2d")


def _check_sizes(name: str, value: Any, least: int) -> None:
    """One integer, or as many in a tuple as `nn.Conv2d` takes."""
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    if len(sizes) not in (1, 2):
        raise ValueError(f"{name} must be one integer or a pair (rows, columns), but it is {value!r}.")
    for size in sizes:
        integer(name, size, least)


def generators(model: nn.Module) -> list[SliceGenerator]:
    """All generators that make kernels in `model`, registered or not, in the order of their first layers.

    Raises:
        TypeError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but it is a {type(model).__name__}.")
    found: dict[SliceGenerator, None] = {}
    for module in model.modules():
        if isinstance(module, (CSGConv2d, SliceGenerator)):
            found[module.generator if isinstance(module, CSGConv2d) else module] = None
    return list(found)


def registered_generators(model: nn.Module) -> list[SliceGenerator]:
    """`generators`, all of which must be submodules of `model`.

    Raises:
        TypeError: `model` is no module.
        ValueError: one is not, so that its parameters are none of the model's.
    """
    found, modules = generators(model), set(model.modules())
    for name, module in model.named_modules():
        if isinstance(module, CSGConv2d) and module.generator not in modules:
            raise ValueError(
                f"The generator of {name or 'the layer'} belongs to no layer of this model: its first one is missing, "
                "so that neither parameters() nor state_dict() of the model hold it."
            )
    return found
