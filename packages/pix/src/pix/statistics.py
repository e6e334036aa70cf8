"""What the layers of a network decide: how often each output channel picks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .modules import PiX
from .reference import float32


def pick_share(model: nn.Module, batches: Tensor | Iterable[Any]) -> dict[str, Tensor]:
    """The share of images for which each output channel of each `PiX` picks.

    Runs the model in evaluation mode and without gradients, on the device of its parameters; its mode is as before
    afterwards. A layer that runs several times per image counts every time.

    Args:
        model: holds layers `PiX`.
        batches: one batch of images, or an iterable, such as a data loader, of batches or of tuples that start with
            one.

    Returns:
        Name of a layer -> (C',) on the CPU: 0 always mixes, 1 always picks, between the image decides. The layer's own
        share is the mean. Layers that did not run are left out.

    Raises:
        TypeError: a batch is neither a tensor nor a tuple that starts with one.
        ValueError: the model has no `PiX`, or there is no batch.

    Example:
        >>> share = pick_share(nn.Sequential(PiX(8, 4)), torch.randn(16, 8, 5, 5))
        >>> share["0"].shape
        torch.Size([2])
    """
    with count_picks(model) as counts, _evaluating(model), torch.no_grad():
        device, empty = next(model.parameters()).device, True
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(images, Tensor):
                raise TypeError(
                    f"batches must yield tensors, or tuples that start with one, but one is a {type(images).__name__}."
                )
            model(images.to(device))
            empty = False
    if empty:
        raise ValueError("batches is empty: pass a tensor of images, or a loader that yields some.")
    return {name: (picked / images).cpu() for name, (picked, images) in counts.items() if images}


@contextlib.contextmanager
def count_picks(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """Counts, while the `with` statement lasts, what the layers of a model decide; costs each of them a second run.

    Yields:
        Name of a layer -> images for which each output channel picked (C',), and images.

    Raises:
        ValueError: the model has no `PiX`.

    Example:
        >>> net = nn.Sequential(PiX(8, 4))
        >>> with count_picks(net) as counts:
        ...     y = net(torch.randn(16, 8, 5, 5))
        >>> counts["0"][1]
        16
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PiX)}
    if not layers:
        raise ValueError("model has no PiX: nothing picks or mixes in it.")
    counts = {name: (torch.zeros(layer.out_channels), 0) for name, layer in layers.items()}

    def counting(name: str) -> Callable:
        def hook(layer: PiX, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            with torch.no_grad():
                p = layer.gates(*args, **kwargs)
            picked, images = counts[name]
            counts[name] = (picked.to(p.device) + (p < float32(layer.tau)).sum(0), images + len(p))

        return hook

    handles = [layer.register_forward_pre_hook(counting(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
