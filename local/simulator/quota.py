"""The quotas of one project: requests per minute and per day for each model, counted when a call arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from local.simulator.exhausted import SHAPES, Period


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one model; None is no limit, 0 is a project without billing.

    `window_seconds` is the length of the "minute", `day_seconds` of the "day"; both slide.
    `shape` names the 429 body that a call over the limit gets. `count_rejected` makes rejected calls count as
    well, so that hammering never recovers.
    """

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    window_seconds: float = 60.0
    day_seconds: float = 86_400.0
    shape: str = "full"
    count_rejected: bool = False

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"unknown 429 shape {self.shape!r}; known: {', '.join(SHAPES)}")
        if self.window_seconds <= 0 or self.day_seconds <= 0:
            raise ValueError("a quota's window must be longer than 0 s")

    @classmethod
    def parse(cls, value: Quota | int | Mapping[str, Any]) -> Quota:
        """Read a quota: a number is requests per minute. Raises ValueError or TypeError."""
        if isinstance(value, Quota):
            return value
        return cls(**value) if isinstance(value, Mapping) else cls(requests_per_minute=value)


@dataclass(frozen=True, slots=True)
class Excess:
    """Why a call is over the quota, and in how many seconds the oldest counted call leaves the window."""

    period: Period
    limit: int
    retry_seconds: float
    shape: str


@dataclass(slots=True)
class _Counted:
    minute: deque[float] = field(default_factory=deque)
    day: deque[float] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Limit:
    period: Literal["minute", "day"]
    value: int
    window_seconds: float
    starts: deque[float]


class QuotaMeter:
    """Counts calls per model in sliding windows; knows no clock and no lock."""

    def __init__(self) -> None:
        self._models: dict[str, _Counted] = {}

    def reset(self) -> None:
        """Forget what was counted."""
        self._models.clear()

    def arrive(self, model: str, quota: Quota, now: float) -> Excess | None:
        """Count a call that arrives `now`, or return the limit that it exceeds, the day's first."""
        counted = self._models.setdefault(model, _Counted())
        excess = self._excess(counted, quota, now)
        if excess is None or quota.count_rejected:
            counted.minute.append(now)
            counted.day.append(now)
        return excess

    def _excess(self, counted: _Counted, quota: Quota, now: float) -> Excess | None:
        limits = []
        if quota.requests_per_day is not None:
            limits.append(_Limit("day", quota.requests_per_day, quota.day_seconds, counted.day))
        if quota.requests_per_minute is not None:
            limits.append(_Limit("minute", quota.requests_per_minute, quota.window_seconds, counted.minute))
        for limit in limits:
            while limit.starts and now - limit.starts[0] >= limit.window_seconds:
                limit.starts.popleft()
            if len(limit.starts) >= limit.value:
                return self._over(limit, quota, now)
        return None

    def _over(self, limit: _Limit, quota: Quota, now: float) -> Excess:
        """The delay is that after which one call fits; for a day it is short and misleading, as Google's."""
        if limit.value == 0:
            return Excess(limit.period, 0, 30.0, "zero")
        leaves = limit.starts[len(limit.starts) - limit.value]
        delay = limit.window_seconds - (now - leaves)
        return Excess(
            limit.period, limit.value, min(delay, 59.0) if limit.period == "day" else delay, quota.shape
        )
