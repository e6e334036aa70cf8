"""Least squares: of matrices, of kernels that a generator could have made, and of those of a network."""

from __future__ import annotations

import pytest
import torch
from nets_to_convert import SMALL, net
from torch import nn

from csgconv import CSGConv2d, SliceGenerator, convert, generators
from csgconv.fitting import fit_kernels_
from csgconv.least_squares import factorise

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def product(rows: int, columns: int, rank: int) -> torch.Tensor:
    return torch.randn(rows, rank, dtype=torch.float64) @ torch.randn(rank, columns, dtype=torch.float64)


def all_but(*hidden: tuple[slice, slice], shape: tuple[int, int]) -> torch.Tensor:
    shown = torch.ones(shape, dtype=torch.bool)
    for where in hidden:
        shown[where] = False
    return shown


def lost(found, slices, shown, constant=None) -> float:
    made = found.codes @ found.weight.T
    if constant is not None:
        made = made + torch.outer(constant, found.bias)
    return (((made - slices) * shown).norm() / (slices * shown).norm()).item()


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_where_all_is_shown_it_is_the_truncated_svd(shape):
    slices, shown = torch.randn(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.bool)
    found = factorise(slices, shown, 7)
    values = torch.linalg.svdvals(slices)
    assert lost(found, slices, shown) == pytest.approx((values[7:].norm() / values.norm()).item(), abs=1e-9)
    for factor in (found.codes, found.weight):
        torch.testing.assert_close(factor.T @ factor, torch.diag(values[:7]), atol=1e-7, rtol=0)


def test_what_is_hidden_is_found_again():
    slices = product(60, 40, 5)
    shown = all_but((slice(0, 25), slice(30, 40)), (slice(40, 50), slice(0, 8)), shape=(60, 40))
    found = factorise(torch.where(shown, slices, 1e3), shown, 5)
    assert lost(found, slices, torch.ones_like(shown)) < 1e-4


def test_hidden_numbers_lower_the_error_and_bias_lowers_it_more():
    slices, constant = torch.randn(60, 40, dtype=torch.float64) + 3, torch.rand(60, dtype=torch.float64) + 0.5
    shown = all_but((slice(0, 40), slice(30, 40)), shape=(60, 40))
    zeros = factorise(slices * shown, torch.ones_like(shown), 5)
    found = factorise(slices, shown, 5)
    biased = factorise(slices, shown, 5, constant=constant)
    assert lost(biased, slices, shown, constant) < lost(found, slices, shown) < 0.98 * lost(zeros, slices, shown)


def test_bias_is_found_again():
    bias, constant = torch.randn(40, dtype=torch.float64), torch.rand(60, dtype=torch.float64) + 0.5
    slices = product(60, 40, 5) + torch.outer(constant, bias)
    found = factorise(slices, torch.ones(60, 40, dtype=torch.bool), 5, constant=constant)
    assert lost(found, slices, torch.ones(60, 40), constant) < 1e-3


@pytest.mark.parametrize("rank", [0, 3])
def test_beyond_the_rank_the_generator_is_noise(rank):
    slices, shown = product(30, 20, rank), torch.ones(30, 20, dtype=torch.bool)
    found = factorise(slices, shown, 25)
    torch.testing.assert_close(found.codes @ found.weight.T, slices)
    assert (found.codes.norm(dim=0) > 0).sum() == rank
    norms = found.weight.norm(dim=0)
    assert norms.min() > 0.1 * norms.max()


