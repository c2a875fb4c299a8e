"""How events are published and tried again, without the waiting and sending, which :mod:`._sync` and :mod:`._async` do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from ._errors import GaveUp, Refused, read_problem
from ._events import NewEvent, Stored
from ._following import PASSING, jittered, retry_after

BATCH_MAX_BYTES = 8 * 1024 * 1024
"""Half of what a hub takes by default."""

HEADERS = {"content-type": "application/json", "accept": "application/json"}


def batches(events: Iterable[NewEvent], batch_events: int, retry: bool) -> Iterator[bytes]:
    """Bodies with at most so many events each, and, but for one large event, so many bytes.

    Where it may be sent again, an event without a key gets one, so that a lost answer never makes a second event.
    """
    name, size = uuid.uuid4().hex, 0
    waiting: list[bytes] = []
    for number, event in enumerate(events, start=1):
        fields = event.fields(f"{name}/{number}" if retry else None)
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        if waiting and (len(waiting) == batch_events or size + len(body) > BATCH_MAX_BYTES):
            yield b"[" + b",".join(waiting) + b"]"
            waiting, size = [], 0
        waiting.append(body)
        size += len(body) + 1
    if waiting:
        yield b"[" + b",".join(waiting) + b"]"


def stored(answer: dict[str, Any]) -> list[Stored]:
    """Reads the answer to a batch."""
    duplicates = set(answer.get("duplicates", ()))
    return [Stored(id, id in duplicates) for id in answer["ids"]]


class Trying:
    """One request that is sent until it is answered or its time is up."""

    def __init__(self, retry_for: float) -> None:
        self._until = time.monotonic() + retry_for
        self._wait = 0.1

    def answered(self, response: httpx.Response) -> float | None:
        """``None`` if it was stored, else seconds until it is sent again; raises where that does not help."""
        if response.is_success:
            return None
        problem = read_problem(response.headers.get("content-type", ""), response.content)
        refused = Refused(response.status_code, problem)
        if response.status_code not in PASSING:
            raise refused
        return self._again(refused, retry_after(response.headers))

    def failed(self, error: httpx.TransportError) -> float:
        """Seconds until it is sent again; raises when its time is up."""
        return self._again(error, None)

    def _again(self, cause: Exception, asked: float | None) -> float:
        wait, self._wait = jittered(max(self._wait, asked or 0.0)), min(self._wait * 2, 5.0)
        if time.monotonic() + wait > self._until:
            raise GaveUp(f"the events could not be published in time: {cause!r}") from cause
        return wait
