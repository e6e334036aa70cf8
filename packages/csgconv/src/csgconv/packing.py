"""Tensors in few bytes, and a file of them that is never half written."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
import zlib
from collections.abc import Mapping, Set
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
HOLDS = {torch.float16: 1e-3, torch.float32: 1e-6}  # relative error of a tensor, up to which a dtype holds it
MOST = 127
HEADER = 1 << 26  # bytes of text, at most: a small file could grow into any memory


def encode(tensor: Tensor, dtype: torch.dtype, rows: bool) -> tuple[list[str], Tensor]:
    """`tensor` in `dtype` or, where that does not hold its numbers, in a wider one: the dtypes used, and the bytes.

    int8 is for matrices with `rows` of like numbers, finite ones: symmetric, with a scale for each row. What else was
    to be int8 becomes float16. Integers, and floats that are no wider than `dtype`, stay as they are.
    """
    tensor = tensor.detach().cpu()
    if dtype is torch.int8:
        matrix = tensor.dim() == 2 and tensor.numel() > 0 and tensor.is_floating_point()
        if rows and matrix and bool(tensor.isfinite().all()):
            scale = narrowed(tensor.double().abs().amax(1, keepdim=True) / MOST, torch.float16, rows)
            steps = (tensor.double() / scale.double()).nan_to_num(0).round().clamp(-MOST, MOST)
            return ["int8", _name(scale.dtype)], torch.cat([_bytes(steps.to(torch.int8)), _bytes(scale)])
        dtype = torch.float16
    tensor = narrowed(tensor, dtype, rows and tensor.dim() == 2)
    return [_name(tensor.dtype)], _bytes(tensor)


def decode(data: Tensor, used: list[str], shape: list[int], dtype: torch.dtype) -> Tensor:
    """The tensor of `dtype` that `encode` made the bytes of, as nearly as they tell."""
    numbers, *scale = (getattr(torch, name) for name in used)
    end = prod(shape) * numbers.itemsize
    tensor = data[:end].clone().view(numbers).view(shape)  # a copy starts where any dtype may
    if scale:
        tensor = tensor.double() * data[end:].clone().view(scale[0]).double()[:, None]
    return tensor.to(dtype)


def narrowed(tensor: Tensor, dtype: torch.dtype, rows: bool = False) -> Tensor:
    """`tensor` in the first dtype from `dtype` on that holds it; float16 holds no very large or very small numbers.

    With `rows` each one must be held: other layers own others, of other scales.
    """
    for narrow, error in HOLDS.items():
        if tensor.is_floating_point() and dtype.itemsize <= narrow.itemsize < tensor.dtype.itemsize:
            small = tensor.to(narrow)
            lost, whole = (t if rows else t.reshape(1, -1) for t in (small.double() - tensor.double(), tensor.double()))
            if bool((lost.norm(dim=1) <= error * whole.norm(dim=1)).all()):
                return small
    return tensor


def pack(tensors: Mapping[str, Tensor], dtype: torch.dtype, rows: Set[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """`tensors` and `about`, plain values, as a file holds them; `rows` names the matrices for int8.

    A tensor with several names is there once.
    """
    places: list[list[Any]] = []
    parts, end = [torch.empty(0, dtype=torch.uint8, device="cpu")], 0
    known: dict[object, list[Any]] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        key = place if tensor.numel() else name
        if key not in known:
            used, data = encode(tensor, dtype, name in rows)
            known[key] = [list(tensor.shape), _name(tensor.dtype), used, end, end + len(data)]
            parts.append(data)
            end += len(data)
        places.append([name, *known[key]])
    data = torch.cat(parts)
    text = json.dumps({**about, "tensors": places, "crc": _checksum(data)}, separators=(",", ":"))
    header = torch.tensor(list(zlib.compress(text.encode(), 9)), dtype=torch.uint8, device="cpu")
    return {"csgconv": FORMAT, "header": header, "data": data}


def unpack(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`about` and the tensors that `pack` was given, as nearly as `content` tells.

    Raises:
        ValueError: `content` is something else, damaged, or of a later version.
    """
    if not is_packed(content):
        raise ValueError(
            "the checkpoint is none of save_compact, which load_compact reads: load its state dict as usual."
        )
    if content["csgconv"] != FORMAT:
        raise ValueError(
            f"the compact checkpoint has format {content['csgconv']}, but this version of csgconv reads {FORMAT}: "
            "update csgconv."
        )
    try:
        stream = zlib.decompressobj()
        about = json.loads(stream.decompress(bytes(content["header"].tolist()), HEADER))
        if not stream.eof:
            raise ValueError("its header has no end")
        places, data = about.pop("tensors"), content["data"]
        if about.pop("crc") != _checksum(data):  # torch reads whatever bytes there are
            raise ValueError("its numbers are not those that were written")
        tensors = {
            str(name): decode(data[start:end], used, shape, getattr(torch, dtype))
            for name, shape, dtype, used, start, end in places
        }
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, zlib.error) as error:
        raise ValueError(f"the compact checkpoint is damaged: {str(error).splitlines()[0]}") from error
    return about, tensors


def is_packed(content: Mapping[str, Any]) -> bool:
    """Whether `pack` made this."""
    return content.keys() >= {"csgconv", "header", "data"} and isinstance(content["csgconv"], int)


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuses a `path` where no file can be written, before any work is done for it."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be that of a file to write, but it is {path!r}.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"path={os.fspath(path)!r} is a folder: give the name of a file in it.")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"path={os.fspath(path)!r} is in a folder that is not there: make {folder} first.")


def replace_file(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` beside `path`, flushes it to disk, and gives it that name; links and permissions stay."""
    path = Path(os.path.realpath(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _checksum(data: Tensor) -> int:
    data = data.cpu().contiguous()
    return zlib.crc32((ctypes.c_ubyte * data.nbytes).from_address(data.data_ptr()))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
