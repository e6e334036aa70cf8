"""SMPConv: continuous convolution kernels from moving points, and large depthwise convolutions.

"SMPConv: Self-moving Point Representations for Continuous Convolution", Sanghyeon Kim and Eunbyung Park, CVPR 2023.
The ops are `torch.ops.smpconv`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import functional, modules, ops, points, reference
from ._common.convert import ConvertReport
from .branches import SMPBranches, fuse
from .convert import convert
from .fitting import fit_points
from .functional import causal_conv1d_long, conv2d_long, depthwise_conv2d, diagnose, rasterize
from .irregular import irregular_conv1d
from .modules import SMPConv1d, SMPConv2d, SMPDepthwiseConv2d
from .points import clip_radii_, param_groups

__version__ = "0.1.0"
__all__ = [
    "ConvertReport",
    "SMPBranches",
    "SMPConv1d",
    "SMPConv2d",
    "SMPDepthwiseConv2d",
    "backend_info",
    "causal_conv1d_long",
    "clip_radii_",
    "conv2d_long",
    "convert",
    "depthwise_conv2d",
    "diagnose",
    "fit_points",
    "functional",
    "fuse",
    "irregular_conv1d",
    "modules",
    "ops",
    "param_groups",
    "points",
    "rasterize",
    "reference",
    "use_backend",
]


def use_backend(name: str) -> AbstractContextManager[None]:
    """Chooses what runs the ops, for the whole process: "auto", "native", "cupy" or "reference".

    A call sets it; in a `with` statement the choice ends with the statement. `SMPCONV_BACKEND` in the environment sets
    it at import. "auto" is native, else CuPy on CUDA, else the reference in plain torch, which says once why it had to
    run. "cupy" concerns CUDA tensors alone.

    Raises:
        ValueError: unknown name.
        RuntimeError: that backend is not available; the message says why.

    Example:
        >>> with use_backend("reference"):
        ...     y = SMPDepthwiseConv2d(8, 31)(torch.randn(1, 8, 14, 14))
    """
    return ops.backends.use(name)


def backend_info() -> dict[str, object]:
    """What can run the ops here, what runs them now, and why the rest is missing; `python -m smpconv` prints it."""
    return ops.backends.info()
