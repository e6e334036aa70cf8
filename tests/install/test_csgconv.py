"""`pip install packages/csgconv` beside torch."""

from beside_torch import *  # noqa: F403
