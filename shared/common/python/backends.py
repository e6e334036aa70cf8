"""Which code runs the ops of one package: native library, CuPy or the reference in plain torch, and why.

Every op is one `torch.ops` entry. The reference is its default kernel on every device; native libraries register
faster kernels for CPU and CUDA that take precedence; `select` puts another kernel in front of both and takes it away again.
So autograd, `torch.compile` and `vmap` see the same op whichever backend runs.
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
        package: import name, for example `"dwoconv1d"`.
        schemas: op name -> schema, used where no native library has defined the op.
        reference: op name -> kernel in plain torch with the schema's arguments.
    """

    def __init__(self, package: str, schemas: Mapping[str, str], reference: Mapping[str, Callable]):
        self.package, self.ops, self.reference = package, tuple(schemas), reference
        self.variable = f"{package.upper()}_BACKEND"
        self.chosen = "auto"
        self._override: torch.library.Library | None = None
        self._warned: set[str] = set()
        # Why a backend is not there; an empty string means that it is.
        self.why = {"cpu": self._load("_C", "cpu"), "cupy": self._why_no_cupy()}
        no_cuda = "" if torch.version.cuda else "this torch was built without CUDA."
        self.why["cuda"] = no_cuda or self.why["cpu"] or self._load("_C_cuda", "cuda")  # _C holds the schemas
        self._default = torch.library.Library(package, "FRAGMENT")
        defined = self._defined()
        for op, schema in schemas.items():
            if not defined:
                self._default.define(schema, tags=torch.Tag.pt2_compliant_tag)
            self._default.impl(op, self._fallback(op), "CompositeExplicitAutograd")
        wanted = os.environ.get(self.variable, "auto")
        try:
            self.select(wanted)
        except (RuntimeError, ValueError) as error:  # an import never fails
            warnings.warn(f"{self.variable}={wanted} is ignored: {error}", RuntimeWarning, stacklevel=2)
            self.select("auto")

    def active(self, device: str) -> str:
        """Name of the backend that runs tensors on `device` ("cpu" or "cuda") now."""
        if self.chosen == "reference" or (self.chosen == "cupy" and device == "cuda"):
            return self.chosen
        if not self.why[device]:
            return "native"
        return "cupy" if device == "cuda" and not self.why["cupy"] else "reference"

    def select(self, name: str) -> None:
        """Makes `name` the backend of every op, for the whole process, until the next call.

        "auto" is native, else CuPy (CUDA only), else the reference. "native" and "cupy" refuse to run anything else:
        "native" fails on CUDA tensors when only the CPU library is there; "cupy" concerns CUDA tensors alone.

        Raises:
            ValueError: unknown name.
            RuntimeError: that backend is not available; the message says why.
        """
        if name not in NAMES:
            raise ValueError(f"The backend must be one of {', '.join(NAMES)}, but it is {name!r}.")
        missing = {"native": self.why["cpu"], "cupy": self.why["cupy"]}.get(name)
        if missing:
            raise RuntimeError(f"The backend {name!r} is not available: {missing}")
        if self._override is not None:
            self._override._destroy()  # brings back the kernels below it
        self.chosen, self._override = name, torch.library.Library(self.package, "IMPL")
        for op in self.ops:
            if name == "reference":
                for key in KEYS.values():
                    self._override.impl(op, self.reference[op], key)
            elif self.active("cuda") == "cupy":
                self._override.impl(op, self._cupy(op), "CUDA")
            elif name == "native" and self.why["cuda"]:
                self._override.impl(op, self._refuse, "CUDA")

    @contextlib.contextmanager
    def _until_exit(self, previous: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.select(previous)

    def use(self, name: str) -> contextlib.AbstractContextManager[None]:
        """`select(name)` at once; used in a `with` statement, the previous backend comes back at its end."""
        previous = self.chosen
        self.select(name)
        return self._until_exit(previous)

    def info(self) -> dict[str, object]:
        """What is there, what runs now, and why the rest is missing."""
        level = getattr(getattr(torch.ops, self.package), "cpu_level", None)  # defined by the CPU library
        return {
            "package": self.package,
            "torch": torch.__version__,
            "chosen": self.chosen,
            "active": {device: self.active(device) for device in KEYS},
            "native_cpu": self.why["cpu"] or (f"available, {level()}" if level else "available"),
            "native_cuda": self.why["cuda"] or "available",
            "cupy": self.why["cupy"] or "available",
            "reference": "available",
        }

    def _load(self, library: str, device: str) -> str:
        """Loads one native library unless its kernels are registered already; returns why it could not, or ""."""
        if self._defined() and self._registered(KEYS[device]):  # a second copy of a stable-ABI library would end the process
            return ""
        spec = importlib.util.find_spec(f"{self.package}.{library}")
        if spec is None or spec.origin is None:
            compiler = "nvcc" if device == "cuda" else "a C++ compiler"
            return (
                f"{self.package} was installed without its compiled library {library}. Make {compiler} available and install "
                f"it again; {self.package.upper()}_REQUIRE_NATIVE=1 makes pip show what fails."
            )
        try:
            torch.ops.load_library(spec.origin)
        except Exception as error:  # whatever is wrong with the library, the reference still works
            return f"{spec.origin} could not be loaded: {error}. Install {self.package} again beside this torch {torch.__version__}."
        return ""

    def _why_no_cupy(self) -> str:
        if not torch.version.cuda:
            return "this torch was built without CUDA."
        if importlib.util.find_spec(f"{self.package}.cupy_backend") is None:
            return f"{self.package} has no CuPy kernels."
        if importlib.util.find_spec("cupy") is None:
            return f'CuPy is not installed: pip install "{self.package}[cupy{torch.version.cuda.split(".")[0]}]".'
        return ""

    def _defined(self) -> bool:
        return all(hasattr(getattr(torch.ops, self.package), op) for op in self.ops)

    def _registered(self, key: str) -> bool:
        return all(torch._C._dispatch_has_kernel_for_dispatch_key(f"{self.package}::{op}", key) for op in self.ops)

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
                warnings.warn(
                    f"{self.package} runs its slow reference in plain PyTorch on {device}: {why} "
                    f'{self.package}.use_backend("reference") accepts that silently.',
                    RuntimeWarning,
                    stacklevel=2,
                )
            return self.reference[op](*args)

        return kernel
