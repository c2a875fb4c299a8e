"""What is published, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Loads = Callable[[str], Any]
"""Reads the JSON of an event, as ``json.loads`` does."""


@dataclass(frozen=True)
class NewEvent:
    """An event to be published. Events with the same ``key`` on the same topic are one event."""

    data: Any
    topic: str | None = None
    type: str | None = None
    key: str | None = None

    def fields(self, key: str | None) -> dict[str, Any]:
        """The JSON object to be sent, with ``key`` if it has none of its own."""
        fields = {"topic": self.topic, "type": self.type, "key": self.key or key}
        return {name: value for name, value in fields.items() if value is not None} | {"data": self.data}


@dataclass(frozen=True)
class Stored:
    """The hub has stored the event under ``id``, or had it already (``duplicate``)."""

    id: int
    duplicate: bool


@dataclass(frozen=True)
class Event:
    """A stored event. ``created_at`` is an RFC 3339 time; ``key`` is the publisher's, if it gave one."""

    id: int
    topic: str
    type: str
    data: Any
    created_at: str
    key: str | None = None

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Event:
        """Takes the fields it knows of a JSON object."""
        return cls(
            id=fields["id"],
            topic=fields["topic"],
            type=fields["type"],
            data=fields["data"],
            created_at=fields["created_at"],
            key=fields.get("key"),
        )


@dataclass(frozen=True)
class Gap:
    """Events that were asked for and can't be given.

    ``reason`` is ``trimmed``, ``ahead``, ``lost`` or ``unknown``; ``requested`` is the cursor that was asked with. The stream goes on
    with the first event kept.
    """

    reason: str
    requested: int | None
    first_id: int
    last_id: int

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Gap:
        """Takes the fields it knows of a JSON object."""
        return cls(fields["reason"], fields.get("requested"), fields["first_id"], fields["last_id"])
