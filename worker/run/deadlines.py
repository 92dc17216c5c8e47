"""The deadlines of one run, on the monotonic clock; a shutdown shortens them.

start     the last time to start a request: `generate` less the observed latency
generate  pending requests to Gemini are cancelled
save      storing and recording images ends
settle    settling jobs as they end stops
answer    the response is sent; jobs still pending are abandoned
end       the invocation times out
"""

from __future__ import annotations

from collections.abc import Callable

from worker.common.deadline import Deadline
from worker.settings import MAX_RUN_SECONDS

UNKNOWN_LATENCY_SECONDS = 15.0
"""Assumed until a model has made its first images: 1.5 times the usual latency of gemini-2.5-flash-image."""

_BEFORE_END = {"generate": 1.0, "save": 0.4, "settle": 0.33, "answer": 0.25, "end": 0.0}
"""The share of the margin left after each deadline: 60 % of the margin is for storing and recording, 7 % for
jobs to end whose last record was cancelled, 8 % for the last settle and the run's row, 25 % for the
response."""


class Deadlines:
    """The deadlines of a run of `seconds`; the last `margin_seconds` are reserved for the work after the
    requests. `seconds_for_requests` is the time before it, unless the run is shortened."""

    def __init__(self, seconds: float, margin_seconds: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._latency_seconds: float | None = None
        self.began = monotonic()
        times = _times(self.began, min(seconds, MAX_RUN_SECONDS), margin_seconds)
        self.generate = Deadline(times["generate"], monotonic)
        self.save = Deadline(times["save"], monotonic)
        self.settle = Deadline(times["settle"], monotonic)
        self.answer = Deadline(times["answer"], monotonic)
        self.end = Deadline(times["end"], monotonic)
        self.seconds_for_requests = times["generate"] - self.began
        self.start = Deadline(self._latest_start(), monotonic)

    def expect_latency(self, seconds: float | None) -> None:
        """Set the observed latency of a request; None if it is unknown."""
        self._latency_seconds = seconds
        self.start.move(self._latest_start())

    @property
    def finish(self) -> Deadline:
        """The deadline of the run's last RPC: `answer`, or halfway from now to `end` if that is later."""
        halfway = self.end.within(self.end.remaining / 2)
        return halfway if halfway.at > self.answer.at else self.answer

    @property
    def report(self) -> Deadline:
        """The deadline of reporting an image that was not stored; leaves time for settling its job."""
        latest = self.settle if self.save.passed else self.save
        return latest.within(self.settle.remaining / 2)

    @property
    def fair_seconds(self) -> float:
        """How long a job may hold memory for photos that are not ready; see `worker.run.job`."""
        return self.seconds_for_requests / 4

    def shorten(self, seconds: float) -> None:
        """Shorten all deadlines so that the run ends within `seconds`; pending calls are shortened too."""
        if self.end.remaining <= seconds:
            return
        for name, at in _times(self._monotonic(), seconds, seconds / 2).items():
            deadline: Deadline = getattr(self, name)
            deadline.move(at)
        self.start.move(self._latest_start())

    def _latest_start(self) -> float:
        known = self._latency_seconds
        if known is None:
            known = min(UNKNOWN_LATENCY_SECONDS, (self.generate.at - self.began) / 2)
        return self.generate.at - known


def _times(begin: float, seconds: float, margin_seconds: float) -> dict[str, float]:
    margin = min(margin_seconds, seconds / 3)
    return {name: begin + seconds - margin * share for name, share in _BEFORE_END.items()}
