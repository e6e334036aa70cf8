"""Files of `save_compact`: never half written, and refused where they are damaged or those of another network."""

from __future__ import annotations

import os
import threading
import zlib

import pytest
import torch
from nets_to_convert import SMALL, generated, images, net
from torch import nn

from csgconv import CSGConv2d, SliceGenerator, convert, load_compact, packing, save_compact

pytestmark = pytest.mark.filterwarnings("ignore:the model has")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def twin(**options) -> nn.Module:
    return convert(net(), **{**SMALL, **options}).eval()


def test_half_written_files_are_never_seen(tmp_path, monkeypatch):
    model, path = generated(), tmp_path / "net.csg"
    save_compact(model, path)
    before = path.read_bytes()

    def fails(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="No space"):
        save_compact(model, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.csg"]


def test_threads_write_one_after_another(tmp_path, monkeypatch):
    models, path, save = (generated().eval(), generated().eval()), tmp_path / "net.csg", torch.save

    def interrupted(content, file):
        monkeypatch.setattr(torch, "save", save)
        other = threading.Thread(target=save_compact, args=(models[1], path))
        other.start(), other.join()
        save(content, file)

    monkeypatch.setattr(torch, "save", interrupted)
    save_compact(models[0], path)
    assert torch.equal(load_compact(twin(), path)(images()), models[0](images())) and os.listdir(tmp_path) == [
        "net.csg"
    ]


def test_what_is_replaced_keeps_its_links_and_permissions(tmp_path):
    model, path, link = generated().eval(), tmp_path / "net.csg", tmp_path / "last.csg"
    save_compact(generated(), path)
    path.chmod(0o600)
    link.symlink_to(path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_compact(model, link)
        assert reader.read() == before  # who reads the old file reads all of it
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    assert torch.equal(load_compact(twin(), path)(images()), model(images()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"code_size": 9}, "8-4x4x3x3 of 2 raster layers, but the model has 3.generator.9-4x4x3x3"),
        ({"layout": "flat"}, "of 2 raster layers, but the model has 3.generator.8-4x4x3x3 of 2 flat layers"),
        ({"binary": True}, r"\(binary\)"),
        ({"where": "^6"}, "but the model has 6.generator"),
    ],
)
def test_models_of_other_generators_are_refused(tmp_path, options, told):
    save_compact(generated(), tmp_path / "net.csg")
    other = twin(**options)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=told):
        load_compact(other, tmp_path / "net.csg")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


class Ordered(nn.Module):
    """Layers of the same names and shapes, made in any order, as are their codes."""

    def __init__(self, order: str, width: int = 5) -> None:
        super().__init__()
        generator, made = SliceGenerator(6, (4, 4, 3, 3)), {}
        for name in order:
            made[name] = CSGConv2d(5, width if name == "c" else 5, 3, generator)
        self.a, self.b, self.c = (made[name] for name in "abc")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Ordered("acb"), r"one of them 'b' of \[5, 5, 3, 3, 'raster'\], but .* 'c' of \[5, 5, 3, 3"),
        (Ordered("abc", 6), r"'c' of \[5, 5, 3, 3, 'raster'\], but the model has .* 'c' of \[6, 5"),
    ],
)
def test_models_of_the_same_names_and_other_layers_are_refused(tmp_path, other, told):
    save_compact(Ordered("abc"), tmp_path / "net.csg")
    with pytest.raises(ValueError, match=told):
        load_compact(other, tmp_path / "net.csg")
    load_compact(Ordered("abc"), tmp_path / "net.csg")


def test_models_of_other_layers_are_refused(tmp_path):
    save_compact(generated(), tmp_path / "net.csg")
    other = twin()
    other[9] = nn.Linear(12, 7)
    with pytest.raises(RuntimeError, match=r"9\.weight"):
        load_compact(other, tmp_path / "net.csg")


def test_files_that_are_damaged_or_something_else(tmp_path):
    model, path = generated(), tmp_path / "net.csg"
    save_compact(model, path)
    content = torch.load(path, weights_only=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_compact(twin(), path)
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match="none of save_compact"):
        load_compact(twin(), path)
    for change, message in (
        ({"data": content["data"][:-40]}, "damaged"),
        ({"header": content["header"][:-9]}, "damaged"),
        ({"data": content["data"] ^ (torch.arange(len(content["data"])) == 77)}, "not those that were written"),
        ({"csgconv": 2}, "has format 2, but this version of csgconv reads 1: update"),
    ):
        with pytest.raises(ValueError, match=message):
            load_compact(twin(), {**content, **change})
    with pytest.raises(FileNotFoundError):
        load_compact(twin(), tmp_path / "none.csg")


@pytest.mark.parametrize(
    "generators", [None, 3, [1], {"3.generator.": None}, {"3.generator.": {"layers": [1]}}], ids=str
)
def test_files_of_other_generators_than_ever_were_written(generators):
    content = packing.pack({}, torch.float32, set(), {"generators": generators})
    with pytest.raises(ValueError, match="holds something else than generators, but the model has 3"):
        load_compact(twin(), content)


def test_files_that_someone_made(tmp_path):
    save_compact(generated(), tmp_path / "net.csg")
    content = torch.load(tmp_path / "net.csg", weights_only=True)
    text = zlib.decompress(bytes(content["header"].tolist())) + b" " * packing.HEADER
    for change, message in (
        ({"csgconv": torch.ones(3)}, "none of save_compact"),
        ({"header": torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)}, "damaged"),  # 65 kB
        ({"header": content["header"][:-4]}, "its header has no end"),
    ):
        with pytest.raises(ValueError, match=message):
            load_compact(twin(), {**content, **change})
    about, state = packing.unpack(content)
    for name, value in (("3.generator.codes", torch.tensor(3.0)), (7, torch.ones(1))):
        made = packing.pack({**state, name: value}, torch.float32, set(), about)
        with pytest.raises(RuntimeError, match=str(name)):
            load_compact(twin(), made)


def test_places_where_no_file_can_be_are_refused_by_name(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file in it"):
        save_compact(generated(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"net\.csg' is in a folder that is not there: make .*missing first"):
        save_compact(generated(), tmp_path / "missing" / "net.csg")
    with pytest.raises(TypeError, match="path must be that of a file to write, but it is 3"):
        save_compact(generated(), 3)
    assert not os.listdir(tmp_path)


def test_a_file_is_for_a_network_that_was_converted(tmp_path):
    save_compact(generated(), tmp_path / "net.csg")
    with pytest.raises(ValueError, match="no codes: build, or convert, it as the one that was saved"):
        load_compact(net(), tmp_path / "net.csg")
