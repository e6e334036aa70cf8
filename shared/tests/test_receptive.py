"""Effective receptive fields: known fields, squares that hold known shares, and measurements that go on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanconv import receptive


class Fields(nn.Module):
    """A map whose pixel (h, w) is a convolution of the image around (2 h, 2 w)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, side, 2, side // 2, bias=False)
        nn.init.constant_(self.conv.weight, 0.5)

    def forward_features(self, x):
        return self.conv(x)


def test_a_field_is_what_moves_the_middle():
    network = Fields(5)
    with torch.no_grad():
        network.conv.weight[1] = -1  # this channel is below 0, so that it is not counted
        network.conv.weight[0, :, 0] = -0.25  # what lowers the middle is not counted either
    field = receptive.contributions(network, torch.ones(2, 3, 20, 24))
    expected = torch.zeros(20, 24, dtype=torch.float64)
    expected[9:13, 10:15] = 2 * 3 * 0.5  # images, channels, weight
    assert torch.equal(field, expected)
    assert all(p.grad is None for p in network.parameters())


def test_the_last_of_many_maps_is_taken_and_other_outputs_are_refused():
    network = Fields(3)
    maps = nn.Module()
    maps.forward = lambda x: [torch.zeros(1, 1, 1, 1), network.forward_features(x)]
    x = torch.ones(1, 3, 12, 12)
    assert torch.equal(receptive.contributions(maps, x), receptive.contributions(network, x))
    with pytest.raises(ValueError, match=r"must give a map \(N, C, h, w\), it gives \(1, 432\)"):
        receptive.contributions(nn.Flatten(), x)


def test_squares_are_the_smallest_that_hold_more_than_their_share():
    field = torch.zeros(20, 20)
    field[5:16, 5:16] = 9.0  # log10(9 + 1) is 1 on 11 x 11 pixels around (10, 10)
    (tiny, half, most, whole) = receptive.squares(field, (0.07, 49 / 121, 0.99, 1.0))
    assert (tiny.side, half.side, most.side) == (3, 9, 11), "7 x 7 hold no more than 49 of 121"
    assert most.area == 121 / 400
    assert (whole.side, whole.area) == (20, 1.0), "nothing holds more than all"
    field[10, 10] = 1e6  # of heights, not of values
    assert receptive.squares(field, (0.5,))[0].side == 9
    for bad in (torch.zeros(8, 8), torch.full((8, 8), torch.nan)):
        with pytest.raises(ValueError, match="finite and positive somewhere"):
            receptive.squares(bad)


def test_a_mean_goes_on_where_it_stopped(tmp_path):
    fields = torch.rand(5, 6, 6, dtype=torch.float64)
    fields[3, 0, 0] = torch.inf  # left out
    whole, first = receptive.Mean(tmp_path / "a.npz", "five"), receptive.Mean(tmp_path / "b.npz", "five")
    for field in fields:
        whole.add(field)
    for field in fields[:2]:
        first.add(field)
    first.save()
    second = receptive.Mean(tmp_path / "b.npz", "five")
    for field in fields[second.seen :]:
        second.add(field)
    assert torch.equal(second.compute(), whole.compute())
    assert torch.allclose(whole.compute(), fields[[0, 1, 2, 4]].mean(0))
    assert (second.seen, second.count, second.skipped) == (5, 4, 1)
    with pytest.raises(ValueError, match="holds another measurement, of five"):
        receptive.Mean(tmp_path / "b.npz", "six")
    with pytest.raises(ValueError, match="none of the 0 images"):
        receptive.Mean(tmp_path / "c.npz", "none").compute()


def test_the_picture_has_one_map_for_each_network(tmp_path):
    field = torch.rand(32, 32)
    receptive.draw([(name, field, receptive.squares(field)) for name in "ab"], tmp_path / "erf.png")
    assert (tmp_path / "erf.png").stat().st_size > 5000
