"""What cannot be made is refused, in one sentence; the functions' own are in the contract."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csgconv import CSGConv2d, SliceGenerator, functional, generators
from csgconv.layouts import Layer
from csgconv.modules import registered_generators


def generator(**options) -> SliceGenerator:
    return SliceGenerator(4, (4, 4, 3, 3), **options)


def layer(*arguments, **options) -> CSGConv2d:
    return CSGConv2d(4, 4, 3, generator(layout="flat"), *arguments, **options)


CASES = {
    "a code of nothing": (lambda: SliceGenerator(0, (4, 4, 3, 3)), ValueError, "code_size must be at least 1"),
    "slices of rank 2": (lambda: SliceGenerator(4, (4, 4)), ValueError, "slice_shape must be four integers"),
    "unknown layout": (lambda: generator(layout="rows"), ValueError, "layout must be one of raster, flat, tile"),
    "unknown init": (lambda: generator(init="lstsq"), ValueError, "init must be one of he, reference, uniform"),
    "no generator": (lambda: CSGConv2d(4, 4, 3, nn.Linear(1, 1)), TypeError, "generator must be a SliceGenerator.*Lin"),
    "another kernel size": (
        lambda: CSGConv2d(4, 4, 1, generator()),
        ValueError,
        '3 x 3, but kernel_size is 1 x 1: .*"fl',
    ),
    "groups": (lambda: CSGConv2d(4, 4, 3, generator(), groups=2), ValueError, 'groups=2: layout="flat" makes any'),
    "channels that no group divides": (
        lambda: CSGConv2d(3, 4, 3, generator(layout="flat"), groups=2),
        ValueError,
        "in_channels must be divisible by groups",
    ),
    "unknown padding mode": (lambda: CSGConv2d(4, 4, 3, generator(), padding_mode="same"), ValueError, "padding_mode"),
    "other slices": (lambda: generator().add(Layer((4, 4, 1, 1), (2, 2, 1, 1))), ValueError, "slices of shape"),
    "kernels that do not fill the layers": (
        lambda: functional.uncrop(torch.zeros(3), [0, 2, 1, 1, 1, 1], 2, 2),
        ValueError,
        "kernels has 3 elements, but those of layers are 2",
    ),
    "rows no number": (lambda: functional.uncrop(torch.zeros(2), [], 2.0, 2), TypeError, "rows must be an integer"),
    "a kernel of nothing": (lambda: CSGConv2d(4, 4, 0, generator()), ValueError, "^kernel_size must be at least 1"),
    "a kernel without rows": (lambda: CSGConv2d(4, 4, (0, 3), generator()), ValueError, "^kernel_size must be at"),
    "no channels": (lambda: CSGConv2d(0, 4, 3, generator()), ValueError, "^in_channels must be at least 1"),
    "no outputs": (lambda: CSGConv2d(4, 0, 3, generator()), ValueError, "^out_channels must be at least 1"),
    "a bias of another dtype": (
        lambda: CSGConv2d(4, 4, 3, generator(dtype=torch.float16), dtype=torch.float32),
        ValueError,
        "dtype is torch.float32 but the generator makes kernels of torch.float16",
    ),
    "a kernel that is set": (
        lambda: setattr(CSGConv2d(4, 4, 3, generator()), "weight", nn.Parameter(torch.zeros(4, 4, 3, 3))),
        AttributeError,
        "weight is made by the generator and cannot be set: write its codes",
    ),
    "slices no sequence": (lambda: SliceGenerator(4, 12), TypeError, "slice_shape must be four .*, but it is 12"),
    "slices of nothing": (lambda: SliceGenerator(4, (0, 4, 3, 3)), ValueError, r"slice_shape .* it is \(0, 4, 3, 3\)"),
    "slices of floats": (lambda: SliceGenerator(4, (4.0, 4, 3, 3)), TypeError, r"slice_shape=.* integer, .* is 4\.0"),
    "integers": (lambda: generator(dtype=torch.int32), TypeError, "dtype must be float32, .*, but it is torch.int32"),
    "a dtype's name": (lambda: generator(dtype="float32"), TypeError, "dtype must be .*, but it is 'float32'"),
    "binary as text": (lambda: generator(binary="yes"), TypeError, "binary must be True or False, but it is 'yes'"),
    "a generator's bias as text": (lambda: generator(bias="no"), TypeError, "bias must be True or False, .* 'no'"),
    "no layer": (lambda: generator().kernel(0), ValueError, "index=0 is that of no layer, .* 0: make a CSGConv2d"),
    "rows of no layer": (lambda: layer().generator.rows(3), ValueError, "index=3 is .* has 1: give at most 0"),
    "the place of no layer": (lambda: layer().generator.place(1), ValueError, "index=1 is that of no layer"),
    "the last layer": (lambda: layer().generator.kernel(-1), ValueError, "index must be at least 0, but it is -1"),
    "a layer by name": (lambda: layer().generator.kernel("a"), TypeError, "index must be an integer, but it is 'a'"),
    "channels as text": (lambda: CSGConv2d("16", 4, 3, generator()), TypeError, "in_channels must be .*, .* '16'"),
    "a kernel of volumes": (
        lambda: CSGConv2d(4, 4, (3, 3, 3), generator()),
        ValueError,
        r"kernel_size must be one integer or a pair .*, but it is \(3, 3, 3\)",
    ),
    "no stride": (lambda: layer(0), ValueError, "stride must be at least 1, but it is 0"),
    "a stride as text": (lambda: layer("1"), TypeError, "stride must be an integer, but it is '1'"),
    "strides of volumes": (lambda: layer((1, 1, 1)), ValueError, r"stride must be .* pair .*, but it is \(1, 1, 1\)"),
    "less padding than none": (lambda: layer(1, (1, -1)), ValueError, "padding must be at least 0, but it is -1"),
    "unknown padding": (lambda: layer(1, "sane"), ValueError, "padding must be integers, 'same' or .*, .* 'sane'"),
    "no dilation": (lambda: layer(1, 1, 0), ValueError, "dilation must be at least 1, but it is 0"),
    "groups as text": (lambda: layer(groups="2"), TypeError, "groups must be an integer, but it is '2'"),
    "a bias as text": (lambda: layer(bias="no"), TypeError, "bias must be True or False, but it is 'no'"),
    "generators of no model": (lambda: generators(3), TypeError, "model must be an nn.Module, but it is a int"),
    "x a text": (lambda: layer()("x"), TypeError, r"x must be a tensor of shape \(N, I, H, W\), but it is a str"),
    "x an array": (lambda: layer()(torch.zeros(1, 4, 5, 5).numpy()), TypeError, "x must be a tensor .* a ndarray"),
    "x nothing": (lambda: layer().requires_grad_(False)(None), TypeError, "x must be a tensor .* a NoneType"),
    "x elsewhere": (
        lambda: CSGConv2d(4, 4, 3, generator())(torch.zeros(1, 4, 5, 5, device="meta")),
        RuntimeError,
        "x is on meta but the generator is on cpu: .*DistributedDataParallel",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_sentence(case):
    call, error, says = CASES[case]
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_layer_has_the_dtype_of_its_generator():
    layer = CSGConv2d(4, 4, 3, generator(dtype=torch.float64))
    assert layer.bias.dtype == layer(torch.zeros(1, 4, 5, 5, dtype=torch.float64)).dtype == torch.float64


def test_a_refused_layer_leaves_no_codes():
    shared = generator()
    with pytest.raises(ValueError, match="kernel_size"):
        CSGConv2d(4, 4, 5, shared)
    assert len(shared.layers) == len(shared.codes) == 0
    assert "generator.codes" in CSGConv2d(4, 4, 3, shared).state_dict()


def test_a_model_without_the_first_layer_does_not_hold_the_generator():
    shared = generator()
    first, second = CSGConv2d(4, 4, 3, shared), CSGConv2d(4, 4, 3, shared)
    assert registered_generators(nn.Sequential(first, second)) == [shared]
    with pytest.raises(ValueError, match="The generator of 0 belongs to no layer of this model"):
        registered_generators(nn.Sequential(second))
