"""What the tests of clients/python do with it: `python python_client.py <what> <url> [argument]…`."""

import asyncio
import itertools
import sys

from segno import AsyncSegno, GaveUp, NewEvent, Refused, Segno


def publish_ticks(url, count):
    """Publishes the numbers from 1 in batches of 100, every other one as a `tick`."""
    numbers = range(1, int(count) + 1)
    events = (NewEvent(n, "ticks", "tick" if n % 2 == 0 else "message") for n in numbers)
    with Segno(url) as hub:
        stored = hub.publish_many(events, batch_events=100)
    ids = [answer.id for answer in stored]
    print(len(ids), ids == sorted(set(ids)))


def publish_once(url):
    with Segno(url) as hub:
        print(hub.publish("patient", topic="t"))
        print(hub.publish("named", topic="t", key="k"), hub.publish("named", topic="t", key="k"))

    async def again():
        async with AsyncSegno(url) as hub:
            print(await hub.publish("named", topic="t", key="k"))

    asyncio.run(again())


def follow_some(url, count, store):
    """Prints the data of some events. The last was not done with when it stops, so it comes again."""
    with Segno(url) as hub:
        for event in itertools.islice(hub.follow(topic="t", since="start", store=store), int(count)):
            print(event.data)


def follow_with(url, count):
    data = []

    def take(event):
        data.append(event.data)
        return len(data) < int(count)

    with Segno(url) as hub:
        hub.follow_with(take, topic="t", since="start")
    print(data)


def callbacks(url):
    """Prints what the callbacks hear until the event `end`."""
    with Segno(url) as hub:
        events = hub.follow(
            after=1,
            on_gap=lambda gap: print("gap", gap.reason, gap.requested, gap.first_id, flush=True),
            on_refused=lambda problem: print("refused", problem["code"], flush=True),
            on_erased=lambda event: print("erased", event.data["id"], flush=True),
        )
        for event in events:
            print(event.data, flush=True)
            if event.data == "end":
                break


def hear(url, how, after, token=""):
    """Prints what is heard of a stream, by the waiting client or by the other, until the event `end` or what will not pass."""
    options = {
        "topic": "t",
        "after": int(after),
        "on_gap": lambda gap: print("gap", gap.reason, gap.requested, gap.first_id, gap.last_id, flush=True),
        "on_refused": lambda problem: print("refused", problem["code"], flush=True),
        "on_expired": lambda told: print("expired", told["reason"].partition(" at ")[0], flush=True),
    }

    def take(event):
        print(event.data, flush=True)
        return event.data != "end"

    async def hear_async():
        async with AsyncSegno(url, token=token or None) as hub:
            async for event in hub.follow(**options):
                if not take(event):
                    break

    try:
        if how == "async":
            asyncio.run(hear_async())
        else:
            with Segno(url, token=token or None) as hub:
                hub.follow_with(take, **options)
    except Refused as refused:
        print(refused.status, refused.code)


def refusals(url):
    """What can't pass raises, at once."""
    with Segno(url) as hub:
        for attempt in (
            lambda: hub.publish(1, topic="a b"),
            lambda: next(hub.follow(topic="a b")),
            lambda: next(hub.history(since="soon")),
            lambda: hub.event(1_000_000),
        ):
            try:
                attempt()
            except Refused as refused:
                print(refused.status, refused.code)


def look_at_what_is_left(url):
    """What is left, and what is told of the rest, by both clients, one of them with tokens."""
    found = []
    with Segno(url) as hub:
        found += [event.id for event in hub.history(after=1, on_gap=lambda gap: found.append(gap.reason))]
    print(found)
    found.clear()

    async def again():
        async with AsyncSegno(url) as hub:
            async for event in hub.history(after=1, on_gap=lambda gap: found.append(gap.reason)):
                found.append(event.id)

    asyncio.run(again())
    print(found)


def with_tokens(url, first, second):
    """Publishes with one token and then the other, and prints who it is."""
    tokens = iter([first, second] * 2)
    with Segno(url, token=lambda: next(tokens)) as hub:
        for number in range(2):
            try:
                print(hub.publish(number, topic="t").id)
            except Refused as refused:
                print(refused.status, refused.code)

    async def again():
        async def token():
            return next(tokens)

        async with AsyncSegno(url, token=token) as hub:
            print((await hub.publish("x", topic="t")).id)
        async with AsyncSegno(url, token=first) as hub:
            print((await anext(aiter(hub.follow(since="start")))).data)

    asyncio.run(again())


def give_up(url):
    """Nobody is there."""
    try:
        with Segno(url) as hub:
            hub.publish("x", retry_for=0.3)
    except GaveUp as error:
        print(error.__cause__ is not None)


def history(url):
    with Segno(url) as hub:
        ids = [event.id for event in hub.history(topic="ticks", page_events=100)]
        print(len(ids), ids == sorted(ids))
        newest = next(hub.history(order="desc"))
        print(newest == hub.event(newest.id))

    async def again():
        async with AsyncSegno(url) as hub:
            print(len([event async for event in hub.history(topic="ticks", type="tick")]))

    asyncio.run(again())


what, url, *arguments = sys.argv[1:]
globals()[what](url, *arguments)
