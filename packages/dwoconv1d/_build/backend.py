# edit in shared/common/build/backend.py
"""PEP 517 backend: setuptools, building against the torch that is already installed.

pip's build isolation hides the user's environment, and a plain `requires = ["torch"]` would download 3 GB to compile
100 KB. The interpreter that runs the build is still the user's, so its site-packages are one call away; torch becomes a
build requirement only where no usable one is found (`uv` and `python -m build` use an interpreter of their own).
"""

from __future__ import annotations

import re
import shutil
import site
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import build_sdist, prepare_metadata_for_build_editable, prepare_metadata_for_build_wheel

__all__ = ["build_sdist", "prepare_metadata_for_build_editable", "prepare_metadata_for_build_wheel"]

TORCH = (2, 10)
USER = [site.getusersitepackages()] if sys.prefix == sys.base_prefix else []
for folder in [*site.getsitepackages(), *USER]:
    site.addsitedir(folder)  # appended: what the isolated environment holds still comes first


def get_requires_for_build_wheel(config_settings=None):
    """Ask for torch only where there is none, or one older than the stable ABI we use."""
    try:
        found = tuple(int(part) for part in re.findall(r"\d+", version("torch"))[:2])
    except PackageNotFoundError:
        found = (0, 0)
    return [] if found >= TORCH else ["torch>={}.{}".format(*TORCH)]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings=None):
    return []


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    for stale in Path("build").glob("lib*"):  # setuptools would pack libraries and modules of an earlier build
        shutil.rmtree(stale)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
