# edit in shared/common/build/backend.py
"""PEP 517 backend: setuptools, building against the torch that is already installed.

pip's build isolation hides the user's environment, and `requires = ["torch"]` would fetch 3 GB to compile 100 KB. But
the interpreter is still the user's, so its site-packages are one call away. torch is a build requirement only where no
usable one is found (`uv` and `python -m build` use an interpreter of their own).
"""

from __future__ import annotations

import re
import shutil
import site
import sys
from importlib import metadata
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that are not changed below)

USER = [site.getusersitepackages()] if sys.prefix == sys.base_prefix else []
for folder in [*site.getsitepackages(), *USER]:
    site.addsitedir(folder)  # appended: what the isolated environment holds still comes first


def get_requires_for_build_wheel(config_settings=None):
    installed = [found.version for found in metadata.distributions(name="torch")][:1]
    usable = installed and [int(part) for part in re.findall(r"\d+", installed[0])[:2]] >= [2, 10]
    return [] if usable else ["torch>=2.10"]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    for stale in Path("build").glob("lib*"):  # setuptools would pack what an earlier build left there
        shutil.rmtree(stale)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    for stale in Path("src").glob("*/_C*.so"):  # and a library that is no longer wanted would still be loaded
        stale.unlink()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


get_requires_for_build_editable = get_requires_for_build_wheel
