"""The CUDA kernels of `csrc/cuda`, compiled by CuPy at first use: for a GPU beside which there is no nvcc.

The functions have the ops' signatures. What C++ says of the structs of parameters, of plans and of launches, the
modules here say again in Python; a test compares the two. Importing this package needs torch alone.
"""

from __future__ import annotations

from .depthwise import depthwise_conv2d, depthwise_conv2d_grad_input, depthwise_conv2d_grad_weight
from .points import rasterize, rasterize_backward

__all__ = [
    "depthwise_conv2d",
    "depthwise_conv2d_grad_input",
    "depthwise_conv2d_grad_weight",
    "rasterize",
    "rasterize_backward",
]
