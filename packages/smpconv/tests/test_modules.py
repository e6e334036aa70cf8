"""The layers: what they draw, keep, clip and resample."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from smpconv import SMPConv1d, SMPConv2d, SMPDepthwiseConv2d, clip_radii_, diagnose, param_groups, reference
from smpconv.points import PointKernel


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


LAYERS = {
    "sequence": (lambda **o: SMPConv1d(2, 3, 15, 4, bias=True, **o), (2, 2, 15)),
    "image": (lambda **o: SMPConv2d(2, 3, (7, 9), 4, bias=True, **o), (2, 2, 8, 7)),
    "depthwise": (lambda **o: SMPDepthwiseConv2d(4, 9, bias=True, **o), (2, 4, 8, 7)),
}
layers = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


def spread(layer: PointKernel) -> PointKernel:
    """Points everywhere, so that all taps are drawn."""
    nn.init.uniform_(layer.coords, -1, 1)
    nn.init.uniform_(layer.radius, 0.3, 0.6)
    nn.init.normal_(layer.weight)
    return layer


@pytest.mark.parametrize("algorithm", ["auto", "direct", "fft"])
@layers
def test_is_its_formula(make, shape, algorithm):
    layer, x = spread(make(algorithm=algorithm, dtype=torch.float64)), torch.randn(shape).double()
    nn.init.normal_(layer.bias)
    kernel = reference.rasterize(
        layer.coords, layer.radius, layer.weight, layer.kernel_size, average=layer.average, flip=x.dim() == 4
    )
    torch.testing.assert_close(layer.kernel(), kernel)
    if x.dim() == 3:
        wanted = F.conv1d(F.pad(x, (14, 0)), kernel, layer.bias)
    else:
        depthwise = isinstance(layer, SMPDepthwiseConv2d)
        margins = tuple(size // 2 for size in layer.kernel_size)
        kernel, groups = (kernel[0][:, None], 4) if depthwise else (kernel, 1)
        wanted = F.conv2d(x, kernel, layer.bias, padding=margins, groups=groups)
    torch.testing.assert_close(layer(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), wanted)


@pytest.mark.parametrize(
    ("layer", "shapes", "numbers"),
    [
        (SMPConv1d(30, 30, 784), {"coords": (30, 30, 1), "radius": (30, 30), "weight": (30, 30, 30)}, 30 * 30 * 32),
        (SMPConv2d(24, 36, 33), {"coords": (36, 16, 2), "radius": (36, 16), "weight": (36, 24, 16)}, 36 * 16 * 27),
        (SMPDepthwiseConv2d(96, 31), {"coords": (1, 240, 2), "radius": (1, 240), "weight": (1, 96, 240)}, 240 * 99),
    ],
)
def test_parameters_are_those_of_the_paper(layer, shapes, numbers):
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == shapes
    assert sum(p.numel() for p in layer.parameters()) == numbers


def test_points_start_as_the_authors_draw_them():
    """1D positions are 1 - 2 |z|: for z of deviation 0.1, mean 0.84042 and deviation 0.12056."""
    coords = SMPConv1d(1, 100, 784, 1000).coords.double()
    assert coords.mean().item() == pytest.approx(0.84042, abs=2e-3)
    assert coords.std().item() == pytest.approx(0.12056, abs=2e-3)
    assert coords.abs().max() <= 1
    layer = SMPDepthwiseConv2d(96, 31)
    assert torch.equal(layer.radius, torch.full((1, 240), 4 / 31))
    assert layer.coords.std().item() == pytest.approx(0.2, rel=0.1)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert SMPConv2d(1, 1, 33).radius[0, 0].item() == pytest.approx(4 / 33)
    assert SMPConv1d(1, 1, 784, radius=0.002).radius[0, 0].item() == pytest.approx(0.002)


def test_clips_radii():
    layer = SMPDepthwiseConv2d(4, 9, 3)
    with torch.no_grad():
        layer.radius.copy_(torch.tensor([[-1.0, 0.5, 9.0]]))
    other = copy.deepcopy(layer)
    layer.clip_radius_()
    assert layer.radius.tolist() == [pytest.approx([1e-3, 0.5, 1.0])]
    clip_radii_(nn.Sequential(nn.ReLU(), other))
    assert torch.equal(other.radius, layer.radius)
    other.clip_radius_(0.6, 0.8)
    assert other.radius.tolist() == [pytest.approx([0.6, 0.6, 0.8])]


# Kernels that are kept.


@layers
def test_a_kernel_is_made_once_in_evaluation(make, shape, monkeypatch):
    layer, x = make().eval(), torch.randn(shape)
    made = []
    monkeypatch.setattr(layer, "kernel", lambda: (made.append(1), type(layer).kernel(layer))[1])
    with torch.no_grad():
        wanted = layer(x)
        assert torch.equal(layer(x), wanted)
    assert len(made) == 1
    layer(x).sum().backward()  # the points learn: their kernel is made for each call
    layer.train()(x)
    assert len(made) == 3


CHANGES = {
    "in place": lambda layer: nn.init.normal_(layer.weight),
    "through data": lambda layer: layer.weight.data.mul_(2),
    "through numpy": lambda layer: layer.weight.detach().numpy().__imul__(2),
    "new data": lambda layer: setattr(layer.weight, "data", torch.randn_like(layer.weight)),
    "new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn_like(layer.weight))),
    "coords": lambda layer: layer.coords.data.add_(0.1),
    "radius": lambda layer: layer.radius.data.mul_(1.5),
    "state": lambda layer: layer.load_state_dict({k: v * 1.5 for k, v in layer.state_dict().items()}),
    "optimizer": lambda layer: learn(layer),
    "size": lambda layer: layer.resample(21),
    "average": lambda layer: setattr(layer, "average", not layer.average),
    "precision": lambda layer: layer.double(),
}


def learn(layer: PointKernel) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), 1e-3, foreach=True)
    layer.kernel().square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@layers
@torch.no_grad()
def test_a_kept_kernel_is_never_stale(make, shape, change):
    layer = spread(make()).eval()
    x = torch.randn(shape)
    layer(x)
    with torch.enable_grad():
        change(layer)
    x = x.to(layer.weight.dtype)
    wanted = copy.deepcopy(layer).train()(x)
    assert torch.equal(layer(x), wanted)
    layer._kept[2].zero_()  # whoever writes into it
    assert torch.equal(layer(x), wanted)


@layers
def test_inference_mode_keeps_kernels_too(make, shape):
    layer, x = make().eval(), torch.randn(shape)
    with torch.inference_mode():
        first, again = layer(x), layer(x)
        inside = make().eval()  # its points are inference tensors
        assert torch.equal(inside(x), inside(x))
    assert layer._kept is not None and torch.equal(first, again)
    layer.requires_grad_(False)
    x.requires_grad_()
    y = layer(x)  # the kernel that inference mode left can be kept for a backward pass
    assert torch.equal(y, first)
    y.sum().backward()


@layers
@torch.no_grad()
def test_copies_are_independent(make, shape):
    layer, x = spread(make()).eval(), torch.randn(shape)
    wanted = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other._kept is None
        assert torch.equal(other(x), wanted)
        nn.init.zeros_(other.weight)
        assert not torch.equal(other(x), wanted)
        assert torch.equal(layer(x), wanted)


@layers
def test_other_parameters_for_one_call(make, shape):
    layer, x = spread(make()).eval(), torch.randn(shape)
    with torch.no_grad():
        first = layer(x)
        doubled = {name: value * 2 if name == "weight" else value for name, value in layer.state_dict().items()}
        other = torch.func.functional_call(layer, doubled, x)
        torch.testing.assert_close(other, 2 * first)
        assert torch.equal(layer(x), first)


# Other resolutions.


def test_a_longer_sequence_extends_the_kernel():
    layer = spread(SMPConv1d(2, 3, 15, 4, dtype=torch.float64))
    before, x = layer.kernel().detach(), torch.randn(1, 2, 15).double()
    wanted = layer(x)
    assert layer.resample(29) is layer
    kernel = layer.kernel()
    assert kernel.shape == (3, 2, 29)
    torch.testing.assert_close(kernel[..., 14:], before)
    torch.testing.assert_close(layer(x), wanted)
    assert layer(torch.randn(1, 2, 29).double()).shape == (1, 3, 29)
    layer.resample(15)
    torch.testing.assert_close(layer.kernel(), before)


@pytest.mark.parametrize("rate", [0.5, 2.0, 4.0])
def test_a_sequence_at_another_rate_keeps_the_sum(rate):
    layer = SMPConv1d(1, 1, 65, 1, average=False, dtype=torch.float64)
    with torch.no_grad():
        layer.coords.fill_(0.25), layer.radius.fill_(0.2), layer.weight.fill_(1)
    total = layer.kernel().sum()
    layer.resample(int(64 * rate) + 1, rate)
    torch.testing.assert_close(layer.kernel().sum(), total, rtol=1e-2, atol=0)
    assert layer.coords.item() == pytest.approx(0.25)


@pytest.mark.parametrize("make", [lambda: SMPConv2d(2, 3, 33, average=False), lambda: SMPDepthwiseConv2d(4, 33)])
@pytest.mark.parametrize("size", [17, 61, 63, (63, 33)])
def test_an_image_at_another_resolution_keeps_the_sum(make, size):
    layer = make().double()
    nn.init.uniform_(layer.coords, -0.5, 0.5)
    nn.init.constant_(layer.radius, 0.4)
    nn.init.uniform_(layer.weight)
    before = layer.kernel().sum((2, 3))
    layer.resample(size)
    assert layer.kernel().shape[2:] == ((size, size) if isinstance(size, int) else size)
    torch.testing.assert_close(layer.kernel().sum((2, 3)), before, rtol=2e-2, atol=0)


def test_tents_that_would_fall_between_taps_are_widened():
    layer = SMPDepthwiseConv2d(4, 33).double()
    nn.init.uniform_(layer.coords, -0.5, 0.5)
    nn.init.uniform_(layer.weight)
    before = layer.kernel().sum((2, 3))
    layer.resample(9)
    assert layer.radius.min() >= 0.5
    torch.testing.assert_close(layer.kernel().sum((2, 3)), before, rtol=0.05, atol=0)


def test_no_tent_dies_between_coarser_taps():
    layer = SMPDepthwiseConv2d(1, 33, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.coords.fill_(1 / 16), layer.weight.fill_(1)  # a tap of the old grid, in the middle of four of the new
    before = layer.kernel().sum()
    layer.resample(17)
    torch.testing.assert_close(layer.kernel().sum(), before, rtol=0.4, atol=0)
    assert not diagnose(layer.coords, layer.radius, 17).dead.any()


def test_resampling_says_what_is_wrong():
    with pytest.raises(ValueError, match="size must be at most 63, but it is 65"):
        SMPDepthwiseConv2d(2, 31).resample(65)
    with pytest.raises(ValueError, match=r"rate must be positive .*rate=inf"):
        SMPConv1d(2, 3, 15).resample(15, math.inf)


# Training.


def test_groups_of_parameters():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), SMPDepthwiseConv2d(4, 9, bias=True), SMPConv2d(4, 4, 9))
    net[0].weight.requires_grad_(False)
    groups = param_groups(net, 1e-2, 0.2, 0.3)
    named = dict(net.named_parameters())
    wanted = [
        (["2.weight", "3.weight"], 1e-2, 0.3),
        (["0.bias", "1.weight", "1.bias", "2.coords", "2.bias", "3.coords"], 1e-2, 0.0),
        (["2.radius", "3.radius"], 2e-3, 0.0),
    ]
    for group, (names, lr, decay) in zip(groups, wanted):
        assert {id(p) for p in group["params"]} == {id(named[name]) for name in names}
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(lr), decay)
    torch.optim.AdamW(groups).step()


@pytest.mark.parametrize("numbers", [{"lr": -1e-3}, {"radius_lr_factor": -0.1}, {"weight_decay": float("nan")}])
def test_groups_of_parameters_want_sound_numbers(numbers):
    with pytest.raises(ValueError, match=f"{next(iter(numbers))} must not be negative, and finite"):
        param_groups(nn.Conv2d(1, 1, 1), **{"lr": 1e-3} | numbers)


@pytest.mark.parametrize("training", [True, False])
def test_runs_on_fake_tensors(training):
    layer = SMPConv1d(1, 4, 100).train(training)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.set_grad_enabled(training):
        assert layer(mode.from_tensor(torch.randn(2, 1, 50))).shape == (2, 4, 50)
    assert layer(torch.randn(2, 1, 50)).shape == (2, 4, 50)


def test_points_move_to_where_they_are_wanted():
    """Fits one tent to another: positions, radii and weights all learn."""
    target = SMPDepthwiseConv2d(2, 15, 3, dtype=torch.float64)
    with torch.no_grad():
        target.coords.copy_(torch.tensor([[[0.3, 0.2], [-0.4, 0.1], [0.0, -0.5]]]))
        target.weight.copy_(torch.tensor([[[1.0, 2.0, -1.0], [0.5, 1.0, 1.5]]]))
        target.radius.fill_(0.5)
    layer = copy.deepcopy(target)
    with torch.no_grad():
        layer.coords.add_(0.06 * torch.randn_like(layer.coords))
        layer.radius.mul_(0.8)
        layer.weight.mul_(0.7)
    optimizer = torch.optim.Adam(param_groups(layer, 2e-2, 0.3, 0.0))
    losses = []
    for _ in range(300):
        loss = (layer.kernel() - target.kernel().detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.clip_radius_()
        losses.append(loss.item())
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@layers
def test_autocast_convolves_in_half_precision_with_exact_kernels(make, shape, dtype):
    layer, x = make(), torch.randn(shape)
    with torch.autocast("cpu", dtype):
        y, kernel = layer(x), layer.kernel()
    assert (y.dtype, kernel.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05 * layer(x).abs().max().item())


@layers
def test_starts_on_the_meta_device(make, shape):
    source, x = make(), torch.randn(shape)
    layer = make(device="meta", dtype=torch.float32)
    assert layer(x.to("meta")).shape == source(x).shape
    layer.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: SMPConv1d(1, 30, 784), "SMPConv1d(1, 30, 784, n_points=30)"),
        (lambda: SMPConv2d(3, 24, 33, bias=True), "SMPConv2d(3, 24, (33, 33), n_points=16, bias=True)"),
        (
            lambda: SMPDepthwiseConv2d(96, 31, algorithm="fft"),
            "SMPDepthwiseConv2d(96, (31, 31), n_points=240, algorithm='fft')",
        ),
    ],
)
def test_prints_its_sizes(layer, text):
    assert repr(layer()) == text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_does_not_cut_the_oldest_tap(dtype):
    for _ in range(20):
        layer = SMPConv1d(1, 3, 16000, radius=0.0002, dtype=dtype)
        kernel = layer.kernel()
        assert not kernel[:, :, : -layer.reached(kernel).shape[2]].any()


@pytest.mark.parametrize("reach", [-1.5, -1.0, -0.3, 0.0, 0.9, 1.3])
def test_taps_before_any_point_are_left_out(reach):
    """The result is that of the whole kernel, and so are the gradients."""
    layer = SMPConv1d(2, 3, 41, 5, radius=0.1).double()
    with torch.no_grad():
        layer.coords.uniform_(reach, 1.3)
        layer.coords[0, 0] = reach
        layer.weight.normal_()
    x, whole = torch.randn(2, 2, 41).double(), layer.kernel()
    kept = layer.reached(whole)
    assert 1 <= kept.shape[2] <= max(1, min(41, 20 * (1.1 - reach) + 2))
    assert torch.equal(whole[:, :, -kept.shape[2] :], kept) and not whole[:, :, : -kept.shape[2]].any()
    for algorithm in ("direct", "fft"):
        layer.algorithm = algorithm
        expected = reference.causal_conv1d_long(x, whole)
        torch.testing.assert_close(layer(x), expected)
        points = list(layer.parameters())
        found = torch.autograd.grad(layer(x).square().sum(), points)
        wanted = torch.autograd.grad(expected.square().sum(), points, retain_graph=True)
        torch.testing.assert_close(found, wanted)
