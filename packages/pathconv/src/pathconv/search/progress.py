"""Progress bars, where tqdm is installed and a terminal is there to show them."""

from __future__ import annotations

from typing import Any


class Bar:
    """A bar moved by hand, to be used in a `with` statement; nothing where it cannot be shown."""

    def __init__(self, what: str, total: int, shown: bool):
        self._bar: Any = None
        if shown:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(desc=what, total=total, leave=False, disable=None)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def move(self, steps: int, note: str = "") -> None:
        """Goes on by `steps`."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
