# edit in shared/common/python/weights.py
"""Reads the files in which others have published their weights."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch


def read(path: str | PathLike[str]) -> Mapping[str, Any]:
    """The dictionary in a file that `torch.save` wrote; nothing in the file is run.

    Raises:
        TypeError: `path` is something else.
        OSError: there is no such file.
        ValueError: no such dictionary, a damaged file, or one that holds more than tensors and plain values.
    """
    if not isinstance(path, (str, PathLike)):  # an integer would be an open file of somebody else
        raise TypeError(f"path must be that of a file, but it is {path!r}.")
    with open(path, "rb") as file:
        start = file.read(24)
    if not start.startswith((b"PK", b"\x80")):  # a zip archive; a pickle, as torch wrote until version 1.6
        how = f"starts with {start!r}" if start else "is empty"
        raise ValueError(f"{path} is no checkpoint: it {how}, so look at what was downloaded.")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):  # of which torch says more than anyone wants to read
        raise ValueError(f"{path} is damaged or no checkpoint: it has no end, so write or download it again.")
    try:
        # Training scripts store their parsed command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, which to read is to run: only if you trust it, pass what "
            "torch.load(..., weights_only=False) returns."
        ) from error
    except Exception as error:  # what a damaged file leads to is anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged or no checkpoint: {why}") from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, but a checkpoint is a dict.")
    return checkpoint
