"""Two processes with gloo, half the batch each, must learn what one process learns from the whole batch."""

from __future__ import annotations

import pytest
import torch
from two_processes import start, train, work


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of what every op's module has learned in each process."""
    folder = tmp_path_factory.mktemp("learned")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return folder


def test_two_processes_learn_what_one_learns(op, learned):
    wanted = train(*start(op))
    for rank in (0, 1):
        state = torch.load(learned / f"{op}-{rank}.pt", weights_only=True)
        torch.testing.assert_close(state, wanted)
