"""The CUDA kernels of `csrc/cuda`, compiled by CuPy at first use: for a GPU beside which there is no nvcc.

The functions have the ops' signatures. What C++ says of the structs of parameters, of plans and of launches, the
modules here say again in Python; a test compares the two. Importing this package needs torch alone.
"""

from __future__ import annotations

from .gates import pix, pix_backward
from .maps import pick_or_mix, pick_or_mix_backward

__all__ = ["pick_or_mix", "pick_or_mix_backward", "pix", "pix_backward"]
