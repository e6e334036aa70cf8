"""How rich the kernels of a network are, and how alike the codes that make them: numbers and pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from csgconv import CSGConv2d, generators
from leanconv import training
from leanconv.plots import COLORS, FAINT, INK
from leanconv.training.run_folder import write_json

SHARES = (0.9, 0.99, 0.999)  # of the energy, the sum of squares
SHOWN = 2000  # slices at most
MAP = "RdBu_r"


def slices(network: nn.Module) -> dict[str, Tensor]:  # name of a layer -> (rows, code_size)
    """The slices that make the kernels of the first generator's layers, those alone that reach a kernel.

    They are given by their coordinates in an orthonormal basis of all slices, which keeps lengths and angles.
    """
    generator, found = generators(network)[0], {}
    codes, columns = generator.codes.detach().double(), generator.weight.detach().double()
    if generator.bias is not None:
        codes = torch.cat([codes, torch.ones_like(codes[:, :1])], dim=1)
        columns = torch.cat([columns, generator.bias.detach().double()[:, None]], dim=1)
    made = codes @ torch.linalg.qr(columns).R.T
    for name, layer in network.named_modules():
        if isinstance(layer, CSGConv2d) and layer.generator is generator:
            live = generator.rows(layer.index)[0]
            found[name] = made[live.start : live.stop]
    return found


def cut(network: nn.Module, names: list[str], size: int) -> dict[str, Tensor]:  # -> (rows, P)
    """The kernels of the ordinary convolutions of these names, in runs of `size` numbers, filled up with zeros."""
    found = {}
    for name in names:
        flat = kernel(network, name).flatten()
        found[name] = torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)
    return found


def kernel(network: nn.Module, name: str) -> Tensor:  # (O, I, kh, kw)
    """The kernel of a layer, generated or not."""
    layer: Any = network.get_submodule(name)
    return layer.weight.detach().double()


def energies(matrix: Tensor) -> Tensor:  # (rank,)
    """Share of the matrix's energy that its best approximations of rank 1, 2, ... keep."""
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    squares = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)
    return squares.cumsum(0) / squares.sum()


def ranks(matrix: Tensor) -> list[int]:
    """The ranks that keep `SHARES` of the energy."""
    kept = energies(matrix)
    return [int((kept < share).sum()) + 1 for share in SHARES]


def cosines(parts: dict[str, Tensor]) -> Tensor:  # (slices, slices)
    """Between all slices, or of many some, equally spaced. (The generator's choice of coordinates changes codes.)"""
    unit = torch.nn.functional.normalize(torch.cat(list(parts.values())), dim=1)[:: step(parts)]
    return unit @ unit.T


