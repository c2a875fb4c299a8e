"""What can go wrong for good. What will pass is tried again instead."""

from __future__ import annotations

import json
from typing import Any


class SegnoError(Exception):
    """Every error of this package."""


class Refused(SegnoError):
    """The hub, or a proxy before it, refused a request, and asking again would not help.

    ``problem`` is the hub's own account of it (RFC 9457), empty if the answer was none of the hub's.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code: str | None = problem.get("code")
        detail = problem.get("detail", "the answer is not one of a segno hub")
        super().__init__(f"{status} {self.code or ''}: {detail}".replace(" :", ":"))


class GaveUp(SegnoError):
    """Publishing was tried until its time was up. The cause is the last failure; whether the events are stored is not known."""


class LogChanged(SegnoError):
    """The stored cursor is of another event log than the hub's, where it means nothing."""


def read_problem(content_type: str, body: bytes) -> dict[str, Any]:
    """The problem that a body tells of; empty if it is none."""
    if not content_type.startswith("application/problem+json"):
        return {}
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
