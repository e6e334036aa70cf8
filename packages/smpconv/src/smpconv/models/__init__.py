"""The networks of "SMPConv: Self-moving Point Representations for Continuous Convolution" (CVPR 2023).

Importing this module registers `smp_tiny`, `smp_base`, `smp_resnet` and, for sequences, `smp_tcn` with timm. It needs
timm: `pip install smpconv[models]`.

Example:
    >>> import timm, smpconv.models
    >>> model = timm.create_model("smp_tiny", num_classes=10)
    >>> backbone = timm.create_model("smp_tiny", features_only=True)
    >>> net = smpconv.models.smp_tcn(**smpconv.models.TASKS["smnist"])
"""

from __future__ import annotations

try:
    import timm as _timm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise ModuleNotFoundError(
        "smpconv.models needs timm, which is not installed: run `pip install smpconv[models]`", name="timm"
    ) from None

from .network import SMPNet
from .resnet import SMPResNet
from .smp import smp_base, smp_resnet, smp_tcn, smp_tiny
from .tcn import SMPTCN, TASKS

__all__ = ["SMPTCN", "TASKS", "SMPNet", "SMPResNet", "smp_base", "smp_resnet", "smp_tcn", "smp_tiny"]
