"""`convert` on the networks of timm and torchvision: they run, learn, export, and cost what the report says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

import pix.models  # noqa: E402, F401
from pix import PiX, convert  # noqa: E402
from pix.checkpoints import from_resnet  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(name: str, **options) -> nn.Module:
    if not name.startswith("torchvision:"):
        return timm.create_model(name, **options)
    models = pytest.importorskip("torchvision").models
    device = options.pop("device", "cpu")
    return getattr(models, name.removeprefix("torchvision:"))(weights=None, **options).to(device)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, size: int = 224, device: str = "meta") -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops() // 2


def reasons(model: nn.Module) -> dict[str, str]:
    return {row.names[0]: row.reason for row in model.convert_report.left}


# Parameters and multiply-adds of the authors' networks, and of those that they were made from.
RESNETS = {
    "resnet50": ((25_557_032, 25_549_480), (4_089_184_256, 3_155_824_640), 16),
    "resnet101": ((44_549_160, 44_532_904), (7_801_405_440, 5_999_038_464), 33),
    "resnet152": ((60_192_808, 60_168_872), (11_513_626_624, 8_841_465_856), 50),
}


@pytest.mark.parametrize("library", ["", "torchvision:"])
@pytest.mark.parametrize("name", RESNETS)
def test_squeezed_resnets_cost_what_the_paper_says(name, library):
    parameters, counts, swapped = RESNETS[name]
    net = convert(make(library + name, device="meta"))
    report = net.convert_report
    assert (report.params, report.macs, len(report.swapped)) == (parameters, counts, swapped)
    assert (parameter_count(net), macs(net)) == (parameters[1], counts[1])


def test_squeezed_resnet_of_half_the_width():
    """Table 1, row E3."""
    net = convert(make("resnet50", base_width=32, device="meta"))
    assert net.convert_report.params == (12_381_864, 12_378_088)
    assert [round(count / 1e9, 3) for count in net.convert_report.macs] == [1.822, 1.355]
    assert [m.zeta for m in net.modules() if isinstance(m, PiX)] == [2, 8, 8, 4, 8, 8, 8, 4, 8, 8, 8, 8, 8, 4, 8, 8]


# Millions of parameters and thousands of millions of multiply-adds: before, with zeta 2, with zeta 4.
DOWNSCALED = {
    "resnet18": ((11.69, 6.76, 3.73), (1.814, 0.977, 0.557), 16),
    "resnet34": ((21.80, 12.38, 6.55), (3.664, 1.902, 1.020), 32),
    "vgg16_bn": ((138.4, 131.8, 127.7), (15.47, 7.84, 4.03), 12),
}


@pytest.mark.parametrize("library, mode", [("", "downscale"), ("torchvision:", "prune")])
@pytest.mark.parametrize("name", DOWNSCALED)
def test_downscaled_networks_cost_what_they_should(name, mode, library):
    parameters, counts, swapped = DOWNSCALED[name]
    for index, zeta in ((1, 2), (2, 4)):
        net = convert(make(library + name, device="meta"), mode, zeta)
        report, digits = net.convert_report, (1, 2) if name == "vgg16_bn" else (2, 3)
        assert len(report.swapped) == swapped
        assert [round(n / 1e6, digits[0]) for n in report.params] == [parameters[0], parameters[index]]
        assert [round(n / 1e9, digits[1]) for n in report.macs] == [counts[0], counts[index]]
        assert (parameter_count(net), macs(net)) == (report.params[1], report.macs[1])


def test_named_networks_are_the_converted_ones():
    for name, origin in (("pix_resnet18", "resnet18"), ("pix_resnet34", "resnet34"), ("pix_vgg16", "vgg16_bn")):
        net, named = convert(make(origin, device="meta"), "downscale"), make(name, device="meta")
        shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (net, named)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("library, training", [("", True), ("torchvision:", False)])
def test_converted_resnet_is_the_network_of_the_paper(library, training):
    """The same outputs, statistics and gradients as `pix_resnet50` with the same weights."""
    plain = make(library + "resnet50", num_classes=10).double()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # timm starts the last ones of the blocks at 0
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    net, model = convert(plain).train(training), make("pix_resnet50", num_classes=10).double().train(training)
    model.load_state_dict(from_resnet(plain.state_dict()))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(net(x), model(x))
    net(x).square().sum().backward()
    model(x).square().sum().backward()
    gradients = from_resnet({name: parameter.grad for name, parameter in net.named_parameters()})
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)
    torch.testing.assert_close(from_resnet(net.state_dict()), dict(model.state_dict()))


# Layers that are swapped when squeezing and when downscaling, of networks with all kinds of blocks.
NETWORKS = {
    "resnet50": (16, 16),
    "resnet50d": (16, 18),
    "seresnet50": (16, 16),
    "skresnet50": (16, 32),
    "resnext50_32x4d": (15, 0),
    "resnetv2_50": (16, 16),
    "regnetx_002": (9, 0),
    "regnety_002": (9, 0),
    "densenet121": (17, 58),
    "mobilenetv2_100": (15, 0),
    "efficientnet_b0": (12, 0),
    "resnet18": (0, 16),
    "inception_v3": (10, 53),
    "convnext_atto": (0, 3),
    "torchvision:resnet50": (16, 16),
    "torchvision:resnext50_32x4d": (15, 0),
    "torchvision:wide_resnet50_2": (15, 16),
    "torchvision:regnet_y_400mf": (12, 0),
    "torchvision:densenet121": (17, 58),
    "torchvision:mobilenet_v2": (15, 0),
    "torchvision:squeezenet1_0": (7, 8),
    "torchvision:resnet18": (0, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_and_cost_what_the_report_says(name):
    for mode, swapped in zip(("squeeze", "downscale"), NETWORKS[name]):
        net = make(name, device="meta")
        converted = convert(net, mode)
        report = converted.convert_report
        convolutions = sum(isinstance(module, nn.Conv2d) for module in net.modules())
        assert len(report.swapped) == swapped and len(report.swapped) + len(report.left) == convolutions
        size = (getattr(net, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[1]
        assert report.macs == (macs(net, size), macs(converted, size))
        assert report.params == (parameter_count(net), parameter_count(converted))
        assert max(map(len, str(report).splitlines())) < 180


# Each kind of block and each mode; that all networks run in both libraries is seen above, on the meta device.
LEARN = {
    "resnet50d": "downscale",
    "seresnet50": "squeeze",
    "skresnet50": "prune",
    "resnetv2_50": "squeeze",
    "regnety_002": "squeeze",
    "densenet121": "prune",
    "mobilenetv2_100": "squeeze",
    "efficientnet_b0": "squeeze",
    "inception_v3": "downscale",
    "convnext_atto": "downscale",
    "torchvision:resnext50_32x4d": "squeeze",
    "torchvision:regnet_y_400mf": "squeeze",
    "torchvision:densenet121": "downscale",
    "torchvision:mobilenet_v2": "squeeze",
    "torchvision:squeezenet1_0": "prune",
    "torchvision:resnet18": "downscale",
}


@pytest.mark.slow
@pytest.mark.parametrize("name, mode", LEARN.items())
def test_networks_learn(name, mode):
    net = convert(make(name), mode, inplace=True).train()
    size = 160 if name == "inception_v3" else 64
    net(torch.randn(2, 3, size, size)).square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    before = copy.deepcopy(net.state_dict())
    torch.optim.SGD(net.parameters(), 1e-3).step()
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.eval()(torch.randn(1, 3, size, size)).isfinite().all()


@pytest.mark.parametrize("name, mode", [("torchvision:resnet50", "squeeze"), ("resnet18", "prune")])
def test_a_step_of_training(name, mode):
    test_networks_learn(name, mode)


@pytest.mark.parametrize("mode", ["squeeze", "prune"])
def test_converted_networks_are_exported(mode):
    net = convert(make("resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)), mode).eval()
    x = torch.randn(2, 3, 64, 64)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    assert torch.allclose(exported(x[:1]), net(x[:1]), atol=1e-5)


def test_reasons_in_real_networks():
    found = reasons(convert(make("seresnet50", device="meta")))
    assert found["layer1.0.se.fc1"].startswith("its maps are single pixels")
    assert found["layer1.0.conv3"] == "it expands the channels"
    found = reasons(convert(make("mobilenetv2_100", device="meta")))
    assert found["blocks.2.0.conv_pwl"] == "the channels that it reads are no multiple of those that it writes"
    found = reasons(convert(make("resnext50_32x4d", device="meta"), "downscale"))
    assert found["layer1.0.conv2"] == "grouped (32 groups)" and found["conv1"] == "it reads the image"
    found = reasons(convert(make("vgg16_bn", device="meta"), "downscale"))
    assert found["pre_logits.fc1"] == "kernel 7x7 covers its maps: a fully connected layer"
    found = reasons(convert(make("xception65", device="meta")))
    assert found["blocks.1.stack.conv2.conv_pw"].startswith("it keeps the number of channels")


def test_features_and_classifier_of_converted_networks():
    net = convert(make("resnet50", device="meta"))
    net.reset_classifier(7)
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 7)
    backbone = convert(make("resnet50", features_only=True, device="meta"))
    assert len(backbone.convert_report.swapped) == 16
    assert len(backbone(torch.empty(1, 3, 64, 64, device="meta"))) == 5
