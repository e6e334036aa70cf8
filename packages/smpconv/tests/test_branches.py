"""Two branches and the one convolution that they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import smpconv
from smpconv import SMPBranches, SMPConv1d, SMPConv2d, SMPDepthwiseConv2d, fuse
from smpconv.branches import LargeConv, PointwiseConv


@pytest.fixture(autouse=True)
def reference_backend():
    torch.manual_seed(0)
    with smpconv.use_backend("reference"):
        yield


BRANCHES = {
    "sequence": (lambda: SMPBranches(SMPConv1d(3, 4, 21, bias=True)), (2, 3, 21)),
    "image": (lambda: SMPBranches(SMPConv2d(3, 4, 13), 3, small_bias=True), (2, 3, 12, 11)),
    "one channel": (lambda: SMPBranches(SMPConv2d(1, 4, (13, 9)), 3, small_bias=True), (2, 1, 12, 11)),
    "depthwise": (lambda: SMPBranches(SMPDepthwiseConv2d(4, 13)), (2, 4, 12, 11)),
    "one channel depthwise": (lambda: SMPBranches(SMPDepthwiseConv2d(1, 13)), (2, 1, 12, 11)),
}
branches = pytest.mark.parametrize(("make", "shape"), BRANCHES.values(), ids=BRANCHES)


def trained(module: nn.Module) -> nn.Module:
    """As after training: nothing is 0 or 1."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not name.endswith(("coords", "radius")):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


@branches
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_convolution_gives_the_same(make, shape, dtype):
    module, x = trained(make().to(dtype)), torch.randn(shape, dtype=dtype)
    wanted = module(x)
    merged = fuse(module)
    assert isinstance(merged, LargeConv) and isinstance(module, SMPBranches)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(merged(x), wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())
    assert fuse(module, inplace=True)(x).dtype == dtype


@branches
def test_a_network_keeps_the_rest(make, shape):
    net = trained(nn.Sequential(nn.Identity(), nn.Sequential(make(), nn.ReLU())))
    x = torch.randn(shape)
    wanted = net(x)
    merged = fuse(net)
    assert merged is not net and isinstance(net[1][0], SMPBranches) and isinstance(merged[1][0], LargeConv)
    torch.testing.assert_close(merged(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    assert fuse(net, inplace=True) is net and isinstance(net[1][0], LargeConv)


@branches
def test_all_learns(make, shape):
    module = make().train()
    module(torch.randn(shape)).sin().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"small_kernel_size must fit into the kernel of \(9, 9\) taps"):
        SMPBranches(SMPDepthwiseConv2d(4, 9), 11)
    with pytest.raises(ValueError, match="be odd for images, but it is 4"):
        SMPBranches(SMPDepthwiseConv2d(4, 9), 4)
    with pytest.raises(TypeError, match="smp must be SMPConv1d, SMPConv2d or SMPDepthwiseConv2d, but it is Conv2d"):
        SMPBranches(nn.Conv2d(4, 4, 9))
    net = nn.Sequential(SMPBranches(SMPDepthwiseConv2d(4, 9)))
    net[0].norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match=r"^0: BatchNorm2d\(4, .* cannot be fused: it has no running statistics"):
        fuse(net)
    net[0].norm = nn.BatchNorm2d(4, affine=False)
    with pytest.raises(
        ValueError, match=r"^0: BatchNorm2d\(4, .* it has no weight and bias, so build it with affine=True"
    ):
        fuse(net)
    with pytest.raises(TypeError, match=r"^model must be an nn.Module, but it is a str\.$"):
        fuse("x")


def test_a_norm_that_cannot_be_fused_leaves_all_as_it_was():
    net = nn.Sequential(*(SMPBranches(SMPDepthwiseConv2d(4, 9)) for _ in range(2))).eval()
    net[1].norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match=r"^1: .* train it with track_running_stats=True, or leave that module out"):
        fuse(net, inplace=True)
    assert all(isinstance(module, SMPBranches) for module in net)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (17, 19)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pointwise_convolution(batch, size, layout):
    weight, bias = torch.randn(6, 3), torch.randn(6)
    x = torch.randn(batch, 3, *size).contiguous(memory_format=layout)
    conv = PointwiseConv(weight, bias)
    wanted = F.conv2d(x, weight[:, :, None, None], bias)
    y = conv(x)
    torch.testing.assert_close(y, wanted)
    if batch:
        assert y.is_contiguous(memory_format=layout)
        compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), wanted)
