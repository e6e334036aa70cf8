"""Layers that read images along paths, around `functional`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from . import functional
from ._common.checks import positive_int, positive_pair
from .functional import PathTables, path_tables


class Traverse(nn.Module):
    """Reads images along paths: see :func:`pathconv.traverse`.

    The paths are saved with the module as rows and columns, `paths`, int32 (P, L, 2). They are no weights: loading a
    state dict of other paths is an error, as the sequences would mean other pixels.

    Args:
        paths: the name of a preset, a `PathSet`, `PathConfig`s, or a tensor of rows and columns.
        image_size: of the images, an integer or (height, width); needed unless `paths` is a `PathSet` or a tensor.

    Raises:
        TypeError, ValueError: as `traverse` does, or `image_size` is missing.

    Example:
        >>> Traverse("g", 32)(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 9, 1024])
    """

    paths: Tensor  # int32 (P, L, 2)
    index: Tensor  # int32 (P, L)
    inverse: Tensor  # int32 (P, L)

    def __init__(
        self, paths: Any, image_size: int | tuple[int, int] | None = None, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.source = paths if isinstance(paths, str) else None  # the name of the preset
        # Kept beside the buffers: `reset_parameters` needs them after a start on the meta device.
        self._tables = tables_of(paths, image_size)
        self.image_size = self._tables.height, self._tables.width
        self.num_paths, self.length = self._tables.index.shape
        self.register_buffer("paths", torch.empty(self.num_paths, self.length, 2, dtype=torch.int32, device=device))
        self.register_buffer("index", torch.empty_like(self.paths[..., 0]), persistent=False)
        self.register_buffer("inverse", torch.empty_like(self.index), persistent=False)
        self._reset_paths()

    def _reset_paths(self) -> None:
        if is_fake(self.index):  # which has no numbers
            return
        index = self._tables.index
        self.paths.copy_(torch.stack((index // self.image_size[1], index % self.image_size[1]), -1))
        self.index.copy_(index)
        self.inverse.copy_(self._tables.inverse)

    def reset_parameters(self) -> None:
        """Brings back the paths of the constructor."""
        self._reset_paths()

    @property
    def tables(self) -> PathTables:
        """The paths as the functions of this package take them, on this module's device."""
        return PathTables(self.index, self.inverse, *self.image_size)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, P * C, L)
        return functional.traverse(x, self.tables)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        found, errors = state_dict.get(f"{prefix}paths"), rest[-1]
        if isinstance(found, Tensor) and found.shape == self.paths.shape and not found.is_meta:
            pixels = found[..., 0].long() * self.image_size[1] + found[..., 1]
            if not torch.equal(pixels.cpu(), self._tables.index.long()):
                errors.append(f"{prefix}paths: the state dict reads other paths than this module: make it with those.")
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if self.index.device != self.paths.device:  # assigned into a module on the meta device
            self.index, self.inverse = (torch.empty_like(self._tables.index, device=self.paths.device) for _ in "12")
        self._reset_paths()  # after `to_empty` the tables hold anything, and no state dict brings them

    def extra_repr(self) -> str:
        return f"{self.num_paths} paths, {self.image_size[0]}x{self.image_size[1]}"


class TraverseConv1d(Traverse):
    """The traversal and a convolution of kernel size 1: see :func:`pathconv.traverse_conv1d`.

    Args:
        paths: as in `Traverse`.
        in_channels: C of the images; the convolution sees P * C.
        out_channels: D.
        image_size: as in `Traverse`.
        bias: learns one number per output channel to be added.
        channels_last: the output lies as (N, L, D) in memory; by default where the images are channels_last.

    Example:
        >>> TraverseConv1d("g", 3, 48, 32)(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 48, 1024])
    """

    def __init__(
        self,
        paths: Any,
        in_channels: int,
        out_channels: int,
        image_size: int | tuple[int, int] | None = None,
        *,
        bias: bool = True,
        channels_last: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(paths, image_size, device=device)
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_channels = positive_int("out_channels", out_channels)
        self.channels_last = channels_last
        shape = (out_channels, self.num_paths * in_channels, 1)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias as `nn.Conv1d` does, and brings back the paths of the constructor."""
        reset_as_conv(self.weight, self.bias)
        self._reset_paths()

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D, L)
        return functional.traverse_conv1d(x, self.tables, self.weight, self.bias, channels_last=self.channels_last)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, {self.in_channels}, {self.out_channels}"
        text += "" if self.bias is not None else ", bias=False"
        return text if self.channels_last is None else f"{text}, channels_last={self.channels_last}"


def tables_of(paths: Any, image_size: int | tuple[int, int] | None = None) -> PathTables:
    """The tables of `paths` on the CPU; tensors, tables and `PathSet`s know the size of their images.

    Raises:
        TypeError, ValueError: as `path_tables`, or `image_size` is missing.
    """
    if image_size is not None:
        height, width = positive_pair("image_size", image_size)
    elif hasattr(paths, "height"):
        height, width = paths.height, paths.width
    elif isinstance(paths, Tensor) and paths.numel() > 0 and paths.shape[-1] == 2:
        height, width = (paths.reshape(-1, 2).amax(0) + 1).tolist()
    else:
        raise ValueError(f"image_size is missing: the paths {paths!r} exist for images of many sizes.")
    with torch.device("cpu"):
        tables = path_tables(paths, height, width, "cpu")
    if (tables.height, tables.width) != (height, width):
        raise ValueError(
            f"paths cover {tables.height} x {tables.width} pixels but image_size is {height} x {width}: make paths "
            "for that size."
        )
    return tables._replace(index=tables.index.cpu(), inverse=tables.inverse.cpu())


def reset_as_conv(weight: Tensor, bias: Tensor | None) -> None:
    """Draws weight and bias as `nn.Conv1d` does."""
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)
