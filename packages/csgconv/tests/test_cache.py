"""Kernels are made once a step, kept without gradients, and never old."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from four_layers import X, anew, close, network
from torch import nn
from torch.utils.checkpoint import checkpoint


def test_a_step_makes_all_kernels_once(made):
    net = network()
    for count in (1, 2, 3):
        close(net(X), anew(net))
        assert len(made) == count
    wanted = torch.autograd.grad(anew(net).sin().sum(), list(net.parameters()))
    close(torch.autograd.grad(net(X).sin().sum(), list(net.parameters())), wanted)


def test_evaluation_makes_none_the_second_time(made):
    net = network().eval()
    with torch.no_grad():
        first = net(X)
        assert torch.equal(net(X), first) and torch.equal(net(X), first)
        close(first, anew(net))
    assert len(made) == 1
    net.requires_grad_(False)
    net(X)
    assert len(made) == 1


def _set_data(generator):
    generator.weight.data = generator.weight.data + 1


CHANGES = {
    "an optimizer's step": lambda generator: generator.weight.add_(1),
    "a write through .data": lambda generator: generator.codes.data.mul_(2),
    "a write to one number through .data": lambda generator: generator.weight.data.view(-1)[7:8].add_(1),
    "other data": _set_data,
    "another parameter": lambda generator: setattr(generator, "codes", nn.Parameter(generator.codes + 1)),
    "a bias": lambda generator: generator.bias.data.fill_(3),
    "load_state_dict": lambda generator: generator.load_state_dict(
        {n: t + 1 for n, t in generator.state_dict().items()}
    ),
    "reset_parameters": lambda generator: generator.reset_parameters(),
    "a write to a kernel": lambda generator: generator.kernel(1).zero_(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_kernels_are_never_old(change):
    net = network(bias=True).eval()
    with torch.no_grad():
        before = net(X)
        CHANGES[change](net[0].generator)
        after = net(X)
        close(after, anew(net))
    assert torch.equal(after, before) == (change == "a write to a kernel")


def test_codes_that_the_checksum_cannot_read_make_kernels_that_are_not_kept(made):
    net = network().eval()
    net[0].generator.to(torch.float8_e4m3fn)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(X), net(X))
    assert made == [] and net[0].generator._resting is None


def test_training_between_evaluations(made):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        net.train()(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            close(net.eval()(X), anew(net))
    assert len(made) == 4


@pytest.mark.parametrize("call", ["train", "eval", "invalidate", "to"])
def test_what_forgets_kept_kernels(call, made):
    net = network()
    with torch.no_grad():
        net(X)
        target = net[0].generator if call == "invalidate" else net
        getattr(target, call)(*(["cpu"] if call == "to" else []))
        net(X)
    assert len(made) == 2
    assert net.double()[1].weight.dtype == torch.float64


def test_autocast_and_back(made):
    net = network().eval()
    with torch.no_grad():
        wanted = net(X)
        with torch.autocast("cpu", torch.bfloat16):
            assert net(X).dtype == torch.bfloat16
        assert torch.equal(net(X), wanted)
    assert made == [torch.float32, torch.bfloat16, torch.float32]


def test_inference_mode_leaves_kernels_that_can_be_trained_on():
    net = network().eval()
    with torch.inference_mode():
        wanted = net(X)
    net.requires_grad_(False)
    x = X.clone().requires_grad_()
    assert torch.equal(net(x), wanted)
    net(x).sum().backward()
    with torch.inference_mode():  # a network made here has no versions to look at
        inner = network()
        close(inner(X), anew(inner))


def test_two_forward_passes_then_two_backward_passes(made):
    net = network()
    parameters = list(net.parameters())
    first, second = net(X), net(2 * X)
    grads = [torch.autograd.grad(out.sin().sum(), parameters) for out in (second, first)]
    assert len(made) == 2
    close(grads[0], torch.autograd.grad(anew(net, 2 * X).sin().sum(), parameters))
    close(grads[1], torch.autograd.grad(anew(net).sin().sum(), parameters))


def test_partial_backward_passes_and_parts_of_a_network():
    net = network()
    parameters = [net[0].generator.weight, net[0].generator.codes]
    middle = net[:2](X)
    losses = [middle.square().sum(), net[2:](middle.detach()).square().sum()]
    other = anew(net[:2])
    wanted = [other.square().sum(), anew(net[2:], other.detach()).square().sum()]
    for loss, target in zip(losses, wanted):
        close(torch.autograd.grad(loss, parameters), torch.autograd.grad(target, parameters))


@pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradient_checkpointing(reentrant, parts, made):
    net = network()
    wanted = torch.autograd.grad(anew(net).sin().sum(), list(net.parameters()))
    for _ in range(2):
        made.clear()
        net.zero_grad()
        x = X.clone().requires_grad_()
        for part in range(0, 4, 4 // parts):
            x = checkpoint(net[part : part + 4 // parts], x, use_reentrant=reentrant)
        x.sin().sum().backward()
        close([parameter.grad for parameter in net.parameters()], list(wanted))
        assert len(made) <= 2


def test_parameters_changed_before_the_backward_pass_are_noticed():
    net = network()
    out = net(X).sum()
    with torch.no_grad():
        net[0].generator.codes.add_(1)
    with pytest.raises(RuntimeError, match="changed between the forward pass and its backward pass"):
        out.backward()


def test_freezing_in_between_makes_new_kernels():
    net = network()
    net[0](X)
    net[0].generator.codes.requires_grad_(False)
    assert net(X).requires_grad
    net[0].generator.weight.requires_grad_(False)
    assert not net[1].weight.requires_grad


def test_nothing_is_kept_after_a_backward_pass_nor_copied():
    net = network()
    out = net(X)
    kernel = weakref.ref(net[0].generator._learning)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other[0].generator._learning is None and other[0].generator._resting is None
    out.sum().backward()
    del out
    gc.collect()
    assert kernel() is None
