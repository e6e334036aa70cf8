"""One-dimensional path convolution: images read along space-filling paths, so that 1D operations suffice.

"One-dimensional Path Convolution", Xuanshu Luo and Martin Werner, ICML 2025. The ops are `torch.ops.pathconv`. Networks
need the extra `pathconv[models]` and `import pathconv.models`, some searches `pathconv[search]`, drawings
`pathconv[plot]`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import functional, modules, ops, paths, reference, search
from .functional import PathTables, depthwise_conv1d, path_tables, traverse, traverse_conv1d, untraverse
from .modules import DepthwiseConv1d, PathAwareECA, PathConvBlock, Traverse, TraverseConv1d
from .paths import PathConfig, PathSet, preset, preset_set

__version__ = "0.1.0"
__all__ = [
    "DepthwiseConv1d",
    "PathAwareECA",
    "PathConfig",
    "PathConvBlock",
    "PathSet",
    "PathTables",
    "Traverse",
    "TraverseConv1d",
    "backend_info",
    "depthwise_conv1d",
    "functional",
    "modules",
    "path_tables",
    "paths",
    "preset",
    "preset_set",
    "reference",
    "search",
    "traverse",
    "traverse_conv1d",
    "untraverse",
    "use_backend",
]


def use_backend(name: str) -> AbstractContextManager[None]:
    """Chooses what runs the ops, for the whole process: "auto", "native", "cupy" or "reference".

    A call sets it; in a `with` statement the choice ends with the statement. `PATHCONV_BACKEND` in the environment
    sets it at import. "auto" is native, else CuPy on CUDA, else the reference in plain torch, which says once why it
    had to run. "cupy" concerns CUDA tensors alone.

    Raises:
        ValueError: unknown name.
        RuntimeError: that backend is not available; the message says why.

    Example:
        >>> with use_backend("reference"):
        ...     y = traverse(torch.randn(1, 3, 32, 32), "g")
    """
    return ops.backends.use(name)


def backend_info() -> dict[str, object]:
    """What can run the ops here, what runs them now, and why the rest is missing; `python -m pathconv` prints it."""
    return ops.backends.info()