def test_a_kept_generator_gets_the_best_codes():
    slices, weight = torch.randn(6, 20, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
    shown = all_but((slice(0, 3), slice(12, 20)), shape=(6, 20))
    found = factorise(slices, shown, 4, weight=weight)
    assert found.weight is weight and found.bias is None
    for row, part, code in zip(slices, shown, found.codes):
        torch.testing.assert_close(code, torch.linalg.lstsq(weight[part], row[part, None]).solution[:, 0])


def layers(generator: SliceGenerator, **options) -> list[CSGConv2d]:
    return [CSGConv2d(i, o, 3, generator, **options) for i, o in ((6, 10), (10, 9), (9, 16))]


@pytest.mark.parametrize("layout", ["raster", "flat", "tile"])
@pytest.mark.parametrize("bias", [False, True])
def test_kernels_of_a_generator_are_kept(layout, bias):
    """Of other scales in each layer, which count alike."""
    options = {"layout": layout, "bias": bias, "dtype": torch.float64}
    source, target = SliceGenerator(5, (4, 4, 3, 3), **options), SliceGenerator(5, (4, 4, 3, 3), **options)
    made = layers(source), layers(target)
    if bias:
        nn.init.normal_(source.bias, 0, 0.3)
    with torch.no_grad():
        kernels = [kernel.clone() for kernel in source.kernels()]
    errors = fit_kernels_(target, kernels)
    assert max(errors) < 1e-3
    torch.testing.assert_close(made[1][2].weight, kernels[2], atol=1e-3, rtol=0)


def test_every_weight_counts_alike_and_errors_are_the_kernels():
    target = SliceGenerator(8, (4, 4, 3, 3))
    made = layers(target)
    kernels = [torch.randn(layer.weight.shape) * 100**i for i, layer in enumerate(made)]
    errors = fit_kernels_(target, kernels)
    assert max(errors) < 0.9
    for layer, kernel, error in zip(made, kernels, errors):
        assert ((layer.weight - kernel).norm() / kernel.norm()).item() == pytest.approx(error, rel=1e-4)
    live = sum(layer.live for layer in target.layers)
    assert target.codes[:live].abs().amin(1).gt(0).all() and not target.codes[live:].any()


def test_other_shapes_are_refused():
    generator = SliceGenerator(8, (4, 4, 3, 3))
    layers(generator)
    with pytest.raises(ValueError, match="kernels must have shapes"):
        fit_kernels_(generator, [torch.zeros(10, 6, 3, 3)])
    assert fit_kernels_(SliceGenerator(8, (4, 4, 3, 3)), []) == []


def test_conversion_starts_from_the_weights_and_tells_the_error():
    old = net()
    model = convert(old, 20, (4, 4, 3, 3), init="lstsq", where="^6")
    (row,) = model.convert_report.swapped
    assert (row.weights, row.error) == ("kept", None)  # nine slices
    torch.testing.assert_close(model[6].weight, old[6].weight)
    model = convert(old, **SMALL, init="lstsq")
    for row, index in zip(model.convert_report.swapped, (3, 6)):
        error = ((model[index].weight - old[index].weight).norm() / old[index].weight.norm()).item()
        assert row.weights == "refitted" and row.error == pytest.approx(error, rel=1e-4) and 0.05 < error < 0.95
    assert "refitted 0." in str(model.convert_report) and "relative error" in str(model.convert_report)


@pytest.mark.parametrize("place", [lambda: torch.autocast("cpu"), lambda: torch.device("meta")])
def test_autocast_and_the_default_device_do_not_matter(place):
    old = net()
    with place():
        model = convert(old, 20, (4, 4, 3, 3), init="lstsq", where="^6")
    assert model.convert_report.swapped[0].weights == "kept"


def test_binary_generators_are_kept():
    model = convert(net(), **SMALL, init="lstsq", binary=True)
    (owner,) = generators(model)
    assert set(owner.weight.unique().tolist()) == {-0.5, 0.5}
    assert all(0.5 < row.error < 1 for row in model.convert_report.swapped)


def test_kernels_of_zero_are_kept():
    model = net()
    nn.init.zeros_(model[3].weight)
    nn.init.zeros_(model[6].weight)
    converted = convert(model, **SMALL, init="lstsq")
    assert [row.weights for row in converted.convert_report.swapped] == ["kept", "kept"]
    assert not converted[3].weight.any() and generators(converted)[0].weight.std() > 0.1
