"""Copies `shared/common` into every package, or with `--check` lists the copies that differ and exits with 1.

    python -> packages/<p>/src/<p>/_common      native -> packages/<p>/csrc/common      build -> packages/<p>/_build

Each package stands alone and nothing is edited twice: the first line of a copy says where to edit. The tools of
`convert.py` go to the packages that have one.
"""

from __future__ import annotations

import sys
from pathlib import Path

COMMON = Path(__file__).resolve().parent
PACKAGES = COMMON.parents[1] / "packages"


def copies() -> dict[Path, str]:
    """Map every copy to the text it must hold."""
    texts = {}
    for package in sorted(path.parent for path in PACKAGES.glob("*/pyproject.toml")):
        targets = {
            "python": package / "src" / package.name / "_common",
            "native": package / "csrc/common",
            "build": package / "_build",
        }
        for kind, target in targets.items():
            for source in sorted(path for path in (COMMON / kind).glob("*") if path.suffix in {".py", ".h", ".cuh"}):
                if source.name == "convert.py" and not (target.parent / source.name).exists():
                    continue
                mark = "#" if source.suffix == ".py" else "//"
                texts[target / source.name] = f"{mark} edit in shared/common/{kind}/{source.name}\n{source.read_text()}"
    return texts


def strays(texts: dict[Path, str]) -> list[Path]:
    """List files in the folders of copies that have no source any more."""
    folders = {path.parent for path in texts}
    return sorted(
        path
        for folder in folders
        for path in folder.glob("*")
        if path.suffix in {".py", ".h", ".cuh"} and path not in texts
    )


def main(check: bool) -> int:
    texts = copies()
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text() != text] + strays(texts)
    for path in changed:
        print(f"{'differs' if check else 'synced'}: {path.relative_to(PACKAGES.parent)}")
        if check:
            continue
        if path in texts:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[path])
        else:
            path.unlink()
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
