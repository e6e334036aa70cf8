"""Networks of dense prediction over any backbone that timm knows; importing this package registers them with timm."""

from leanconv.networks.backbones import Features, features

__all__ = ["Features", "features"]
