"""Real data sets and the loaders that feed them, every random choice a function of (seed, epoch, step)."""

from leanconv.data.loaders import Augment
from leanconv.data.sets import SETS, DataSet, Split, VisionData, check, default_root, load
from leanconv.data.sources import DataNotFound

__all__ = ["SETS", "Augment", "DataNotFound", "DataSet", "Split", "VisionData", "check", "default_root", "load"]
