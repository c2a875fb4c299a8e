"""Follows a stream with a client of others: `python follow.py <client> <url>`. Prints a line of JSON for each event.

Each client is used as its own documentation says. HURRY divides the waits that a client chooses for itself.
"""

import asyncio
import json
import os
import sys
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx_sse
import requests
import requests_sse
import sseclient
from segno import AsyncSegno, Segno

client, url = sys.argv[1:]
hurry = float(os.environ.get("HURRY", "1"))
real_sleep, real_async_sleep = time.sleep, asyncio.sleep
time.sleep = lambda seconds: real_sleep(seconds / hurry)
asyncio.sleep = lambda seconds: real_async_sleep(seconds / hurry)


def tell(event_id, event_type, data):
    # The rule for readers: types that begin with `segno.` are the hub's own.
    if not event_type.startswith("segno."):
        print(json.dumps({"id": str(event_id), "type": event_type, "data": data}), flush=True)


def follow_httpx_sse():
    last_id, retry = "", 1000
    with httpx.Client(timeout=httpx.Timeout(10, read=None)) as http:
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with httpx_sse.connect_sse(http, "GET", url, headers=headers) as source:
                    for event in source.iter_sse():
                        last_id = event.id
                        if event.retry is not None:
                            retry = event.retry
                        tell(event.id, event.event, event.data)
            except httpx.TransportError as error:
                print("error", repr(error), file=sys.stderr)
            real_sleep(retry / 1000)


def follow_sseclient():
    last_id, retry = "", 1000
    while True:
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        try:
            response = requests.get(url, stream=True, headers=headers)
            response.raise_for_status()
            for event in sseclient.SSEClient(response).events():
                if event.id is not None:
                    last_id = event.id
                if event.retry is not None:
                    retry = int(event.retry)
                tell(event.id, event.event, event.data)
        except requests.RequestException as error:
            print("error", repr(error), file=sys.stderr)
        real_sleep(retry / 1000)


def follow_requests_sse():
    with requests_sse.EventSource(url, max_connect_retry=100) as source:
        for event in source:
            tell(event.last_event_id, event.type or "message", event.data)


hub_url = url.split("/sse")[0]
options = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def tell_event(event):
    tell(event.id, event.type, json.dumps(event.data))


def follow_segno():
    with Segno(hub_url) as hub:
        hub.follow_with(tell_event, **options)


async def follow_segno_async():
    async with AsyncSegno(hub_url) as hub:
        async for event in hub.follow(**options):
            tell_event(event)


clients = {
    "segno": follow_segno,
    "segno async": lambda: asyncio.run(follow_segno_async()),
    "httpx-sse": follow_httpx_sse,
    "sseclient-py": follow_sseclient,
    "requests-sse": follow_requests_sse,
}
clients[client]()
