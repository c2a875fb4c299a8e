"""Where a cursor outlives the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ._errors import SegnoError


class CursorStore(Protocol):
    """Keeps the cursor of a follower, and the id of the event log that it is of."""

    def load(self) -> tuple[str, str | None] | None:
        """The cursor and the id of its log; ``None`` at the first start."""

    def save(self, cursor: str, log: str | None) -> None:
        """Replaces what was kept."""


class FileStore:
    """A file that ``segno tail --state`` reads and writes as well."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> tuple[str, str | None] | None:
        """The cursor and the id of its log; ``None`` if there is no file."""
        try:
            words = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None
        if not words or len(words) > 2 or not (words[0].isascii() and words[0].isdigit()):
            raise SegnoError(f"{self._path} does not hold a cursor; remove it to begin anew")
        return words[0], words[1] if len(words) == 2 else None

    def save(self, cursor: str, log: str | None) -> None:
        """Replaces the file in one step, so that a crash leaves the old cursor or the new one."""
        new = self._path.with_name(self._path.name + ".new")
        # Of a write that was broken off, or a link that somebody put there: not to be followed.
        new.unlink(missing_ok=True)
        with new.open("x", encoding="utf-8") as file:
            file.write(f"{cursor}\n{log or ''}\n")
        os.replace(new, self._path)
