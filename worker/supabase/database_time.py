"""The database's time on the worker: as a claim's answer gave it, carried on by the monotonic clock."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d) UTC", re.ASCII)


class DatabaseTime:
    """Unknown until the first answer. Late by the answer's way back, some milliseconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._answered: tuple[datetime, float] | None = None

    def set(self, answered_at: str) -> None:
        """Take the time of an answer that has just come, RFC 3339."""
        self._answered = datetime.fromisoformat(answered_at), self._monotonic()

    def after(self, seconds: float | None) -> str | None:
        """The time in so many seconds, RFC 3339 to the millisecond; None where either is unknown."""
        if seconds is None or self._answered is None:
            return None
        answered_at, read = self._answered
        moment = answered_at + timedelta(seconds=self._monotonic() - read + seconds)
        return moment.isoformat(timespec="milliseconds")


def http_date(text: str | None) -> str | None:
    """The first time in a text for people, as HTTP headers have it; None where there is none."""
    found = _TIME.search(text or "")
    return (
        format_datetime(datetime.fromisoformat(found[1]).replace(tzinfo=UTC), usegmt=True) if found else None
    )


def is_before(moment: str | None, later: str | None) -> bool:
    """Whether one of the database's times is before another; not where either is unknown."""
    return bool(moment and later) and datetime.fromisoformat(str(moment)) < datetime.fromisoformat(str(later))
