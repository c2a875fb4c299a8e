"""The client that waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import httpx

from ._errors import Refused, read_problem
from ._events import Event, Gap, Loads, NewEvent, Stored
from ._following import OWN, Following, Params, filter_params
from ._publishing import HEADERS, Trying, batches, stored
from ._store import CursorStore, FileStore


Token = str | Callable[[], str | None] | None
"""A token, or a function that gives one, asked before each request."""


class Segno:
    """A hub at ``url``. It is a context manager, and may be shared between threads.

    ``token`` is sent as ``Authorization: Bearer``: a text, or a function that gives one, asked before each request. ``headers`` go with each
    request. ``timeout`` is how long one answer may take; ``silence`` how long nothing may come on a stream until
    it counts as dead (a hub sends something every 15 s by default). ``loads`` reads the JSON of events, such as
    ``functools.partial(json.loads, parse_float=decimal.Decimal)`` to keep every digit. ``http`` is an ``httpx.Client`` to use in place
    of one of its own; it is not closed.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
        silence: float = 60.0,
        loads: Loads = json.loads,
        http: httpx.Client | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._headers = headers or {}
        self._timeout = httpx.Timeout(timeout)
        self._stream_timeout = httpx.Timeout(timeout, read=silence)
        self._loads = loads
        self._http = http or httpx.Client()
        self._owns_http = http is None

    def __enter__(self) -> Segno:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        if self._owns_http:
            self._http.close()

    def publish(
        self,
        data: Any,
        *,
        topic: str | None = None,
        type: str | None = None,
        key: str | None = None,
        retry_for: float = 60.0,
    ) -> Stored:
        """Publishes one event; when this returns, it is stored.

        What fails is tried again for ``retry_for`` seconds under the same key (one of its own, if none was given), so that it is one
        event however often it was sent. With 0 it is sent once, and without a key of its own.
        """
        [answer] = self.publish_many([NewEvent(data, topic, type, key)], retry_for=retry_for)
        return answer

    def publish_many(
        self, events: Iterable[NewEvent], *, batch_events: int = 1000, retry_for: float = 60.0
    ) -> list[Stored]:
        """Publishes events in their order, in batches that are each stored whole or not at all; each is tried for ``retry_for`` seconds."""
        answers: list[Stored] = []
        for body in batches(events, batch_events, retry_for > 0):
            trying = Trying(retry_for)
            while True:
                try:
                    response = self._http.post(
                        f"{self._url}/events", content=body, headers=self._headers_with(HEADERS), timeout=self._timeout
                    )
                    wait = trying.answered(response)
                except httpx.TransportError as error:
                    wait = trying.failed(error)
                if wait is None:
                    break
                time.sleep(wait)
            answers += stored(response.json())
        return answers

    def follow(
        self,
        *,
        topic: str | list[str] | None = None,
        type: str | list[str] | None = None,
        since: str | None = None,
        last: int | None = None,
        after: int | None = None,
        store: CursorStore | str | os.PathLike[str] | None = None,
        on_gap: Callable[[Gap], object] | None = None,
        on_refused: Callable[[dict[str, Any]], object] | None = None,
        on_expired: Callable[[dict[str, Any]], object] | None = None,
        on_erased: Callable[[Event], object] | None = None,
    ) -> Iterator[Event]:
        """Yields events for ever, each once and in order, and comes back by itself after whatever happens to the stream.

        ``topic`` and ``type`` are names or patterns, all if not given. It begins with what comes now, or ``since`` a time (``15m``, RFC
        3339, ``start``), with the ``last`` so many, or ``after`` an id. With a ``store``, or the path of a file for one, it begins where
        it was left: an event counts as had when the next one is asked for.

        ``on_gap`` hears of events that can't be given any more, ``on_refused`` of each refusal that will pass (a limit, a hub that
        stops), ``on_expired`` that the right to read has ended, and ``on_erased`` of an event that stands where one was erased, or says so (its
        data is ``{"id": …}`` or ``{"topic": …}``). What does not pass raises :class:`Refused`.
        """
        following = Following(
            topic=topic,
            type=type,
            since=since,
            last=last,
            after=after,
            store=as_store(store),
            on_gap=on_gap,
            on_refused=on_refused,
            on_expired=on_expired,
            on_erased=on_erased,
            loads=self._loads,
        )
        while True:
            params, headers = following.request()
            try:
                with self._http.stream(
                    "GET",
                    f"{self._url}/sse",
                    params=params,
                    headers=self._headers_with(headers),
                    timeout=self._stream_timeout,
                ) as response:
                    if following.is_stream(response):
                        reader = following.begin()
                        for chunk in response.iter_bytes():
                            yield from following.events(reader, chunk)
                        wait = following.ended(None)
                    else:
                        body = response.read() if following.is_problem(response) else b""
                        wait = following.refused(response, body)
            except httpx.TransportError as error:
                wait = following.ended(error)
            time.sleep(wait)

    def follow_with(self, handle: Callable[[Event], object], **options: Any) -> None:
        """Calls ``handle`` with each event of :meth:`follow`, which takes the same options, until it returns ``False``."""
        for event in self.follow(**options):
            if handle(event) is False:
                return

    def history(
        self,
        *,
        topic: str | list[str] | None = None,
        type: str | list[str] | None = None,
        after: int | None = None,
        before: int | None = None,
        since: str | None = None,
        until: str | None = None,
        order: str = "asc",
        page_events: int = 1000,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> Iterator[Event]:
        """Yields stored events, page by page, the oldest first or, with ``order="desc"``, the newest.

        What stands in the place of erased events is left out. ``on_gap`` hears of events that should be among them and are gone.
        """
        params = history_params(topic, type, after, before, since, until, order, page_events)
        url = httpx.URL(f"{self._url}/events", params=params)
        while True:
            page = self._get(url)
            yield from read_page(page, on_gap)
            if page["next"] is None:
                return
            url = url.join(page["next"])

    def event(self, id: int) -> Event:
        """One event; :class:`Refused` with status 404 if there is none."""
        return Event.read(self._get(httpx.URL(f"{self._url}/events/{id}")))

    def _get(self, url: httpx.URL) -> Any:
        response = self._http.get(url, headers=self._headers_with({}), timeout=self._timeout)
        return read_answer(response, self._loads)

    def _headers_with(self, headers: dict[str, str]) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return self._headers | authorization(token) | headers


def authorization(token: str | None) -> dict[str, str]:
    """The header that shows a token, if there is one."""
    return {"authorization": f"Bearer {token}"} if token else {}


def as_store(store: CursorStore | str | os.PathLike[str] | None) -> CursorStore | None:
    """A path means a file."""
    return FileStore(store) if isinstance(store, (str, os.PathLike)) else store


def history_params(
    topic: str | list[str] | None,
    type: str | list[str] | None,
    after: int | None,
    before: int | None,
    since: str | None,
    until: str | None,
    order: str,
    page_events: int,
) -> Params:
    """The query of a first page."""
    given = {"after": after, "before": before, "since": since, "until": until, "order": order, "limit": page_events}
    named = [(name, str(value)) for name, value in given.items() if value is not None]
    return filter_params(topic, type) + named


def read_page(page: Any, on_gap: Callable[[Gap], object] | None) -> Iterator[Event]:
    """The events of a page that are the reader's, after a word about those that are gone."""
    if on_gap and (gap := page.get("gap")):
        on_gap(Gap.read(gap))
    events = map(Event.read, page["events"])
    return (event for event in events if not event.type.startswith(OWN))


def read_answer(response: httpx.Response, loads: Loads) -> Any:
    """The JSON of an answer; raises :class:`Refused` if it is a refusal."""
    if not response.is_success:
        problem = read_problem(response.headers.get("content-type", ""), response.content)
        raise Refused(response.status_code, problem)
    return loads(response.text)
