"""How a stream is followed and resumed, without the waiting and reading, which :mod:`._sync` and :mod:`._async` do."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from ._blocks import Block, BlockReader
from ._errors import LogChanged, Refused, read_problem
from ._events import Event, Gap, Loads
from ._store import CursorStore

log = logging.getLogger("segno")

RETRY = 2.0
"""Seconds until it comes back, until the hub says otherwise."""

RETRY_MAX = 30.0
"""Waits double up to this while nothing comes."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
"""Statuses after which it is worth to ask again; 502 and 504 are of a proxy whose hub is away."""

OWN = "segno."
"""How the types begin that are the hub's own: who does not know one skips it."""

Params = list[tuple[str, str | int | float | bool | None]]


def filter_params(topic: str | list[str] | None, type: str | list[str] | None) -> Params:
    """A query from the names that were given, one or many."""
    params: Params = []
    for name, values in (("topic", topic), ("type", type)):
        if isinstance(values, str):
            values = [values]
        params += [(name, value) for value in values or ()]
    return params


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, if the answer says so."""
    seconds = headers.get("retry-after", "")
    return float(seconds) if seconds.isascii() and seconds.isdigit() else None


def jittered(seconds: float) -> float:
    """Spread, so that many clients do not come back in the same moment."""
    return seconds * random.uniform(0.8, 1.2)


class Following:
    """One follower: its cursor, when it comes back, and whom it tells."""

    def __init__(
        self,
        *,
        topic: str | list[str] | None,
        type: str | list[str] | None,
        since: str | None,
        last: int | None,
        after: int | None,
        store: CursorStore | None,
        on_gap: Callable[[Gap], object] | None,
        on_refused: Callable[[dict[str, Any]], object] | None,
        on_expired: Callable[[dict[str, Any]], object] | None,
        on_erased: Callable[[Event], object] | None,
        loads: Loads,
    ) -> None:
        if sum(start is not None for start in (since, last, after)) > 1:
            raise ValueError("since, last and after are different starts; give one")
        self._filter = [*filter_params(topic, type), ("format", "event")]
        self._start: Params = []
        if since is not None:
            self._start = [("since", since)]
        if last is not None:
            self._start = [("last", str(last))]
        self._cursor = None if after is None else str(after)
        self._log: str | None = None
        self._store = store
        self._saved: str | None = None
        if store is not None and (kept := store.load()) is not None:
            self._cursor, self._log = kept
            self._saved = self._cursor
        self._on_gap = on_gap
        self._on_refused = on_refused
        self._on_expired = on_expired
        self._on_erased = on_erased
        self._loads = loads
        self._retry = RETRY
        self._failures = 0
        self._connected = False

    def request(self) -> tuple[Params, dict[str, str]]:
        """The query and the headers to ask with now."""
        headers = {
            "accept": "text/event-stream, application/problem+json",
            "accept-encoding": "identity",
            "cache-control": "no-cache",
        }
        if self._cursor is None:
            return self._filter + self._start, headers
        return self._filter, headers | {"last-event-id": self._cursor}

    @staticmethod
    def is_stream(response: httpx.Response) -> bool:
        """Whether this is a stream of a hub."""
        content_type: str = response.headers.get("content-type", "")
        return response.status_code == 200 and content_type.startswith("text/event-stream")

    @staticmethod
    def is_problem(response: httpx.Response) -> bool:
        """Whether its body is worth reading."""
        content_type: str = response.headers.get("content-type", "")
        return content_type.startswith("application/problem+json")

    def begin(self) -> BlockReader:
        """A stream has begun."""
        self._connected = True
        return BlockReader()

    def events(self, reader: BlockReader, chunk: bytes) -> Iterator[Event]:
        """The events that this chunk completes. An event counts as had when the next one is asked for."""
        for block in reader.feed(chunk):
            self._failures = 0
            if block.retry is not None:
                self._retry = block.retry
            if block.data is not None and not block.type:
                event = Event.read(self._loads(block.data))
                if event.type.startswith(OWN):
                    self._take_own(event)
                else:
                    yield event
            elif block.data is not None:
                self._notice(block.type, json.loads(block.data))
            if block.id is not None:
                self._move(block.id)

    def _notice(self, type: str, data: dict[str, Any]) -> None:
        """Takes a block of the hub's own; those it does not know are skipped."""
        if type == "segno.cursor":
            self._stay_in(data.get("log"))
        elif type == "segno.gap":
            gap = Gap.read(data)
            log.warning("events are missing from the stream: %s", gap)
            if self._on_gap:
                self._on_gap(gap)
        elif type == "segno.refused":
            log.info("the hub refused the stream for now: %s", data.get("detail"))
            if self._on_refused:
                self._on_refused(data)
        elif type == "segno.expired":
            log.info("the right to read has ended: %s", data.get("reason"))
            if self._on_expired:
                self._on_expired(data)
        elif type == "segno.error":
            log.warning("the hub could not go on reading: %s", data.get("detail"))

    def _take_own(self, event: Event) -> None:
        if event.type == "segno.erased" and self._on_erased:
            self._on_erased(event)

    def _stay_in(self, log_id: str | None) -> None:
        if self._store is not None and None not in (log_id, self._log) and log_id != self._log:
            raise LogChanged(
                f"the stored cursor is of the log {self._log}, and the hub has the log {log_id}; remove it to begin anew"
            )
        self._log = log_id or self._log

    def _move(self, cursor: str) -> None:
        if cursor == "":
            return
        self._cursor = cursor
        if self._store is not None and cursor != self._saved:
            self._store.save(cursor, self._log)
            self._saved = cursor

    def refused(self, response: httpx.Response, body: bytes) -> float:
        """Seconds to wait after an answer that is no stream; raises where waiting does not help.

        ``body`` is asked for only of a problem, as what else comes may have no end.
        """
        status = response.status_code
        problem = read_problem(response.headers.get("content-type", ""), body)
        # Who answers 200 with something else, or 404, in place of a hub that was there, is a proxy without its hub.
        will_pass = status in PASSING or (self._connected and not problem and status in (200, 403, 404))
        if not will_pass:
            raise Refused(status, problem)
        log.info("refused for now: %s %s", status, problem.get("detail", ""))
        if problem and self._on_refused:
            self._on_refused(problem)
        return max(self._backoff(), retry_after(response.headers) or 0.0)

    def ended(self, error: httpx.TransportError | None) -> float:
        """Seconds to wait after a stream ended, was cut or did not come about."""
        wait = self._backoff()
        if error is not None:
            log.info("no stream (%s); again in %.1f s", str(error) or type(error).__name__, wait)
        return wait

    def _backoff(self) -> float:
        """The hub's own wait after the first failure, then twice it, and so on."""
        wait = self._retry * 2.0 ** min(self._failures, 10)
        self._failures += 1
        return wait if self._failures == 1 else jittered(min(wait, max(RETRY_MAX, self._retry)))