def step(parts: dict[str, Tensor]) -> int:
    """The first, then every so many slices are drawn."""
    return -(-sum(map(len, parts.values())) // SHOWN)


def alike(parts: dict[str, Tensor]) -> Tensor:  # (layers, layers)
    """Root mean square of the cosines between the slices of two layers, over what chance would give.

    Directions at random in d dimensions have a cosine of 1 / sqrt(d) in the root mean square.
    """
    units = [torch.nn.functional.normalize(part, dim=1) for part in parts.values()]
    moments = torch.stack([(unit.T @ unit).flatten() for unit in units])
    counts = torch.tensor([len(unit) for unit in units], dtype=moments.dtype)
    itself = torch.diag(counts)  # each slice with itself
    pairs = (torch.outer(counts, counts) - itself).clamp(min=1)
    return ((moments @ moments.T - itself).clamp(min=0) / pairs * units[0].shape[1]).sqrt()


def gaussian(rows: int, size: int) -> Tensor:  # (rows, size)
    """Noise, always the same."""
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def draw(run: Path, twin: Path | None = None) -> None:
    """Write spectrum.json, spectrum.png and codes.png for a run whose network has a generator; others are left.

    `twin` is the run of the ordinary network beside it. Pictures that are there are left, unless a twin is given.
    """
    if (run / "codes.png").is_file() and twin is None:
        return
    network, other = training.load(run)[0], None if twin is None else training.load(twin)[0]
    if generators(network):
        save(network, run, run.name, other)


def save(network: nn.Module, folder: Path, name: str, twin: nn.Module | None = None) -> None:
    """Write the numbers and the pictures of a network with a generator."""
    write_json(folder / "spectrum.json", describe(network, twin))
    draw_spectrum(network, folder / "spectrum.png", f"{name}: the spectrum of generated kernels", twin)
    draw_codes(network, folder / "codes.png", f"{name}: how alike the slices are that codes make")


def describe(network: nn.Module, twin: nn.Module | None = None) -> dict[str, Any]:
    """The numbers behind the pictures."""
    generator, parts = generators(network)[0], slices(network)
    stacked = torch.cat(list(parts.values()))
    size = len(generator.weight)
    noise = gaussian(len(stacked), size)
    found: dict[str, Any] = {
        "slices": [len(stacked), size],
        "code_size": generator.code_size,
        "shares": list(SHARES),
        "ranks": {"generated": ranks(stacked), "gaussian": ranks(noise)},
        "kernels": {name: ranks(kernel(network, name).flatten(1)) for name in parts},
        "alike": {"layers": list(parts), "over_chance": alike(parts).tolist()},
    }
    if twin is not None:
        pieces = torch.cat(list(cut(twin, list(parts), size).values()))
        kept = energies(pieces)
        found["ranks"]["plain"] = ranks(pieces)
        found["plain_kernels"] = {name: ranks(kernel(twin, name).flatten(1)) for name in parts}
        # The relative error of the best generator of this size for kernels that were trained without one.
        found["plain_error"] = float((1 - kept[min(generator.code_size, len(kept)) - 1]).clamp(min=0).sqrt())
    return found


def draw_spectrum(network: nn.Module, path: Path, title: str, twin: nn.Module | None = None) -> None:
    """Draw the energy of all slices over the rank that keeps it, and the ranks of single kernels."""
    parts, (size, code_size) = slices(network), generators(network)[0].weight.shape
    stacked = torch.cat(list(parts.values()))
    figure = Figure(figsize=(12, 4.6), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    curves = [("generated", stacked, COLORS[0])]
    if twin is not None:
        pieces = torch.cat(list(cut(twin, list(parts), size).values()))
        curves.append(("ordinary, cut into pieces as large", pieces, COLORS[1]))
    curves.append(("Gaussian noise", gaussian(len(stacked), size), "#999999"))
    for text, matrix, color in curves:
        kept = energies(matrix)
        left.plot(range(1, len(kept) + 1), 100 * kept, color=color, lw=1.8, label=f"{text}, {len(matrix)} slices")
    left.axvline(code_size, color=INK, lw=0.8, ls=":")
    left.annotate(f"code size {code_size}", (code_size, 3), (4, 0), textcoords="offset points", color=INK, fontsize=8)
    left.set(xlim=(0, None), ylim=(0, 102))
    left.set_xlabel("rank of the approximation", color=INK)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    for text, model, color in (("generated", network, COLORS[0]), ("ordinary", twin, COLORS[1])):
        if model is not None:
            matrices = [kernel(model, name).flatten(1) for name in parts]
            needed = [100 * ranks(matrix)[0] / min(matrix.shape) for matrix in matrices]
            right.plot(range(1, len(needed) + 1), needed, "o-", ms=4, color=color, lw=1.4, label=text)
    right.set(ylim=(0, 102), xlim=(0.5, len(parts) + 0.5))
    right.set_xlabel("layer", color=INK)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    _style(left, "Energy kept of all slices (%)")
    _style(right, "Rank that keeps 90 % of a kernel's energy (% of full rank)")
    figure.savefig(path)


def draw_codes(network: nn.Module, path: Path, title: str) -> None:
    """Draw the cosines between all slices, and how far those of two layers are from chance."""
    parts = slices(network)
    shown, layers = cosines(parts), alike(parts)
    figure = Figure(figsize=(12, 6), dpi=130, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    left, right = figure.subplots(1, 2)
    top = 3 / next(iter(parts.values())).shape[1] ** 0.5  # three times what chance gives
    image = left.imshow(shown, cmap=MAP, vmin=-top, vmax=top, interpolation="nearest")
    ends = torch.tensor([len(part) for part in parts.values()]).cumsum(0) / step(parts)
    for end in ends[:-1].tolist():
        left.axhline(end - 0.5, color=INK, lw=0.3)
        left.axvline(end - 0.5, color=INK, lw=0.3)
    left.set_title("Cosine of each slice with each other; lines part the layers", loc="left", fontsize=10, color=INK)
    far = max(float((layers - 1).abs().max()), 1e-6)
    edges = (0.5, len(parts) + 0.5)
    extent = (*edges, *edges[::-1])
    blocks = right.imshow(layers, cmap=MAP, vmin=1 - far, vmax=1 + far, interpolation="nearest", extent=extent)
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    right.set_title("Root mean square between layers; 1 is chance", loc="left", fontsize=10, color=INK)
    right.set_xlabel("layer", color=INK)
    left.set_xlabel("slice", color=INK)
    for axes, drawn in ((left, image), (right, blocks)):
        axes.tick_params(colors=INK, labelsize=8)
        axes.spines[:].set_color("#999999")
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01)
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)
    figure.savefig(path)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(visible=True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
