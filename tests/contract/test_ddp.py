"""Two processes with gloo, half the batch each, must learn what one process learns from the whole batch."""

from __future__ import annotations

import torch
from contract import discover
from two_processes import start, train, work


def test_two_processes_learn_what_one_learns(op, tmp_path):
    torch.multiprocessing.spawn(work, ([str(other) for other in discover()].index(str(op)), str(tmp_path)), nprocs=2)
    wanted = train(*start(op))
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(state, wanted)
