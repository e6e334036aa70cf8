"""Which images make up each step, for every process, and the seeds of what happens to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Place:
    device: torch.device
    memory_format: torch.memory_format

    def put(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        return images, labels.to(self.device, non_blocking=True)


class Order:
    """Which examples make up the global batch of each step, and which part of it is this rank's."""

    def __init__(self, count: int, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size={world_size}), got {rank}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size counts all ranks: {batch_size} is not a positive multiple of world_size={world_size}"
            )
        if batch_size > count:
            raise ValueError(f"batch_size={batch_size} exceeds the {count} training examples")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.share = slice(batch_size // world_size * rank, batch_size // world_size * (rank + 1))

    def __len__(self) -> int:
        return self.count // self.batch_size

    def steps(self, epoch: int, start_step: int) -> Iterator[tuple[int, Tensor]]:
        """Pairs of step and global batch, as indices (batch_size,)."""
        if not 0 <= start_step <= len(self):
            raise ValueError(f"start_step must lie in [0, {len(self)}], got {start_step}")
        permutation = torch.randperm(self.count, generator=generator(self.seed, epoch))
        for step in range(start_step, len(self)):
            yield step, permutation[step * self.batch_size : (step + 1) * self.batch_size]


class Shares(Sampler[list[tuple[int, int]]]):
    """The test images of one rank, in batches: contiguous shares whose lengths differ by at most one."""

    def __init__(self, count: int, batch_size: int, rank: int, world_size: int) -> None:
        self.indices = range(count * rank // world_size, count * (rank + 1) // world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[first : first + self.batch_size]]


def stream(*keys: int) -> int:
    """A seed that differs for every tuple of keys (numpy's SeedSequence mixes them)."""
    return int(np.random.SeedSequence([key % 2**64 for key in keys]).generate_state(1, np.uint64)[0])


def generator(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream(*keys))
