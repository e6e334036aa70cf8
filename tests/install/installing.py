"""What the tests of installing share: throw-away environments, and what a newcomer would try in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
LEFTOVERS = shutil.ignore_patterns("build", "*.so", "*.egg-info", "__pycache__")
PIPS: dict[Path, str] = {}  # which one each environment has

# What a newcomer would try; the reference must agree with whatever runs.
TRY = {
    "csgconv": """
generator, x = csgconv.SliceGenerator(8, (12, 12, 3, 3), layout="tile"), torch.randn(2, 16, 9, 11)
layer = csgconv.CSGConv2d(16, 16, 3, generator)
with csgconv.use_backend("reference"):
    expected = layer(x)
generator.invalidate()
for _ in range(2):
    torch.testing.assert_close(layer(x), expected)
""",
    "dwoconv1d": """
x, weight, angle = torch.randn(2, 16, 9, 11), torch.randn(16, 5), dwoconv1d.assign_angles(16)
with dwoconv1d.use_backend("reference"):
    expected = dwoconv1d.oriented_conv1d(x, weight, angle)
for _ in range(2):
    torch.testing.assert_close(dwoconv1d.oriented_conv1d(x, weight, angle), expected)
""",
    "pathconv": """
x, weight = torch.randn(2, 3, 32, 32), torch.randn(16, 9)
with pathconv.use_backend("reference"):
    expected = pathconv.traverse_conv1d(x, "g", weight)
for _ in range(2):
    torch.testing.assert_close(pathconv.traverse_conv1d(x, "g", weight), expected)
""",
    "pix": """
x, p = torch.randn(2, 16, 9, 11), torch.rand(2, 4)
with pix.use_backend("reference"):
    expected = pix.pick_or_mix(x, p, 4)
for _ in range(2):
    torch.testing.assert_close(pix.pick_or_mix(x, p, 4), expected)
""",
    "smpconv": """
layer, x = smpconv.SMPDepthwiseConv2d(16, 7), torch.randn(2, 16, 9, 11)
with smpconv.use_backend("reference"):
    expected = layer(x)
for _ in range(2):
    torch.testing.assert_close(layer(x), expected)
""",
}


def run(*command, cwd=None, check=True, **env):
    """Run a command in an environment that knows nothing of ours but what `env` says."""
    hidden = (
        "PYTHON",
        "PIP_CONSTRAINT",
        "VIRTUAL_ENV",
        "TORCH_CUDA",
        "NVCC",
        *(f"{name.upper()}_" for name in PACKAGES),
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    clean["PIP_NO_COMPILE"] = "0"  # is --no-compile to pip: Python compiles what it imports, and 5,000 files stay
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**clean, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def new_environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def pip(python: Path, *arguments, version: str = "pip", **options) -> subprocess.CompletedProcess:
    if PIPS.get(python) != version:
        run(python, "-m", "pip", "install", "-q", "--upgrade", version)
        PIPS[python] = version
    return run(python, "-m", "pip", *arguments, **options)


def try_out(package: str, python: Path, cwd: Path) -> tuple[dict, str]:
    """Run what a newcomer would try; return `backend_info()`, with the file that was imported, and the warnings."""
    report = f"print(json.dumps({{**{package}.backend_info(), 'file': {package}.__file__}}))"
    done = run(python, "-c", f"import json, torch, {package}\n{TRY[package]}\n{report}", cwd=cwd)
    return json.loads(done.stdout), done.stderr
