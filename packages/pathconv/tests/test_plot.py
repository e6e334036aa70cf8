"""Drawings say what the measures say: counted from their artists, not from pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from pathconv.paths import PathConfig, generate, locality, preset, preset_set
from pathconv.plot import SHOWS, animate, draw
from pathconv.plot.panels import BETTER, TIED, WORSE

Image = pytest.importorskip("PIL.Image")


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def lines(axes):
    """Polylines of the steps, and those of the jumps."""
    steps, jumps = (artist for artist in axes.collections if isinstance(artist, LineCollection))
    return steps.get_segments(), jumps.get_segments()


@pytest.mark.parametrize("show", SHOWS)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_everything_can_be_drawn_and_kept(tmp_path, show, suffix):
    file = tmp_path / f"drawing.{suffix}"
    draw("g", 32, show=show).savefig(file)
    assert file.stat().st_size > 5000


def test_a_path_is_drawn_step_by_step():
    path = generate(8, 8, "hilbert")
    (axes,) = draw(path).axes
    steps, jumps = lines(axes)
    assert len(steps) == 1 and len(jumps) == 0
    assert np.array_equal(steps[0], path.flip(1).numpy())
    first, last = ([line.get_xdata()[0], line.get_ydata()[0]] for line in axes.lines)
    assert (first, last) == ([0, 0], [0, 7])
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "row 0 is on top"


def test_jumps_are_drawn_apart():
    config = PathConfig("hilbert", 6, (1, 5))
    path = config.path(16, 16)
    number = int(((path[1:] - path[:-1]).abs().amax(1) > 1).sum())
    for shown, points in ((config, 17), (path, 2)):  # bent around the window, or straight where nothing is known
        steps, jumps = lines(draw(shown, 16).axes[0])
        assert len(jumps) == number > 0 and {len(jump) for jump in jumps} == {points}
        assert sum(len(run) for run in steps) == 256


def test_bent_jumps_stay_outside_the_window():
    config = PathConfig("hilbert", 6, (1, 5))
    for jump in lines(draw(config, 16).axes[0])[1]:
        middle = jump[8]
        assert middle.min() < 0 or middle.max() > 15


def test_better_colours_each_pixel_as_measured():
    figure = draw("g", 32, show="better")
    measured = locality("g", 32, 32)
    assert titles(figure)[0] == "hilbert\n810 better, 2 tied, 212 worse: 79.10%"
    assert titles(figure)[3] == "union: better in at least one\n1024 of 1024: 100.00%"
    for axes, distances in zip(figure.axes, measured.distances):
        dots = axes.collections[-1]
        dots.update_scalarmappable()
        columns, rows = dots.get_offsets().T.astype(int)
        wanted = np.where(distances < measured.raster, BETTER, np.where(distances == measured.raster, TIED, WORSE))
        colors = np.array([to_hex(color) for color in dots.get_facecolors()])
        assert (colors == wanted[rows, columns]).all() and len(colors) == 1024


def test_distance_is_the_ratio_to_the_raster():
    figure = draw("oz", 32, show="distance")
    measured = locality("oz", 32, 32)
    ratio = measured.distances[0] / measured.raster
    assert np.allclose(figure.axes[0].images[0].get_array(), ratio.log2())
    assert titles(figure) == ["zorder\ntotal 180,944, raster 188,480"]


def test_coverage_counts_the_paths():
    figure = draw("mg", 32, show="coverage")
    count = locality("mg", 32, 32).mask.sum(0)
    assert np.array_equal(figure.axes[0].images[0].get_array(), count)
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert words == [f"{k}: {int((count == k).sum())} pixels" for k in range(7)]


def test_coverage_tells_any_number_of_paths_apart():
    configs = [PathConfig("hilbert", 11, (k, 0)) for k in range(12)]
    colors = draw(configs, 16, show="coverage").axes[0].images[0].get_cmap()(np.arange(13))
    assert len({to_hex(color) for color in colors}) == 13


@pytest.mark.parametrize(
    "show, name, side", [("coverage", "g", 32), ("coverage", "mg", 64), ("coverage", "g*", 224), ("distance", "g", 32)]
)
def test_nothing_touches_the_sides(show, name, side):
    figure = draw(name, side, show=show)
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert drawn.x0 > 0.09 and drawn.x1 < figure.bbox_inches.x1 - 0.09


@pytest.mark.parametrize(
    "config, size, sides",
    [
        (PathConfig("hilbert", 6, (1, 5)), (16, 16), "16 x 16 in 22 x 22"),
        (PathConfig("zorder", 11, (0, 5)), (18, 21), "18 x 21 in 32 x 32"),
        (PathConfig("hilbert", 3, (1, 2), 90), (6, 9), "9 x 6 in 12 x 9"),
    ],
)
def test_window_shows_where_the_path_comes_from(config, size, sides):
    (axes,) = draw(config, *size, show="window").axes
    assert axes.get_title() == f"{config}\nwindow of {sides}"
    kept = [artist for artist in axes.collections if isinstance(artist, LineCollection)][2]
    path = np.concatenate(kept.get_segments()) - np.array(config.offset[::-1])
    turned = PathConfig(config.curve, config.pad, config.offset)
    height, width = size[::-1] if config.rotation in (90, 270) else size
    assert np.array_equal(path, turned.path(height, width).flip(1).numpy())


def test_sizes_come_from_sets_and_tensors():
    assert len(draw(preset_set("g", 32, 32)).axes) == 3
    assert titles(draw(preset("g", 32, 32))) == ["path 0", "path 1", "path 2"]
    assert titles(draw([PathConfig("raster"), PathConfig("zorder")], 4, 6)) == ["raster", "zorder"]


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (9, 1), (3, 40), (70, 66)])
@pytest.mark.parametrize("show", SHOWS)
def test_odd_shapes(tmp_path, height, width, show):
    draw([PathConfig("hilbert"), PathConfig("zorder")], height, width, show=show).savefig(tmp_path / "odd.png")


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        (("g",), {}, "height is needed to draw a preset"),
        (("g", 32), {"show": "cost"}, "show must be one of path, better, distance, window, coverage, but it is 'cost'"),
        ((preset("g", 32, 32),), {"show": "window"}, "needs the configuration of the path"),
        (("g", 33), {}, 'preset "g" is there for squares of 32, 64, 224'),
        (("g", 32), {"columns": 0}, "columns must be at least 1, but it is 0"),
        ((preset_set("g", 32, 32),), {"width": 16}, "height is needed"),
    ],
)
def test_what_is_refused(arguments, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        draw(*arguments, **options)


def test_animation_walks_the_path(tmp_path):
    file = tmp_path / "walk.gif"
    animate([PathConfig("hilbert"), PathConfig("zorder")], file, 8, seconds=1.0, frames_per_second=12)
    with Image.open(file) as gif:
        assert gif.n_frames == 12 and gif.info["loop"] == 0
        coloured, durations = [], []
        for frame in range(12):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            pixels = np.asarray(gif.convert("RGB")).astype(int)
            coloured.append(int((pixels.max(2) - pixels.min(2) > 60).sum()))
    assert coloured == sorted(coloured) and coloured[-1] > 4 * coloured[0]
    assert durations[0] == 80 and durations[-1] == 1500  # GIFs count in hundredths


def test_animation_of_a_tensor_equals_that_of_its_configuration_but_for_the_title(tmp_path):
    animate(generate(4, 4, "hilbert"), tmp_path / "a.gif", seconds=0.2)
    animate(generate(4, 4, "hilbert").to(torch.int32), tmp_path / "b.gif", seconds=0.2)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize("options", [{"seconds": 0}, {"frames_per_second": 51}])
def test_animation_refuses_times_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match="seconds must be positive and frames_per_second between 1 and 50"):
        animate("og", tmp_path / "no.gif", 8, **options)
    assert not list(tmp_path.iterdir())
