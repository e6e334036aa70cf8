"""Autograd, vmap and fake kernels of `depthwise_conv1d` and its gradients."""

from __future__ import annotations
