"""Real data sets and the loaders that feed them, every random choice a function of (seed, epoch, step)."""

from leanconv.data.loaders import Augment
from leanconv.data.sequences import Pixels, Series, SeriesData
from leanconv.data.sets import SETS, DataSet, SeriesSet, check, default_root, load
from leanconv.data.sources import DataNotFound
from leanconv.data.splits import Data, Split, VisionData

__all__ = [
    "SETS",
    "Augment",
    "Data",
    "DataNotFound",
    "DataSet",
    "Pixels",
    "Series",
    "SeriesData",
    "SeriesSet",
    "Split",
    "VisionData",
    "check",
    "default_root",
    "load",
]
