# edit in shared/common/python/autograd.py
"""Makes an op differentiable wherever torch may ask: plain autograd, `torch.func`, `vmap` and autocast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What `register` makes of each op: for plain autograd, and for torch.func.
_functions: dict[object, tuple[type[torch.autograd.Function], type[torch.autograd.Function]]] = {}


def call(op, *args):
    """Calls an op, as an `autograd.Function` where torch runs it at once.

    The autograd that torch registers for an op raises a riddle under torch.func.grad, drops tangents of forward mode
    without a word, and its Python takes longer than a small op. It serves compiler and tracer, which see the op.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return op(*args)
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return _functions[op][1].apply(*args)
    if torch.is_grad_enabled() and any(map(_is_tracked, args)):
        return _functions[op][0].apply(*args)
    return _without_autograd(op, *args)


def _is_tracked(arg) -> bool:
    return isinstance(arg, Tensor) and arg.requires_grad and not arg.is_inference()


def _without_autograd(op, *args):
    with torch._C._AutoDispatchBelowAutograd():
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

    def forward(ctx, *args):
        output = _without_autograd(op, *args)
        setup(ctx, args, output)
        return output

    torch.library.register_autograd(op, backward, setup_context=setup)
    torch.library.register_vmap(op, vmap)
    plain = {"forward": forward, "backward": backward}
    transformed = {
        "forward": lambda *args: op(*args),
        "setup_context": setup,
        "backward": backward,
        "vmap": vmap,
        "jvp": refuse,
    }
    _functions[op] = _function(op, plain), _function(op, transformed)


def _function(op, methods: dict[str, Callable]) -> type[torch.autograd.Function]:
    name, statics = op.name().rpartition(":")[2], {key: staticmethod(value) for key, value in methods.items()}
    return type(name, (torch.autograd.Function,), statics)


def autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments of an op in autocast's dtype where autocast is on, as for `conv2d`; float64 stays float64."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):  # there is no autocast for meta tensors to ask about
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor) -> Tensor:
        return t if t.dtype == torch.float64 else t.to(dtype)

    return cast(x), cast(weight), None if bias is None else cast(bias)
