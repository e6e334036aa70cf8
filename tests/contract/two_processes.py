"""What the processes of `test_ddp.py` run: a module of its own, since they import it by name."""

from __future__ import annotations

import datetime
import gc

import torch
import torch.distributed as dist
from contract import Op, discover
from torch.nn.parallel import DistributedDataParallel

STEPS = 3


def train(net: torch.nn.Module, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    return {name.removeprefix("module."): value for name, value in net.state_dict().items()}


def start(op: Op) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    return op.module(), [op.module_input(4) for _ in range(STEPS)]


def work(rank: int, folder: str) -> None:
    """Train every op's module, one after another: to start processes takes longer."""
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(minutes=2))
    for op in discover():
        module, batches = start(op)
        if rank == 1:  # DDP hands out what rank 0 has, buffers too
            for tensor in module.state_dict().values():
                tensor.add_(1)
        state = train(DistributedDataParallel(module), [batch[2 * rank : 2 * rank + 2] for batch in batches])
        torch.save(state, f"{folder}/{op}-{rank}.pt")
    gc.collect()  # DDP lies in a cycle and holds the group, whose threads abort the process if they outlive Python
    dist.destroy_process_group()
