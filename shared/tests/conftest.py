"""What the tests of training share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from leanconv.training import Recipe

sys.path.insert(0, str(Path(__file__).parent))  # for this folder's helpers, whatever way pytest imports


@pytest.fixture(scope="session")
def small() -> Recipe:
    """Ten steps per epoch; 10 images are left over."""
    return Recipe(
        model="convnext_tiny_1d",
        model_kwargs={"depths": (1, 1), "dims": (8, 16), "patch_size": 4, "kernel_sizes": (5, 3), "stem_width": 8,
                      "stem_kernel_size": 5, "layer_scale_init_value": 0.5},
        data="fashion_mnist",
        smoke=True,
        train_images=330,
        test_images=101,
        epochs=4,
        batch_size=32,
        lr=2e-3,
        log_every=1,
        workers=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one_thread():
    """A sum over threads may depend on their number, and child processes have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
