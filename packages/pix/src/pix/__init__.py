"""Pick-or-Mix (PiX): dynamic channel sampling in place of 1x1 squeezing.

"Pick-or-Mix: Dynamic Channel Sampling for ConvNets", Ashish Kumar, Daneul Kim, Jaesik Park and Laxmidhar Behera, CVPR
2024. The ops are `torch.ops.pix`; networks need the extra `pix[models]` and `import pix.models`.
"""

from __future__ import annotations

__version__ = "0.1.0"
