"""`run` and `drain`: one run after the other, until the worker is stopped or the pace ends the loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from worker import log
from worker.common import signals
from worker.common.retry_delay import Uniform, window_seconds
from worker.errors import GenerationError, QueueUnavailable
from worker.run.request import RunRequest

LEAST_PAUSE_SECONDS = 0.5
"""After a run that did nothing although a job is due: other runs hold it, or it does not fit into a run."""

IDLE_JITTER = 0.1
"""Spreads the claims of idle workers that started together."""

UNREACHABLE_SECONDS = 1.0
"""The first pause after Supabase did not answer; doubles each time, up to the longest idle sleep."""

MISCONFIGURED_SECONDS = 5.0
MISCONFIGURED_CAP_SECONDS = 300.0
"""Each misconfigured run makes a few useless calls. Five minutes keep these rare and still notice a fix."""

STOP_SECONDS = 8.5
CUT_SECONDS = 1.2
"""A stopped run ends within 8 s. If it hangs, it is cancelled and gets CUT_SECONDS to release its jobs. Both
together are below the 10 s between SIGTERM and SIGKILL on Cloud Run and Docker."""


class Runner(Protocol):
    """Does the runs; `stopping` is set when it should stop."""

    stopping: asyncio.Event
    uniform: Uniform

    async def run(self, request: RunRequest) -> Mapping[str, Any]: ...


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or Ctrl-C; a second one ends the process at once."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    if before[signal.SIGINT] is not signal.SIG_IGN:
        # Otherwise asyncio.Runner would cancel the main task at the first Ctrl-C, and with it the run.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signals.chain(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def run_once(worker: Runner, request: RunRequest) -> Mapping[str, Any] | None:
    """One run's summary, or None if it hung after the stop and was cancelled. Raises what the run raises."""
    run = asyncio.ensure_future(worker.run(request))
    stopped = asyncio.ensure_future(worker.stopping.wait())
    await asyncio.wait((run, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    await asyncio.wait((run,), timeout=STOP_SECONDS)
    if not run.done():
        log.event("run_cut", level="error")
        run.cancel()
        await asyncio.wait((run,), timeout=CUT_SECONDS)
        return None
    return run.result()


class Pace(Protocol):
    """How long to sleep after a run; `failures` counts consecutive failed runs. None ends the loop."""

    def pause(self, summary: Mapping[str, Any], failures: int) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Forever:
    """`run`: the loop ends only when the worker is stopped; it sleeps at most `max_idle_seconds`."""

    max_idle_seconds: float
    uniform: Uniform

    def pause(self, summary: Mapping[str, Any], failures: int) -> float:
        """Until a job is due; after failures, longer each time."""
        if failures:
            reason = str(summary["stopReason"])
            return failure_pause_seconds(reason, failures, self.max_idle_seconds, self.uniform)
        return pause_seconds(summary, self.max_idle_seconds, self.uniform)


async def loop(worker: Runner, pace: Pace) -> None:
    """Do runs until the worker is stopped or `pace` ends the loop. Logs the errors of runs."""
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
    """How long to sleep after a successful run: until the next attempt is due, at most `max_idle_seconds`.

    0 if there may be more to do at once (`goes_on`).
    """
    if goes_on(summary):
        return 0.0
    idle = max_idle_seconds * (1.0 - uniform(0.0, IDLE_JITTER))
    due = summary["nextAttemptInSeconds"]
    return idle if due is None else min(max(due, LEAST_PAUSE_SECONDS), idle)


def goes_on(summary: Mapping[str, Any]) -> bool:
    """Whether there may be more to do: the run did something, and ended by its limits or an empty queue."""
    worked = summary["completed"] or summary["failed"] or any(
        count for name, count in summary["images"].items() if name != "notStarted"
    )  # fmt: skip
    return bool(worked) and summary["stopReason"] in ("budget", "max_jobs", "queue_empty")


def failure_pause_seconds(reason: str, failures: int, max_idle_seconds: float, uniform: Uniform) -> float:
    """How long to sleep after this many consecutive failed runs: from half of the window to all of it.

    Not full jitter, since a run after a pause near zero would only fail again. The window grows to five
    minutes if the worker is misconfigured, since only a person can fix that.
    """
    base, cap = UNREACHABLE_SECONDS, max_idle_seconds
    if reason == "misconfigured":
        base, cap = MISCONFIGURED_SECONDS, max(max_idle_seconds, MISCONFIGURED_CAP_SECONDS)
    window = window_seconds(failures, base, cap)
    return uniform(window / 2, window)


def _failure(error: GenerationError) -> Mapping[str, Any]:
    """The summary of a run that could not start, with the same stop reasons as other failed runs."""
    reason = "queue_lost" if isinstance(error, QueueUnavailable) else "misconfigured"
    return {"stopReason": reason, "problem": error.message}


async def _rest(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
