"""`python -m csgconv`: which backends are here, which one runs, and why."""

from __future__ import annotations

import argparse
import sys

from . import __version__, backend_info

if __name__ == "__main__":
    what = "Prints which backends are here, which one runs, and why the others do not."
    argparse.ArgumentParser(prog="python -m csgconv", description=what).parse_args()
    lines = [f"csgconv {__version__}"]
    for name, value in backend_info().items():
        lines.append(f"{name:12} {value}")
    sys.stdout.write("\n".join(lines) + "\n")
