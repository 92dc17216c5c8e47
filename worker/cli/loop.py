"""`run` and `drain`: one run after the other, until told to end or until nothing is worth waiting for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from worker import log, signals
from worker.backoff import Uniform, window_seconds
from worker.errors import GenerationError, QueueUnavailable
from worker.run.request import RunRequest

LEAST_PAUSE_SECONDS = 0.5
"""After a run that did nothing: something is due but held by others, or does not fit into a run."""

IDLE_JITTER = 0.1
"""Idle workers started together come to look at different times."""

UNREACHABLE_SECONDS = 1.0
"""The first pause after Supabase did not answer; doubled each time, up to the longest idle sleep."""

MISCONFIGURED_SECONDS = 5.0
MISCONFIGURED_CAP_SECONDS = 300.0
"""Each such run makes a few calls that are refused. Five minutes keep that rare and still notice the mend."""

STOP_SECONDS = 8.5
CUT_SECONDS = 1.2
"""A stopped run answers within 8 s; one that hangs is cut, and gives back what it holds if it still can.
Together below the 10 s that Cloud Run and Docker leave between SIGTERM and SIGKILL."""


class Worker(Protocol):
    """What does the runs; `stopping` is set when it has been told to end."""

    stopping: asyncio.Event
    uniform: Uniform

    async def run(self, request: RunRequest) -> Mapping[str, Any]: ...


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Have `stop` called at the first SIGTERM or Ctrl-C; a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    if before[signal.SIGINT] is not signal.SIG_IGN:
        # Else the first Ctrl-C would also cancel the main task (asyncio.Runner), and with it the run.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signals.chain(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def run_once(worker: Worker, request: RunRequest) -> Mapping[str, Any] | None:
    """One run's summary, or None if it had to be cut after the stop. Raises what the run raises."""
    run = asyncio.ensure_future(worker.run(request))
    told = asyncio.ensure_future(worker.stopping.wait())
    await asyncio.wait((run, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    await asyncio.wait((run,), timeout=STOP_SECONDS)
    if not run.done():
        log.event("run_cut", level="error")
        run.cancel()
        await asyncio.wait((run,), timeout=CUT_SECONDS)
        return None
    return run.result()


class Pace(Protocol):
    """How long to sleep after a run, given how many in a row failed; None ends the loop."""

    def pause(self, summary: Mapping[str, Any], failures: int) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Forever:
    """`run`: the loop ends only when the worker is stopped; a sleep is `max_idle_seconds` long at most."""

    max_idle_seconds: float
    uniform: Uniform

    def pause(self, summary: Mapping[str, Any], failures: int) -> float:
        """After a failure ever longer, else until something is due."""
        if failures:
            reason = str(summary["stopReason"])
            return failure_pause_seconds(reason, failures, self.max_idle_seconds, self.uniform)
        return pause_seconds(summary, self.max_idle_seconds, self.uniform)


async def loop(worker: Worker, pace: Pace) -> None:
    """Do runs until the worker is stopped or `pace` ends it. What a run cannot do is logged."""
    failures = 0
    while not worker.stopping.is_set():
        try:
            summary = await run_once(worker, RunRequest())
        except GenerationError as error:
            summary = _failure(error)
        if summary is None:
            continue
        reason = str(summary["stopReason"])
        if reason in ("misconfigured", "queue_lost"):
            failures += 1
            pause = pace.pause(summary, failures)
            seconds = None if pause is None else round(pause, 1)
            log.event("run_failed", level="error", reason=reason, problem=summary.get("problem"),
                failures=failures, pause_seconds=seconds)  # fmt: skip
        else:
            failures = 0
            pause = pace.pause(summary, 0)
        if pause is None:
            break
        await _rest(worker.stopping, pause)
    log.event("loop_ended")


def pause_seconds(summary: Mapping[str, Any], max_idle_seconds: float, uniform: Uniform) -> float:
    """How long to sleep after a run that went well: never longer than `max_idle_seconds`.

    Not at all while runs end for lack of jobs or time, or for an empty queue they have just emptied: the next
    claim knows best what comes next. Else until the next attempt is due, or nearly the whole idle time.
    """
    if goes_on(summary):
        return 0.0
    idle = max_idle_seconds * (1.0 - uniform(0.0, IDLE_JITTER))
    due = summary["nextAttemptInSeconds"]
    return idle if due is None else min(max(due, LEAST_PAUSE_SECONDS), idle)


def goes_on(summary: Mapping[str, Any]) -> bool:
    """Whether a run did something and ended for lack of jobs or time: there may be more to do at once."""
    worked = summary["completed"] or summary["failed"] or any(
        count for name, count in summary["images"].items() if name != "notStarted"
    )  # fmt: skip
    return bool(worked) and summary["stopReason"] in ("budget", "max_jobs", "queue_empty")


def failure_pause_seconds(reason: str, failures: int, max_idle_seconds: float, uniform: Uniform) -> float:
    """How long to sleep after the given number of failed runs in a row: half of the window to all of it.

    Not the full jitter of a retry: a pause near zero would only fail again. Where something is misconfigured
    the window grows to five minutes, since only a person can help.
    """
    base, cap = UNREACHABLE_SECONDS, max_idle_seconds
    if reason == "misconfigured":
        base, cap = MISCONFIGURED_SECONDS, max(max_idle_seconds, MISCONFIGURED_CAP_SECONDS)
    window = window_seconds(failures, base, cap)
    return uniform(window / 2, window)


def _failure(error: GenerationError) -> Mapping[str, Any]:
    """A run that could not even start, told as a summary. The same words, so that it is handled the same."""
    reason = "queue_lost" if isinstance(error, QueueUnavailable) else "misconfigured"
    return {"stopReason": reason, "problem": error.message}


async def _rest(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
