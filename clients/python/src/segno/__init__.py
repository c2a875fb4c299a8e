"""Client of segno, a persistent event hub.

>>> from segno import Segno
>>> with Segno("http://localhost:8000") as hub:
...     hub.publish({"order": 1001}, topic="orders.eu", type="paid")
...     for event in hub.follow(topic="orders.*", since="start"):
...         print(event.id, event.type, event.data)

:class:`Segno` waits, :class:`AsyncSegno` awaits; both do the same.
"""

from ._async import AsyncSegno
from ._errors import GaveUp, LogChanged, Refused, SegnoError
from ._events import Event, Gap, NewEvent, Stored
from ._store import CursorStore, FileStore
from ._sync import Segno

__all__ = [
    "AsyncSegno",
    "CursorStore",
    "Event",
    "FileStore",
    "Gap",
    "GaveUp",
    "LogChanged",
    "NewEvent",
    "Refused",
    "Segno",
    "SegnoError",
    "Stored",
]
__version__ = "0.1.0"
