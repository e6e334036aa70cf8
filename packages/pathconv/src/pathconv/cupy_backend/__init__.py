"""The CUDA kernels of `csrc/cuda`, compiled by CuPy at first use: for a GPU beside which there is no nvcc.

The functions have the ops' signatures. What C++ says of the structs of parameters, of plans and of launches, the
modules here say again in Python; a test compares the two. Importing this package needs torch alone.
"""

from __future__ import annotations

from .depthwise import depthwise_conv1d, depthwise_conv1d_grad_input, depthwise_conv1d_grad_weight
from .traversal import (
    traverse,
    traverse_adjoint,
    traverse_conv1d,
    traverse_conv1d_grad_input,
    traverse_conv1d_grad_weight,
)

__all__ = [
    "depthwise_conv1d",
    "depthwise_conv1d_grad_input",
    "depthwise_conv1d_grad_weight",
    "traverse",
    "traverse_adjoint",
    "traverse_conv1d",
    "traverse_conv1d_grad_input",
    "traverse_conv1d_grad_weight",
]
