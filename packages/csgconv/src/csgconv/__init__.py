"""Associative convolutions (CSG): one small generator writes every kernel of a network.

"Associative Convolutional Layers", Hamed Omidvar, Vahideh Akhlaghi, Hao Su, Massimo Franceschetti and Rajesh Gupta,
AISTATS 2021. The ops are `torch.ops.csgconv`; networks need the extra `csgconv[models]` and `import csgconv.models`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from . import functional, layouts, modules, ops, reference
from ._common.convert import ConvertReport
from .compact import CompactReport, load_compact, save_compact
from .convert import convert
from .export import DeadCodes, dead_codes, export
from .functional import generate
from .generator import SliceGenerator
from .groups import param_groups
from .modules import CSGConv2d, generators
from .reuse import load_generator

__version__ = "0.1.0"
__all__ = [
    "CSGConv2d",
    "CompactReport",
    "ConvertReport",
    "DeadCodes",
    "SliceGenerator",
    "backend_info",
    "convert",
    "dead_codes",
    "export",
    "functional",
    "generate",
    "generators",
    "layouts",
    "load_compact",
    "load_generator",
    "modules",
    "ops",
    "param_groups",
    "reference",
    "save_compact",
    "use_backend",
]


def use_backend(name: str) -> AbstractContextManager[None]:
    """Chooses what runs the ops, for the whole process: "auto", "native", "cupy" or "reference".

    A call sets it; in a `with` statement the choice ends with the statement. `CSGCONV_BACKEND` in the environment sets
    it at import. "auto" is native, else CuPy on CUDA, else the reference in plain torch, which says once why it had to
    run. "cupy" concerns CUDA tensors alone.

    Raises:
        ValueError: unknown name.
        RuntimeError: that backend is not available; the message says why.

    Example:
        >>> with use_backend("reference"):
        ...     kernels = SliceGenerator(72, (12, 12, 3, 3)).kernels()
    """
    return ops.backends.use(name)


def backend_info() -> dict[str, object]:
    """What can run the ops here, what runs them now, and why the rest is missing; `python -m csgconv` prints it."""
    return ops.backends.info()
