# edit in shared/common/python/autograd.py
"""Makes an op differentiable wherever torch may ask: plain autograd, `torch.func`, `vmap` and autocast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functions: dict[object, type[torch.autograd.Function]] = {}  # the ops for torch.func, filled by `register`


def call(op, *args):
    """Calls an op, under torch.func and forward mode as an `autograd.Function`.

    The autograd that torch registers for an op knows neither: it raises a riddle under torch.func.grad and drops
    tangents of forward mode without a word. An `autograd.Function` serves the first and refuses the second.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return _functions[op].apply(*args)
    if not (torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)):
        with torch._C._AutoDispatchBelowAutograd():  # whose Python would take longer than a small op
            return op(*args)
    return op(*args)


def register(op, setup: Callable, backward: Callable, vmap: Callable) -> None:
    """Gives `op` its gradients and its rule for `vmap`; forward mode is refused in one sentence.

    Args:
        op: an overload, such as `torch.ops.package.op.default`.
        setup: `setup(ctx, inputs, output)` keeps what the backward pass reads.
        backward: `backward(ctx, *grads)` returns one gradient per input, computed through `call`.
        vmap: `vmap(info, in_dims, *args)` returns the result and its mapped dimension.
    """

    def refuse(ctx, *tangents):
        raise NotImplementedError(
            f"{op.namespace} has no forward-mode derivative: use reverse mode, such as torch.func.vjp or jacrev."
        )

    torch.library.register_autograd(op, backward, setup_context=setup)
    torch.library.register_vmap(op, vmap)
    methods = {
        "forward": staticmethod(lambda *args: op(*args)),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
        "vmap": staticmethod(vmap),
        "jvp": staticmethod(refuse),
    }
    _functions[op] = type(op.name().rpartition(":")[2], (torch.autograd.Function,), methods)


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of an op in autocast's dtype where autocast is on, as for `conv2d`; float64 stays float64."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # there is no autocast for meta tensors to ask about
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor) -> Tensor:
        return t if t.dtype == torch.float64 else t.to(dtype)

    return cast(x), cast(weight), None if bias is None else cast(bias)
