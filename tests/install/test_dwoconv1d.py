"""`pip install packages/dwoconv1d` beside torch."""

from beside_torch import *  # noqa: F403
