# edit in shared/common/python/backends.py
"""Which code runs the ops of one package: native library, CuPy or the reference in plain torch, and why.

Every op is one `torch.ops` entry. The reference is its kernel on any device; native libraries add faster ones for CPU
and CUDA, which take precedence; `select` puts another kernel in front of these and takes it away again. So autograd,
`torch.compile` and `vmap` see the same op whichever backend runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

NAMES = ("auto", "native", "cupy", "reference")
KEYS = {"cpu": "CPU", "cuda": "CUDA"}  # device type -> dispatch key


class Backends:
    """Loads, registers and chooses the kernels of one package, whose name is also the namespace of its ops.

    Args:
        package: import name; CuPy kernels are functions named as the ops in its module `cupy_backend`.
        schemas: op name -> schema without the name; native libraries define the same.
        reference: op name -> kernel in plain torch.
    """

    def __init__(self, package: str, schemas: Mapping[str, str], reference: Mapping[str, Callable]):
        self.package, self.ops, self.reference = package, tuple(schemas), reference
        # Why a backend is not there; an empty string means that it is.
        self.why = {"cpu": self._load("_C", "cpu"), "cupy": self._why_no_cupy()}
        without_cuda = "" if torch.version.cuda else "this torch was built without CUDA."
        self.why["cuda"] = without_cuda or self.why["cpu"] or self._load("_C_cuda", "cuda")  # _C holds the schemas
        self._warned: set[str] = set()
        self._base = torch.library.Library(package, "FRAGMENT")
        self._front: torch.library.Library | None = None
        for op, schema in schemas.items():
            if not self._defined(op):
                self._base.define(op + schema)
            self._base.impl(op, self._fallback(op), "CompositeExplicitAutograd")
        variable = f"{package.upper()}_BACKEND"
        try:
            self.select(os.environ.get(variable, "auto"))
        except (RuntimeError, ValueError) as error:  # an import never fails
            warnings.warn(f"{variable} is ignored. {error}", RuntimeWarning, stacklevel=2)
            self.select("auto")

    def select(self, name: str) -> None:
        """Makes `name` the backend of all ops in this process; `use_backend` of the package tells what each means.

        Raises:
            ValueError: unknown name.
            RuntimeError: that backend is not available; the message says why.
        """
        if name not in NAMES:
            raise ValueError(f"The backend must be one of {', '.join(NAMES)}, but it is {name!r}.")
        missing = {"native": self.why["cpu"], "cupy": self.why["cupy"]}.get(name)
        if missing:
            raise RuntimeError(f"The backend {name!r} is not available: {missing}")
        if self._front is not None:
            self._front._destroy()  # the kernels behind it show again
        self.chosen, self._front = name, torch.library.Library(self.package, "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # torch 2.10 remarks on overriding
            for op in self.ops:
                if name == "reference":
                    for key in KEYS.values():
                        self._front.impl(op, self.reference[op], key)
                elif self.active("cuda") == "cupy":
                    self._front.impl(op, self._cupy(op), "CUDA")
                elif name == "native" and self.why["cuda"]:
                    self._front.impl(op, self._refuse, "CUDA")

    def use(self, name: str) -> contextlib.AbstractContextManager[None]:
        """`select(name)` at once; used in a `with` statement, the previous backend comes back at its end."""
        previous = self.chosen
        self.select(name)
        return self._until_exit(previous)

    @contextlib.contextmanager
    def _until_exit(self, previous: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.select(previous)

    def active(self, device: str) -> str:
        """The backend that runs tensors on `device`, "cpu" or "cuda", now."""
        if self.chosen == "reference" or (self.chosen == "cupy" and device == "cuda"):
            return self.chosen
        if not self.why[device]:
            return "native"
        if device == "cuda" and self.chosen == "native":
            return "none"
        return "cupy" if device == "cuda" and not self.why["cupy"] else "reference"

    def info(self) -> dict[str, object]:
        """What is there, what runs now, and why the rest is missing."""
        namespace = getattr(torch.ops, self.package)
        levels = {"cpu": "cpu_level", "cuda": "cuda_archs"}  # ops of the native libraries that say what they run

        def native(device: str) -> str:
            level = getattr(namespace, levels[device], None)
            return self.why[device] or (f"available ({level()})" if level else "available")

        return {
            "chosen": self.chosen,
            "active_cpu": self.active("cpu"),
            "active_cuda": self.active("cuda") if torch.cuda.is_available() else "no GPU is visible",
            **{f"native_{device}": native(device) for device in KEYS},
            "cupy": self.why["cupy"] or "available",
            "reference": "available",
        }

    def _load(self, library: str, device: str) -> str:
        """Loads a native library unless its kernels are there: a second copy would end the process. Returns why not."""
        if all(self._defined(op) and self._has_kernel(op, KEYS[device]) for op in self.ops):
            return ""
        spec = importlib.util.find_spec(f"{self.package}.{library}")
        if spec is None or spec.origin is None:
            # torch builds extensions with a compiler of its own CUDA generation alone.
            compiler = f"nvcc {str(torch.version.cuda).split('.')[0]}.x" if device == "cuda" else "a C++ compiler"
            return (
                f"{self.package} was installed without its library {library}. Make {compiler} available and install it "
                f"again; {self.package.upper()}_REQUIRE_NATIVE=1 makes the installation say what fails."
            )
        try:
            torch.ops.load_library(spec.origin)
        except Exception as error:  # whatever is wrong with the library, the reference still works
            return f"{spec.origin} does not load beside torch {torch.__version__}: {error}"
        return ""

    def _why_no_cupy(self) -> str:
        if not torch.version.cuda:
            return "this torch was built without CUDA."
        if importlib.util.find_spec(f"{self.package}.cupy_backend") is None:
            return f"{self.package} has no CuPy kernels."
        if not (Path(__file__).parents[1] / "_csrc" / "cuda").is_dir():  # a link, which some ways to copy a tree lose
            return f"{self.package} was installed without its CUDA sources: install it from a clone or a wheel."
        spec = importlib.util.find_spec("cupy")
        if spec is None or spec.origin is None:  # any folder of that name is found, without an origin
            generation = torch.version.cuda.split(".")[0]
            return f'CuPy for CUDA {generation} is not installed: pip install "{self.package}[cupy{generation}]".'
        return ""

    def _defined(self, op: str) -> bool:
        return hasattr(getattr(torch.ops, self.package), op)

    def _has_kernel(self, op: str, key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"{self.package}::{op}", key)

    def _cupy(self, op: str) -> Callable:
        """Kernel that imports CuPy, which takes seconds, at its first call."""

        def kernel(*args):
            return getattr(importlib.import_module(f"{self.package}.cupy_backend"), op)(*args)

        return kernel

    def _refuse(self, *args):
        raise RuntimeError(f'The backend "native" is not available for CUDA tensors: {self.why["cuda"]}')

    def _fallback(self, op: str) -> Callable:
        """The reference kernel, which says once per kind of device why it runs."""

        def kernel(*args):
            device = args[0].device.type
            if device not in self._warned:
                self._warned.add(device)
                why = self.why.get(device, f"there are no kernels for {device} tensors.")
                silence = f'{self.package}.use_backend("reference") accepts that silently.'
                text = f"{self.package} runs its slow reference in plain PyTorch on {device}: {why} {silence}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            return self.reference[op](*args)

        return kernel
