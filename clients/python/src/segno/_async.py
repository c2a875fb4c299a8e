"""The client that awaits. It is the same as :mod:`._sync`, and nothing blocks but a store of cursors, which writes a small file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from inspect import isawaitable
from types import TracebackType
from typing import Any

import httpx

from ._events import Event, Gap, Loads, NewEvent, Stored
from ._following import Following
from ._publishing import HEADERS, Trying, batches, stored
from ._store import CursorStore
from ._sync import as_store, authorization, history_params, read_answer, read_page


AsyncToken = str | Callable[[], str | None | Awaitable[str | None]] | None
"""A token, or a function that gives one or an awaitable of one, asked before each request."""


class AsyncSegno:
    """A hub at ``url``. It is an asynchronous context manager; :class:`Segno` tells of the rest."""

    def __init__(
        self,
        url: str,
        *,
        token: AsyncToken = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30.0,
        silence: float = 60.0,
        loads: Loads = json.loads,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._headers = headers or {}
        self._timeout = httpx.Timeout(timeout)
        self._stream_timeout = httpx.Timeout(timeout, read=silence)
        self._loads = loads
        self._http = http or httpx.AsyncClient()
        self._owns_http = http is None

    async def __aenter__(self) -> AsyncSegno:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes its connections."""
        if self._owns_http:
            await self._http.aclose()

    async def publish(
        self,
        data: Any,
        *,
        topic: str | None = None,
        type: str | None = None,
        key: str | None = None,
        retry_for: float = 60.0,
    ) -> Stored:
        """Publishes one event; when this returns, it is stored."""
        [answer] = await self.publish_many([NewEvent(data, topic, type, key)], retry_for=retry_for)
        return answer

    async def publish_many(
        self, events: Iterable[NewEvent], *, batch_events: int = 1000, retry_for: float = 60.0
    ) -> list[Stored]:
        """Publishes events in their order, in batches that are each stored whole or not at all; each is tried for ``retry_for`` seconds."""
        answers: list[Stored] = []
        for body in batches(events, batch_events, retry_for > 0):
            trying = Trying(retry_for)
            while True:
                try:
                    response = await self._http.post(
                        f"{self._url}/events", content=body, headers=await self._headers_with(HEADERS), timeout=self._timeout
                    )
                    wait = trying.answered(response)
                except httpx.TransportError as error:
                    wait = trying.failed(error)
                if wait is None:
                    break
                await asyncio.sleep(wait)
            answers += stored(response.json())
        return answers

    async def follow(
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
    ) -> AsyncIterator[Event]:
        """Yields events for ever, each once and in order, and comes back by itself after whatever happens to the stream. See :meth:`Segno.follow`."""
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
                async with self._http.stream(
                    "GET",
                    f"{self._url}/sse",
                    params=params,
                    headers=await self._headers_with(headers),
                    timeout=self._stream_timeout,
                ) as response:
                    if following.is_stream(response):
                        reader = following.begin()
                        async for chunk in response.aiter_bytes():
                            for event in following.events(reader, chunk):
                                yield event
                        wait = following.ended(None)
                    else:
                        body = await response.aread() if following.is_problem(response) else b""
                        wait = following.refused(response, body)
            except httpx.TransportError as error:
                wait = following.ended(error)
            await asyncio.sleep(wait)

    async def follow_with(self, handle: Callable[[Event], Awaitable[object]], **options: Any) -> None:
        """Awaits ``handle`` of each event of :meth:`follow`, which takes the same options, until it returns ``False``."""
        async for event in self.follow(**options):
            if await handle(event) is False:
                return

    async def history(
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
    ) -> AsyncIterator[Event]:
        """Yields stored events, page by page, the oldest first or, with ``order="desc"``, the newest. See :meth:`Segno.history`."""
        params = history_params(topic, type, after, before, since, until, order, page_events)
        url = httpx.URL(f"{self._url}/events", params=params)
        while True:
            page = await self._get(url)
            for event in read_page(page, on_gap):
                yield event
            if page["next"] is None:
                return
            url = url.join(page["next"])

    async def event(self, id: int) -> Event:
        """One event; :class:`Refused` with status 404 if there is none."""
        return Event.read(await self._get(httpx.URL(f"{self._url}/events/{id}")))

    async def _get(self, url: httpx.URL) -> Any:
        response = await self._http.get(url, headers=await self._headers_with({}), timeout=self._timeout)
        return read_answer(response, self._loads)

    async def _headers_with(self, headers: dict[str, str]) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return self._headers | authorization(await token if isawaitable(token) else token) | headers
