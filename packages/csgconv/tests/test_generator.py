"""`SliceGenerator`: what it holds, how it starts, binary ones."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import csgconv
from csgconv import CSGConv2d, SliceGenerator
from csgconv.bits import pack, unpack


def layers(generator: SliceGenerator, *channels: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(*(CSGConv2d(i, o, 3, generator, padding=1) for i, o in channels))


def test_live_rows_of_all_layers_come_first_and_the_parameter_stays():
    generator = SliceGenerator(72, (12, 12, 3, 3))
    codes = generator.codes
    layers(generator, (16, 16), (16, 32), (32, 32))
    assert generator.codes is codes and codes.shape == (4 + 6 + 9, 72)
    assert [generator.rows(n) for n in range(3)] == [
        (range(3), range(17, 18)),
        (range(3, 9), range(18, 18)),
        (range(9, 17), range(18, 19)),
    ]


def test_codes_of_a_layer_stay_when_another_comes():
    generator = SliceGenerator(5, (12, 12, 3, 3))
    net = layers(generator, (16, 16), (32, 32))
    before = [generator.codes[[*live, *dead]].detach() for live, dead in map(generator.rows, range(2))]
    kernel = net[1].weight.detach().clone()
    layers(generator, (16, 32))
    after = [generator.codes[[*live, *dead]].detach() for live, dead in map(generator.rows, range(2))]
    assert all(map(torch.equal, before, after))
    torch.testing.assert_close(net[1].weight, kernel)


@pytest.mark.parametrize("layout", ["raster", "flat", "tile"])
def test_kernels_are_those_of_the_function(layout):
    generator = SliceGenerator(7, (4, 6, 3, 3), layout=layout, bias=True, dtype=torch.float64)
    nn.init.normal_(generator.bias)
    net = layers(generator, (3, 5), (5, 9), (12, 8))
    rows = [n for live, dead in map(generator.rows, range(3)) for n in (*live, *dead)]
    shapes = [tuple(layer.weight.shape) for layer in net]
    options = {"slice_shape": (4, 6, 3, 3), "layout": layout, "bias": generator.bias}
    wanted = csgconv.reference.generate(generator.codes[rows], generator.weight, shapes, **options)
    for kernel, layer, other in zip(generator.kernels(), net, wanted):
        torch.testing.assert_close(kernel, other)
        assert torch.equal(kernel, layer.weight)


@pytest.mark.parametrize("binary", [False, True], ids=["real", "binary"])
def test_he_start_gives_every_kernel_its_scale(binary):
    torch.manual_seed(0)
    generator = SliceGenerator(72, (12, 12, 3, 3), layout="flat", binary=binary)
    grouped = CSGConv2d(128, 128, 3, generator, groups=4)
    net = nn.Sequential(*layers(generator, (32, 64), (64, 128)), grouped)
    for layer, fan_out in zip(net, (64 * 9, 128 * 9, 32 * 9)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)


def test_published_starts():
    torch.manual_seed(0)
    reference, uniform = (SliceGenerator(72, (12, 12, 3, 3), init=init) for init in ("reference", "uniform"))
    for generator in (reference, uniform):
        layers(generator, (64, 64), (64, 64))
    assert reference.weight.std().item() == pytest.approx((2 / 72) ** 0.5, rel=0.02)
    assert reference.codes.std().item() == pytest.approx(1, rel=0.05)
    assert uniform.weight.abs().max().item() == pytest.approx(72**-0.5, rel=1e-3)
    kernel = reference.kernel(1)
    assert kernel.std().item() == pytest.approx(2**0.5, rel=0.15)  # twelve to 24 times He's
    assert uniform.kernel(1).std().item() == pytest.approx(3**-0.5, rel=0.15)


def test_reset_draws_everything_again():
    generator = SliceGenerator(5, (4, 4, 3, 3), bias=True)
    layers(generator, (5, 5), (6, 6))
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    nn.init.ones_(generator.bias)
    generator.reset_parameters()
    assert not (generator.codes == before["codes"]).any() and not (generator.weight == before["weight"]).any()
    assert not generator.bias.any()


def test_binary_is_stored_in_bits_and_never_learns():
    generator = SliceGenerator(5, (3, 3, 3, 3), binary=True)
    net = layers(generator, (4, 4))
    assert set(generator.weight.unique().tolist()) == {-0.5, 0.5}
    assert {name: value.numel() for name, value in net.state_dict().items()} == {
        "0.bias": 4,
        "0.generator.codes": 20,
        "0.generator.bits": 51,
    }
    net(torch.randn(1, 4, 5, 5)).sum().backward()
    assert generator.codes.grad is not None and not generator.weight.requires_grad
    other = layers(SliceGenerator(5, (3, 3, 3, 3), binary=True), (4, 4))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other[0].weight, net[0].weight)
    assert other.half()[0].generator.bits.dtype == torch.uint8 and other[0].weight.dtype == torch.float16


def test_bits_hold_signs_of_any_number():
    for count in (1, 8, 13):
        signs = torch.rand(count) < 0.5
        assert torch.equal(unpack(pack(signs), count), signs)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("binary", [False, True], ids=["real", "binary"])
def test_meta_tensors_become_real_ones(binary, assign):
    net = layers(SliceGenerator(5, (4, 4, 3, 3), binary=binary, device="meta"), (4, 4), (4, 4))
    assert net[0].weight.is_meta
    source = layers(SliceGenerator(5, (4, 4, 3, 3), binary=binary), (4, 4), (4, 4))
    for _ in range(2):
        net = net if assign else net.to_empty(device="cpu")
        net.load_state_dict(source.state_dict(), assign=assign)
        assert all(torch.equal(a.weight, b.weight) for a, b in zip(net, source))


def test_says_what_it_is():
    generator = SliceGenerator(5, (4, 4, 3, 3), layout="flat", bias=True)
    layers(generator, (4, 4))
    assert repr(generator) == "SliceGenerator(5, (4, 4, 3, 3), layers=1, rows=1, layout='flat', bias=True)"
