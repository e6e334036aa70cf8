"""`pip install packages/smpconv` beside torch."""

from beside_torch import *  # noqa: F403
