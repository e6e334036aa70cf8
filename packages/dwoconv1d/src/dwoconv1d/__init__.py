"""Oriented 1D depthwise convolution: lines of any direction at the cost of a row.

"Convolutional Networks with Oriented 1D Kernels", Alexandre Kirchmeyer and Jia Deng, ICCV 2023. The op is
`torch.ops.dwoconv1d.oriented_conv1d`; networks need the extra `dwoconv1d[models]` and `import dwoconv1d.models`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import functional, modules, ops, reference
from ._common.convert import ConvertReport
from .convert import convert
from .functional import assign_angles, oriented_conv1d, oriented_conv1d_at, rasterize, tap_offsets
from .modules import OrientedConv1d

__version__ = "0.1.0"
__all__ = [
    "ConvertReport",
    "OrientedConv1d",
    "assign_angles",
    "backend_info",
    "convert",
    "functional",
    "modules",
    "oriented_conv1d",
    "oriented_conv1d_at",
    "rasterize",
    "reference",
    "tap_offsets",
    "use_backend",
]


def use_backend(name: str) -> AbstractContextManager[None]:
    """Chooses what runs the op, for the whole process: "auto", "native", "cupy" or "reference".

    A call sets it; in a `with` statement the choice ends with the statement. `DWOCONV1D_BACKEND` in the environment
    sets it at import. "auto" is native, else CuPy on CUDA, else the reference in plain torch, which says once why it
    had to run. "cupy" concerns CUDA tensors alone.

    Raises:
        ValueError: unknown name.
        RuntimeError: that backend is not available; the message says why.

    Example:
        >>> with use_backend("reference"):
        ...     y = OrientedConv1d(8, 7)(torch.randn(1, 8, 14, 14))
    """
    return ops.backends.use(name)


def backend_info() -> dict[str, object]:
    """What can run the op here, what runs it now, and why the rest is missing; `python -m dwoconv1d` prints it."""
    return ops.backends.info()
