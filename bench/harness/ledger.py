"""Computes the use of a quota in sliding windows from the simulator's ledger; pure functions."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from local.simulator.ledger import Call

NEAR = 0.05
"""A window's use counts as near the quota within this share of it, or within one start."""

STEPS = 60
"""Sliding windows evaluated per window length."""


@dataclass(frozen=True, slots=True)
class Starts:
    """The times of one model's calls: `admitted` by the quota, or `limited` with a 429.

    In seconds of the machine's monotonic clock, as the simulator recorded them.
    """

    admitted: tuple[float, ...]
    limited: tuple[float, ...]

    @classmethod
    def of(cls, calls: Iterable[Call], model: str) -> Starts:
        """The calls of a ledger."""
        own = sorted((call for call in calls if call.model == model), key=lambda call: call.started)
        return cls(
            tuple(call.started for call in own if call.admitted),
            tuple(call.started for call in own if call.outcome == "429"),
        )

    @property
    def first(self) -> float:
        """When the first call arrived."""
        return min((*self.admitted[:1], *self.limited[:1]))

    def between(self, begin: float, end: float) -> Starts:
        """The calls that arrived in [begin, end)."""
        return Starts(_between(self.admitted, begin, end), _between(self.limited, begin, end))

    @property
    def share_429(self) -> float:
        """429s ÷ requests."""
        return len(self.limited) / max(len(self.admitted) + len(self.limited), 1)

    def used(self, allowed: float, window_seconds: float, begin: float, end: float) -> float:
        """Admitted starts ÷ allowed starts in [begin, end); `allowed` is per window."""
        starts = len(_between(self.admitted, begin, end))
        return starts / (allowed * (end - begin) / window_seconds)

    def least_used(self, allowed: float, window_seconds: float, begin: float, end: float) -> float:
        """The same for the least used sliding window within [begin, end)."""
        return min(
            self._window(at, window_seconds) / allowed
            for at in _moments(begin + window_seconds, end, window_seconds)
        )

    def windows_until_near(
        self, allowed: float, window_seconds: float, since: float, until: float
    ) -> float | None:
        """Windows from `since` until the use of the last window is near `allowed` and stays there.

        None unless it is near for at least one window before `until`.
        """
        followed: float | None = None
        for at in _moments(since, until, window_seconds):
            if abs(self._window(at, window_seconds) - allowed) > max(allowed * NEAR, 1):
                followed = None
            elif followed is None:
                followed = at
        if followed is None or until - followed < window_seconds:
            return None
        return (followed - since) / window_seconds

    def _window(self, end: float, window_seconds: float) -> int:
        return bisect_right(self.admitted, end) - bisect_right(self.admitted, end - window_seconds)


def _between(starts: tuple[float, ...], begin: float, end: float) -> tuple[float, ...]:
    return starts[bisect_left(starts, begin) : bisect_left(starts, end)]


def _moments(begin: float, end: float, window_seconds: float) -> list[float]:
    """Times from begin to end, STEPS per window."""
    count = max(round((end - begin) / window_seconds * STEPS), 1)
    return [begin + (end - begin) * step / count for step in range(count + 1)]
