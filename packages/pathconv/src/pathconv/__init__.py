"""One-dimensional path convolution: images read along space-filling paths, so that 1D operations suffice.

"One-dimensional Path Convolution", Xuanshu Luo and Martin Werner, ICML 2025. The ops are `torch.ops.pathconv`; networks
need the extra `pathconv[models]` and `import pathconv.models`, the searches `pathconv[search]`, drawings
`pathconv[plot]`.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__: list[str] = []
