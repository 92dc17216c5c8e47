"""The deadlines of one run on the monotonic clock, which a shutdown moves nearer.

start     nothing new after this that could not finish, judged by the observed latency
generate  calls to Gemini still under way are cut
save      what Gemini gave by then is stored and recorded
settle    jobs that have ended by then are settled
answer    the response leaves; what is still stuck is abandoned
end       the invocation is over
"""

from __future__ import annotations

from collections.abc import Callable

from worker.deadline import Deadline
from worker.settings import MAX_RUN_SECONDS

UNKNOWN_LATENCY_SECONDS = 15.0
"""Assumed until a model has made its first images: 1.5 times what gemini-2.5-flash-image usually takes."""

_BEFORE_END = {"generate": 1.0, "save": 0.4, "settle": 0.33, "answer": 0.25, "end": 0.0}
"""How much of the margin each deadline leaves: 60 % for storing and recording, 7 % for jobs whose last
record was cut to end, 8 % for the last settle and the run's row, 25 % for the response itself."""


class Deadlines:
    """The deadlines of a run of `seconds`, whose last `margin_seconds` are for what follows the calls."""

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
        self.start = Deadline(self._latest_start(), monotonic)

    def expect_latency(self, seconds: float | None) -> None:
        """A call takes so long, as observed; None while that is not known."""
        self._latency_seconds = seconds
        self.start.move(self._latest_start())

    @property
    def finish(self) -> Deadline:
        """When the run's last call is cut: at `answer`, or halfway from now to `end` if that is later."""
        halfway = self.end.within(self.end.remaining / 2)
        return halfway if halfway.at > self.answer.at else self.answer

    def shorten(self, seconds: float) -> None:
        """End within `seconds` at the latest, as SIGTERM asks; every call under way is cut accordingly."""
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
