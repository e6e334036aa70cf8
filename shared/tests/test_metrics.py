"""The meters against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from leanconv.metrics import Accuracy, ConfusionMatrix, Mean

LOGITS = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.3, 0.5], [0.1, 0.2, 0.7], [0.4, 0.5, 0.6]])
LABELS = torch.tensor([1, 1, 2, 1])  # right, third, right, second


def test_accuracy_counts_over_batches():
    accuracy = Accuracy(topk=(1, 2, 3, 5))
    accuracy.update(LOGITS[:3], LABELS[:3])
    accuracy.update(LOGITS[3:], LABELS[3:])
    assert accuracy.compute() == {"top1": 0.5, "top2": 0.75, "top3": 1.0}  # there are no five classes


def test_accuracy_counts_nan_as_wrong():
    accuracy = Accuracy(topk=(1,))
    accuracy.update(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))
    assert accuracy.compute() == {"top1": 0.0}


def test_mean_weighs_by_count_and_is_exact_where_float32_is_not():
    mean = Mean()
    mean.update(torch.tensor(2.0, requires_grad=True), 3)
    mean.update(6.0)
    assert mean.compute() == 3.0
    large = Mean()
    large.update(1.0, 2**25)
    large.update(0.0)
    assert large.compute() == 2**25 / (2**25 + 1) != 1.0


def test_confusion_matrix_by_hand():
    labels = torch.tensor([[0, 0, 1], [1, 2, 255]])
    predicted = torch.tensor([[0, 1, 1], [1, 2, 0]])
    matrix = ConfusionMatrix(4, ignore_index=255)
    matrix.update(predicted, labels)
    # IoU: class 0 1/2, class 1 2/3, class 2 1/1, class 3 never occurs and does not count.
    assert matrix.compute() == pytest.approx(
        {
            "pixel_accuracy": 4 / 5,
            "miou": (1 / 2 + 2 / 3 + 1) / 3,
            "class_accuracy": (1 / 2 + 1 + 1) / 3,
            "fwiou": (2 * 1 / 2 + 2 * 2 / 3 + 1) / 5,
        }
    )
    logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1).float()
    from_logits = ConfusionMatrix(4, ignore_index=255)
    from_logits.update(logits, labels)
    assert torch.equal(from_logits.counted(), matrix.counted())


def test_confusion_matrix_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\)"):
        ConfusionMatrix(2).update(torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="does not fit"):
        ConfusionMatrix(2).update(torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("meter", [Mean(), Accuracy(), ConfusionMatrix(2)])
def test_an_empty_meter_says_so(meter):
    with pytest.raises(ValueError, match="has seen no data"):
        meter.compute()


def test_sync_adds_up_two_processes(tmp_path):
    program = f"""
import sys, torch, torch.distributed as dist
from leanconv.metrics import Accuracy, Mean
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)
mean, accuracy = Mean(), Accuracy(topk=(1,))
mean.update(float(rank), 1 + rank)  # 0 once, 1 twice
accuracy.update(torch.eye(3)[: 2 - rank], torch.tensor([0, 0])[: 2 - rank])  # 1 of 2, 1 of 1
mean.sync(), accuracy.sync()
print(mean.compute(), accuracy.compute())
dist.destroy_process_group()
"""
    command = [sys.executable, "-c", program]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    for process in ranks:
        out, _ = process.communicate(timeout=120)
        assert out == f"{2 / 3} {{'top1': {2 / 3}}}\n"
