"""Networks of dense prediction over any backbone that timm knows; importing this package registers them with timm."""

from leanconv.networks.backbones import Features, features
from leanconv.networks.cascade import CascadeHeads
from leanconv.networks.detector import CascadeMaskRCNN, cascade_mask_rcnn
from leanconv.networks.upernet import UPerNet, upernet

__all__ = ["CascadeHeads", "CascadeMaskRCNN", "Features", "UPerNet", "cascade_mask_rcnn", "features", "upernet"]
