"""Reads ``text/event-stream``. Source: WHATWG HTML, 9.2.6."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Block:
    """What stood before a blank line. ``id`` and ``retry`` are ``None`` where there was none."""

    type: str = ""
    data: str | None = None
    id: str | None = None
    retry: float | None = None


class BlockReader:
    """Takes bytes as they come, and gives the blocks that are whole. What a cut leaves of a block is never given."""

    def __init__(self) -> None:
        self._rest = b""
        self._block = Block()
        self._began = False

    def feed(self, chunk: bytes) -> Iterator[Block]:
        """The blocks that this chunk completes."""
        *lines, self._rest = self._split(self._rest + chunk)
        for line in lines:
            if not self._began:
                self._began = True
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line:
                self._take(line.decode("utf-8", "replace"))
            else:
                block, self._block = self._block, Block()
                if block != Block():
                    yield block

    @staticmethod
    def _split(text: bytes) -> list[bytes]:
        # Whether a CR at the end is a line end of its own is known when the next byte is there.
        held = b"\r" if text.endswith(b"\r") else b""
        text = text[: len(text) - len(held)]
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        lines[-1] += held
        return lines

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        block = self._block
        if field == "event":
            block.type = value
        elif field == "data":
            block.data = value if block.data is None else f"{block.data}\n{value}"
        elif field == "id" and "\0" not in value:
            block.id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            block.retry = int(value) / 1000
