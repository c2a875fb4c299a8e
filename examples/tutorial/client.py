"""The client of the tutorial: prints events as they come, across cuts and restarts. SEGNO_URL says where the hub is."""

import asyncio
import json
import os

import aiohttp

HUB = os.environ.get("SEGNO_URL", "http://localhost:8000")
# The hub sends a line every 15 s, so after a minute of silence the connection is dead.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


async def blocks(response):
    """The blocks of a stream, as dictionaries. What a cut leaves of one is dropped."""
    block = {}
    async for line in response.content:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field:
            block[field] = f"{block[field]}\n{value}" if field == "data" in block else value
        else:
            yield block
            block = {}


async def follow(topic):
    """Yields the id and the data of each event of a topic, for ever. Everything that is stored comes first."""
    cursor, wait = None, 2.0
    async with aiohttp.ClientSession(timeout=TIMEOUT, read_bufsize=2**20) as session:
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": cursor} if cursor else {})
            try:
                async with session.get(f"{HUB}/sse", params={"topic": topic, "since": "start"}, headers=headers) as response:
                    response.raise_for_status()
                    async for block in blocks(response):
                        wait = float(block.get("retry", wait * 1000)) / 1000
                        # Types that begin with `segno.` are the hub's own; `segno.gap` says that events are gone.
                        if block.get("event") == "segno.gap":
                            print("events are gone:", block["data"], flush=True)
                        elif "data" in block and not block.get("event", "").startswith("segno."):
                            yield block["id"], json.loads(block["data"])
                        cursor = block.get("id", cursor)
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                print(f"no stream ({error!r}); again in {wait:.1f} s", flush=True)
            await asyncio.sleep(wait)


async def main():
    async for id, data in follow("messages"):
        print(f"{id}: {data['status']}: {data['message']}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
