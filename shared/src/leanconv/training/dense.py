"""Dense prediction: from what a network says of an image to its logits and losses, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from leanconv.data import IGNORED
from leanconv.training.recipe import Recipe

# Networks give logits (N, classes, H, W), or as torchvision's do {"out": such, "aux": such of an auxiliary head}; where
# they are smaller than the mask they are enlarged to it.
Output = Tensor | Mapping[str, Tensor]


def logits(output: Output, size: tuple[int, ...]) -> Tensor:
    """The main output in float32, as large as the mask (H, W)."""
    return _enlarged(output["out"] if isinstance(output, Mapping) else output, size)


def averaged(network: Callable[[Tensor], Output], views: Sequence[Tensor], size: tuple[int, ...], flip: bool) -> Tensor:
    """Probabilities (N, classes, H, W), the mean over what a network says of views of an image, mirrored ones too.

    Each view (N, C, h, w) may be of another size; `size` is that of the mask.
    """
    total: Tensor | float = 0.0
    for view in views:
        total = total + logits(network(view), size).softmax(1)
        if flip:
            total = total + logits(network(view.flip(-1)), size).flip(-1).softmax(1)
    assert isinstance(total, Tensor), "there must be a view"
    return total / (len(views) * (1 + flip))


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0, count: Tensor | None = None) -> Tensor:
    """Mean over the pixels whose label counts, or their sum over another `count`; 0 where there are none."""
    count = (target != IGNORED).sum().clamp_min(1) if count is None else count
    # Summed here: on CUDA torch's own sum over masks depends on the order that threads come in.
    each = F.cross_entropy(logits, target, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="none")
    return each.sum() / count


def criterion(recipe: Recipe) -> Callable[[Output, Tensor], Tensor]:
    """Loss of what the network says against masks (N, H, W), with that of its auxiliary head where it has one.

    It is a mean over the pixels of all processes, as many as count in each: every process must ask for it. (That of
    mmsegmentation, unless told otherwise, is over all pixels of each process, those that do not count included, so that
    images with many of them weigh less.)
    """

    def loss(output: Output, target: Tensor) -> Tensor:
        size, count = target.shape[-2:], _mean_count(target)
        found = cross_entropy(logits(output, size), target, recipe.label_smoothing, count)
        # At a weight of 0, too: DistributedDataParallel waits for the gradient of all that has computed.
        if isinstance(output, Mapping) and "aux" in output:
            auxiliary = cross_entropy(_enlarged(output["aux"], size), target, recipe.label_smoothing, count)
            found = found + recipe.aux_loss * auxiliary
        return found

    return loss


def _mean_count(target: Tensor) -> Tensor:
    """Pixels whose label counts, the mean over processes: what they find is averaged."""
    count = (target != IGNORED).sum()
    if not dist.is_initialized():
        return count.clamp_min(1)
    dist.all_reduce(count)
    return count.clamp_min(1) / dist.get_world_size()


def _enlarged(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    logits = logits.float()
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
