"""Real data sets and the loaders that feed them, every random choice a function of (seed, epoch, step)."""

from leanconv.data.catalogue import SETS
from leanconv.data.dense import DenseData
from leanconv.data.detection import DetectionData
from leanconv.data.entries import DataSet, DenseSet, DetectionSet, SeriesSet, default_root
from leanconv.data.loaders import Augment
from leanconv.data.objects import Objects
from leanconv.data.scenes import IGNORED, Scenes
from leanconv.data.sequences import Pixels, Series, SeriesData
from leanconv.data.sets import check, load
from leanconv.data.sources import DataNotFound
from leanconv.data.splits import Data, Split, VisionData

__all__ = [
    "IGNORED",
    "SETS",
    "Augment",
    "Data",
    "DataNotFound",
    "DataSet",
    "DenseData",
    "DenseSet",
    "DetectionData",
    "DetectionSet",
    "Objects",
    "Pixels",
    "Scenes",
    "Series",
    "SeriesData",
    "SeriesSet",
    "Split",
    "VisionData",
    "check",
    "default_root",
    "load",
]
