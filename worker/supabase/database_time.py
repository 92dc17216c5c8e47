"""The database's time on the worker: the time in a claim's answer plus the monotonic time since then."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d) UTC", re.ASCII)


class DatabaseTime:
    """The database's clock; unknown until the first answer, late by its latency of a few milliseconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._answered: tuple[datetime, float] | None = None

    def set(self, answered_at: str) -> None:
        """Set the time from an answer just received, RFC 3339."""
        self._answered = datetime.fromisoformat(answered_at), self._monotonic()

    def after(self, seconds: float | None) -> str | None:
        """The time in `seconds`, RFC 3339 in milliseconds; None if either is unknown."""
        if seconds is None or self._answered is None:
            return None
        answered_at, read = self._answered
        moment = answered_at + timedelta(seconds=self._monotonic() - read + seconds)
        return moment.isoformat(timespec="milliseconds")


def http_date(text: str | None) -> str | None:
    """The first time (`2026-01-31 12:00 UTC`) in a message as an HTTP date; None if there is none."""
    found = _TIME.search(text or "")
    return (
        format_datetime(datetime.fromisoformat(found[1]).replace(tzinfo=UTC), usegmt=True) if found else None
    )


def is_before(moment: str, later: str) -> bool:
    """Whether one database time is before another."""
    return datetime.fromisoformat(moment) < datetime.fromisoformat(later)
