"""Calls the function like Cloud Scheduler, but more often, until the queue is empty.

A function that dies is restarted, as by Cloud Run; its jobs return when its lease ends.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from local.demo.function import Function
from local.demo.pace import Pace
from local.demo.progress import Progress
from local.stack.errors import StackError

Summary = dict[str, Any]
LONGEST_SECONDS = 300.0
MOST_DEATHS = 5
COLUMNS = (
    "run",
    "ended by",
    "claimed",
    "completed",
    "failed",
    "retried",
    "rate-limited",
    "photos",
    "seconds",
)
HEADING = "{:>4}  {:<12} {:>7} {:>9} {:>6} {:>7} {:>12} {:>6} {:>7}   {}".format(*COLUMNS, "next attempt")


class Scheduler:
    """One batch's calls. `tick` is called about ten times a second; `deaths` counts unanswered calls."""

    def __init__(
        self, function: Function, secret: str, pace: Pace, progress: Progress, tick: Callable[[], None]
    ) -> None:
        self._function, self._secret, self._pace = function, secret, pace
        self._progress, self._tick = progress, tick
        self.summaries: list[Summary] = []
        self.deaths = 0

    async def until_empty(self, http: httpx.AsyncClient) -> None:
        """Calls until a run finds nothing, now or later; `StackError` if that takes too long."""
        began = time.monotonic()
        self._progress.say(HEADING)
        while True:
            summary = await self._call(http)
            wait_seconds = self._pace.pause_seconds
            if summary is None:
                self._died()
            else:
                self.summaries.append(summary)
                self._tell(summary)
                if _is_the_last(summary):
                    return
                wait_seconds = max(wait_seconds, summary["nextAttemptInSeconds"] or 0.0)
            if time.monotonic() - began + wait_seconds > LONGEST_SECONDS:
                raise StackError(
                    f"The queue is not empty after {LONGEST_SECONDS:.0f} s.", "See the function's log.",
                    self._function.log,
                )  # fmt: skip
            await self._wait(wait_seconds)

    async def _call(self, http: httpx.AsyncClient) -> Summary | None:
        """One invocation: its summary, or None if the function died under it."""
        post = asyncio.ensure_future(
            http.post(
                self._function.url,
                headers={"X-Worker-Secret": self._secret},
                timeout=self._pace.invocation_seconds + 10,
            )
        )
        try:
            while not post.done():
                await asyncio.wait({post}, timeout=0.1)
                if not self._function.is_running:
                    self._function.kill_workers()
                self._tick()
            answer = post.result()
        except httpx.TimeoutException as error:
            happened = f"The function has not answered for {self._pace.invocation_seconds + 10:.0f} s."
            raise StackError(happened, "See its log.", self._function.log) from error
        except httpx.TransportError:
            return None
        finally:
            post.cancel()
        return self._summary(answer)

    def _summary(self, answer: httpx.Response) -> Summary:
        if answer.status_code != 200:
            happened = f"The function answered {answer.status_code}: {answer.text[:2000]}"
            raise StackError(happened, "See its log.", self._function.log)
        summary: Summary = answer.json()
        return summary

    def _died(self) -> None:
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise StackError(
                f"The function has died {self.deaths} times.", "See its log.", self._function.log
            )
        if not self._function.is_running:
            self._function.kill_workers()
            self._function.start()
        self._progress.say(
            f"   †  the function died and was started again, pid {self._function.pid}; "
            "its jobs come back when their lease ends"
        )

    def _tell(self, summary: Summary) -> None:
        later = summary["nextAttemptInSeconds"]
        images = summary["images"]
        self._progress.say(
            f"{len(self.summaries):>4}  {summary['stopReason']:<12} {summary['claimed']:>7} "
            f"{summary['completed']:>9} {summary['failed']:>6} {summary['retried']:>7} "
            f"{summary['rateLimited']:>12} {images['made'] + images['adopted']:>6} "
            f"{summary['durationSeconds']:>7.1f}   "
            + ("none" if _is_the_last(summary) else "at once" if later is None else f"in {later:.1f} s")
        )

    async def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._tick()
            await asyncio.sleep(min(left, 0.1))


def _is_the_last(summary: Summary) -> bool:
    return summary["stopReason"] == "queue_empty" and summary["nextAttemptInSeconds"] is None
