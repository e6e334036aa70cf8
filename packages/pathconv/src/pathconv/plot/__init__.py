"""Drawings of paths: the paper's figures 2, 3, 4, 6, 8 and 9, for any path. Needs the extra `pathconv[plot]`.

Row 0 is on top, as in the image; the authors' figures have it at the bottom.
"""

from __future__ import annotations

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError('drawing needs matplotlib: pip install "pathconv[plot]".') from error

from .animation import animate
from .drawing import SHOWS, draw

__all__ = ["SHOWS", "animate", "draw"]
