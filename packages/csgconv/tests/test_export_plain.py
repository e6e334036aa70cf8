"""`export`: the same network of ordinary convolutions, to the bit; `dead_codes`."""

from __future__ import annotations

import pytest
import torch
from nets_to_convert import SMALL, generated, images, net
from torch import nn

from csgconv import CSGConv2d, SliceGenerator, convert, dead_codes, export, generators

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "options", [{}, {"layout": "flat"}, {"layout": "tile", "bias": True}, {"binary": True}], ids=str
)
def test_outputs_are_equal_to_the_bit(options):
    model = generated(**options)
    plain = export(model)
    assert not generators(plain) and type(plain[3]) is type(plain[6]) is nn.Conv2d
    assert len(generators(model)) == 1
    model.eval(), plain.eval()
    with torch.no_grad():
        assert torch.equal(plain(images()), model(images()))
    assert torch.equal(plain(images()), model(images()))
    model.train(), plain.train()
    assert torch.equal(plain(images()), model(images()))


def test_exported_networks_have_the_names_of_ordinary_ones_and_learn():
    plain = export(generated())
    net().load_state_dict(plain.state_dict())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in plain.parameters())
    plain(images()).sum().backward()
    assert plain[3].weight.grad is not None


def test_options_of_layers_stay():
    model = generated()
    model[3].padding_mode, model[3].training = "zeros", False
    plain = export(model)
    for name in ("stride", "padding", "dilation", "groups", "kernel_size", "training"):
        assert all(getattr(plain[i], name) == getattr(model[i], name) for i in (3, 6))
    assert torch.equal(plain[3].bias, model[3].bias) and plain[6].bias is None
    circular = CSGConv2d(6, 8, 3, SliceGenerator(8, (4, 4, 3, 3)), padding=1, padding_mode="circular", groups=1)
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(export(circular)(x), circular(x))


def test_every_weight_has_memory_of_its_own():
    """Files of safetensors refuse others, and kernels that a generator keeps shall not learn."""
    generator = SliceGenerator(8, (4, 4, 3, 3))
    for convolution in export(nn.Sequential(*(CSGConv2d(8, 8, 3, generator) for _ in range(2)))):
        assert convolution.weight.untyped_storage().nbytes() == convolution.weight.nbytes


def test_in_place():
    model = generated()
    assert export(model, inplace=True) is model and not generators(model)


def test_report():
    report = export(generated()).convert_report
    assert [row.after for row in report.swapped] == ["Conv2d 3x3 /2", "Conv2d 3x3"]
    assert all(row.weights == "kept" for row in report.swapped)


def test_autocast_and_inference_mode_do_not_show():
    model = generated().eval()
    with torch.autocast("cpu"), torch.inference_mode():
        plain = export(model)
    assert plain[3].weight.dtype == torch.float32 and not plain[3].weight.is_inference()
    assert torch.equal(plain(images()), model(images()))


def test_networks_without_data():
    plain = export(convert(net().to("meta"), **SMALL))
    assert type(plain[6]) is nn.Conv2d and plain[6].weight.is_meta


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match="no CSGConv2d"):
        export(net())
    with pytest.raises(TypeError, match="model must be an nn"):
        export("net")
    with pytest.raises(TypeError, match="model must be an nn"):
        dead_codes("net")
    model = generated()
    with pytest.raises(ValueError, match="belongs to no layer of this model"):
        export(model[4:])
    model[6].register_forward_hook(lambda module, args, out: out)
    with pytest.raises(ValueError, match="6 has hooks"):
        export(model)
    model = generated()
    model[6].forward = lambda x: -x
    with pytest.raises(ValueError, match="6 has hooks or another forward"):
        export(model)
    scaled = type("Scaled", (CSGConv2d,), {})(6, 8, 3, SliceGenerator(8, (4, 4, 3, 3)))
    with pytest.raises(ValueError, match="the layer is a Scaled, which may compute something else"):
        export(scaled)


@pytest.mark.parametrize(("layout", "rows"), [("raster", 15), ("flat", 12), ("tile", 15)])
def test_dead_codes(layout, rows):
    """The last slices of a kernel that is padded lie beyond it: 10 x 6 planes become 12 x 8, in slices of 16."""
    model = generated(layout=layout)
    found = dead_codes(model)
    assert found.rows == rows and found.parameters == 8 * found.dead
    codes = generators(model)[0].codes
    codes.grad = None
    model(images()).square().sum().backward()
    assert int((codes.grad == 0).all(1).sum()) == found.dead
    if layout == "raster":
        assert found.layers == {"3": (1, 6)}
        assert str(found) == "3: 1 of 6 codes\n1 of 15 codes, 8 parameters, are dead"
    else:
        assert not found.layers


def test_dead_codes_of_the_paper():
    """The ResNet-20 of the authors: its last slices of 12 x 12 planes lie beyond kernels of 16, 32 and 64 filters."""
    generator = SliceGenerator(72, (12, 12, 3, 3))
    widths = [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5
    found = dead_codes(nn.Sequential(*(CSGConv2d(i, o, 3, generator) for i, o in widths)))
    assert (found.dead, found.rows) == (33, 273)
