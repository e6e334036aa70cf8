"""leanconv: the shared core that loads data, trains, measures and reports for the five convolution packages.

Parts are imported where they are used (``from leanconv import data``); ``leanconv`` alone loads nothing heavy.
"""

__version__ = "0.1.0"
