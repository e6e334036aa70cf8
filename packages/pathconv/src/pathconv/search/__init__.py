"""Sets of shifted paths in which every pixel is nearer to its neighbours than in the raster: section 3.3.

For each pixel one path of the set at least must have D(q) < D_raster(q), and the sum of the paths' distances is to be
least: a weighted set cover over the windows of a curve. `greedy` and `randomized_rounding` are the paper's searches,
`exact` proves that nothing is cheaper or says how much cheaper a set might be.
"""

from __future__ import annotations

from .exact import exact
from .greedy import greedy
from .relaxation import randomized_rounding
from .universe import Universe, candidates

__all__ = ["Universe", "candidates", "exact", "greedy", "randomized_rounding"]
