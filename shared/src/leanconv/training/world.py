"""Where this process runs: rank, world size and device, alone or under torchrun."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from leanconv.training.recipe import ConfigError


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True everywhere if ``flag`` is true anywhere."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())

    def extremes(self, number: int) -> tuple[int, int]:
        """Smallest and largest of the processes' numbers."""
        if self.size == 1:
            return number, number
        largest = torch.tensor([-number, number], device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return -int(largest[0]), int(largest[1])

    def mean(self, value: torch.Tensor) -> float:
        """Mean of a scalar over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value.item() / self.size

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the main one's values: each has its own running statistics of batch norms."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def same(self, text: str) -> str:
        """The main process's text."""
        texts = [text]
        if self.size > 1:
            dist.broadcast_object_list(texts, device=self.device)
        return texts[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: str | torch.device | None = None) -> Iterator[World]:
    """Join the processes torchrun started (gloo on CPU, nccl on CUDA); alone, just pick the device.

    A process group that exists already is used and left alone.

    Raises:
        ConfigError: there is no such device here.
    """
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    else:
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = _present(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    ours = size > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
    finally:
        if ours:
            gc.collect()  # DDP lies in a cycle and holds the group, whose threads abort a process that ends before them
            dist.destroy_process_group()


def _present(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be cpu, cuda, cuda:1, ..., but it is {device!r}") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device is {device}, but torch sees no GPU here: leave it out, or take cpu")
        last = torch.cuda.device_count() - 1
        if (found.index or 0) > last:
            raise ConfigError(f"device is {device}, but the last GPU that torch sees here is cuda:{last}")
    return found


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into ``.asked``, so that a step can finish; a second one acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *error: object) -> None:
        self._restore()
