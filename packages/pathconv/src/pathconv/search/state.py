"""What an exact search knows, kept in a file so that it can go on later."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..curves import PathConfig
from .greedy import uncovered
from .universe import Universe

_FORMAT, _VERSION = "pathconv search state", 2


@dataclass
class State:
    """The best set so far, and which sets are done: all of fewer than `members`, and those with the first firsts."""

    cost: int
    chosen: list[int] = field(default_factory=list)  # candidates of the universe
    members: int = 1
    position: int = 0

    def save(self, file: str | os.PathLike[str], universe: Universe) -> None:
        """Writes the state; a file of that name is replaced whole or, where writing fails, left alone."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "candidates": universe.fingerprint(),
            "cost": self.cost,
            "members": self.members,
            "position": self.position,
            "configs": [asdict(universe.config(number)) for number in self.chosen],
        }
        file = Path(file)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(content, indent=1) + "\n")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: str | os.PathLike[str], universe: Universe) -> State:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file holds no state, or one of a search among other candidates.
        """
        try:
            content = json.loads(Path(file).read_text())
            if (content["format"], content["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"it is {content['format']} of version {content['version']}")
            same = content["candidates"] == universe.fingerprint()
            chosen = universe.numbers([PathConfig(**config) for config in content["configs"]]) if same else []
            state = cls(int(content["cost"]), chosen, int(content["members"]), int(content["position"]))
            if same and int(universe.cost[chosen].sum()) != state.cost:
                raise ValueError(f"its paths do not cost {state.cost}")
            if same and (state.members < 1 or state.position < 0 or uncovered(universe, chosen).any()):
                raise ValueError("it is no point that a search can be at")
        except (ValueError, KeyError, TypeError) as error:  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
            raise ValueError(f"{os.fspath(file)} holds no state of a search: {error!r}. Move it away.") from None
        if not same:
            raise ValueError(
                f"{os.fspath(file)} is the state of a search among other candidates: pass another file for resume, or "
                "the size, curve and options of that search."
            )
        return state
