"""`pip install packages/pathconv` beside torch."""

from beside_torch import *  # noqa: F403
