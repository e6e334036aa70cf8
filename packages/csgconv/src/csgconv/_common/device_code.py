# edit in shared/common/python/device_code.py
"""Device code that CuPy compiles at first use and launches on torch's stream: for a GPU beside which there is no nvcc.

Importing this module needs torch alone.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Any

import torch

DEFAULT_SHARED = 48 * 1024  # bytes of shared memory that a block gets without asking
C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "leanconv::Half",
    torch.bfloat16: "leanconv::BFloat16",
}


class DeviceCode:
    """The kernels of one `.cuh` file; each takes one struct of parameters.

    Args:
        folder: what `#include "..."` starts from.
        file: the file in it.
        namespace: where the kernels are, as "package" or "package::part".
        threads: of a block.
    """

    def __init__(self, folder: Path, file: str, namespace: str, threads: int):
        self.folder, self.file, self.namespace, self.threads = folder, file, namespace, threads
        self._kernel = functools.cache(self._compile)

    def source(self) -> str:
        """The device code in one piece: CuPy's cache of compiled kernels does not look into included files."""
        seen = set()

        def include(match: re.Match) -> str:
            if match[1] in seen:
                return ""
            seen.add(match[1])
            return expand((self.folder / match[1]).read_text())

        def expand(text: str) -> str:
            return re.sub(r'^#include "(.*)"$', include, text.replace("#pragma once", ""), flags=re.MULTILINE)

        return expand(f'#include "{self.file}"')

    def launch(self, name: str, params: ctypes.Structure, blocks: int, shared_bytes: int, device: torch.device) -> None:
        """Queues `name`, for example "gather<float, true>", on torch's current stream of `device`."""
        import cupy

        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream, device.index)
        with cupy.cuda.Device(device.index), stream:
            kernel = self._kernel(name)
            if shared_bytes > DEFAULT_SHARED:
                # Not what this launch needs: another thread could set less before it.
                kernel.max_dynamic_shared_size_bytes = shared_limit(device)
            kernel((blocks,), (self.threads,), (by_value(params),), shared_mem=shared_bytes)

    def _compile(self, name: str) -> Any:
        """A compiled kernel; CuPy keeps it per GPU, and on disk for the next process."""
        import cupy

        name = f"{self.namespace}::{name}"
        return cupy.RawModule(code=self.source(), options=("-std=c++17",), name_expressions=(name,)).get_function(name)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may ask for."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]


def by_value(params: ctypes.Structure) -> Any:
    """The struct as CuPy passes structs: a NumPy array of one element."""
    import numpy

    return numpy.frombuffer(bytearray(params), dtype=numpy.dtype((numpy.void, ctypes.sizeof(params))))
