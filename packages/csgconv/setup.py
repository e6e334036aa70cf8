"""The native libraries of csgconv; everything else stands in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "_build"))
from extension import native

setup(**native("csgconv"))
