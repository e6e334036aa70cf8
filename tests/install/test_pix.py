"""`pip install packages/pix` beside torch."""

from beside_torch import *  # noqa: F403
