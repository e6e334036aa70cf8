"""Pick-or-Mix (PiX): dynamic channel sampling in place of 1x1 squeezing.

"Pick-or-Mix: Dynamic Channel Sampling for ConvNets", Ashish Kumar, Daneul Kim, Jaesik Park and Laxmidhar Behera, CVPR
2024. The ops are `torch.ops.pix`; networks need the extra `pix[models]` and `import pix.models`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import functional, modules, ops, reference, statistics
from ._common.convert import ConvertReport
from .convert import convert
from .functional import pick_or_mix
from .modules import PiX
from .statistics import pick_share

__version__ = "0.1.0"
__all__ = [
    "ConvertReport",
    "PiX",
    "backend_info",
    "convert",
    "functional",
    "modules",
    "ops",
    "pick_or_mix",
    "pick_share",
    "reference",
    "statistics",
    "use_backend",
]


def use_backend(name: str) -> AbstractContextManager[None]:
    """Chooses what runs the ops, for the whole process: "auto", "native", "cupy" or "reference".

    A call sets it; in a `with` statement the choice ends with the statement. `PIX_BACKEND` in the environment sets it
    at import. "auto" is native, else CuPy on CUDA, else the reference in plain torch, which says once why it had to
    run. "cupy" concerns CUDA tensors alone.

    Raises:
        ValueError: unknown name.
        RuntimeError: that backend is not available; the message says why.

    Example:
        >>> with use_backend("reference"):
        ...     y = PiX(64, 4)(torch.randn(1, 64, 14, 14))
    """
    return ops.backends.use(name)


def backend_info() -> dict[str, object]:
    """What can run the ops here, what runs them now, and why the rest is missing; `python -m pix` prints it."""
    return ops.backends.info()
