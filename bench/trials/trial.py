"""Randomised runs on one stack: several at a time in this process, each worker behind its own relay."""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.harness.site import BUCKET, Site
from bench.trials.journal import Journal
from bench.trials.plan import LATENCY, Plan, Trouble, rules
from bench.trials.relay import Relay
from local.demo.environment import SIMULATED_KEY, simulated_gemini
from worker.app import Worker
from worker.errors import GenerationError
from worker.run.request import RunRequest
from worker.settings import Settings

USER = "somebody"
STUCK_SECONDS = 60.0
"""How long beyond its limit a run is awaited; one that hangs is counted and abandoned."""

KILL_SECONDS = 10.0
"""Cloud Run sends SIGKILL this long after SIGTERM (Cloud Run, "Container runtime contract")."""

GATE_RATE = 100_000
LOOK_SECONDS = 0.02
STOOD_STILL_SECONDS = 0.05
"""A turn of the loop that is later than this is recorded; smaller delays are normal."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run went, in seconds from its start; `stopped` if SIGTERM came while it was working.

    `stood_still_seconds` is how long this process, or the machine, blocked all runs meanwhile.
    """

    plan: Plan
    seconds: float
    useful_seconds: float
    stood_still_seconds: float
    stopped: bool
    reason: str

    @property
    def is_late(self) -> bool:
        """Whether the answer came after the invocation's timeout."""
        return self.seconds > self.plan.budget_seconds

    @property
    def is_killed(self) -> bool:
        """Whether the platform would have killed the process before it answered to SIGTERM."""
        return self.stopped and self.seconds_after_stop > KILL_SECONDS

    @property
    def undisturbed(self) -> Result:
        """The result without the time in which the run was blocked."""
        return replace(self, seconds=self.seconds - self.stood_still_seconds, stood_still_seconds=0.0)

    @property
    def wasted_seconds(self) -> float:
        """Seconds from the last lasting result (or the start) to the answer."""
        return self.seconds - self.useful_seconds

    @property
    def seconds_after_stop(self) -> float:
        """Seconds from SIGTERM to the answer."""
        return self.seconds - (self.plan.stop_seconds or 0.0)


class Trials:
    """Does runs on a site, and keeps a journal and the jobs' ids by name."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.journal = Journal()
        self.jobs: dict[str, int] = {}
        self.discarded = 0
        self._late_turns: list[tuple[float, float]] = []
        os.environ.update(simulated_gemini(site.simulator.url))

    def begin(self) -> None:
        """Empty queue and ledger, remove all limits but time, and make Gemini slow and hang as planned."""
        self.site.begin(GATE_RATE, GATE_RATE)
        self.site.stack.psql("truncate public.photo_generation_photos")
        self.site.stack.psql("select set_generation_limits('{\"maxRuns\": 1000}')")
        self.site.simulator.configure({"latency": LATENCY, "rules": rules(), "seed": 1})
        self.journal.clear()
        self.jobs.clear()
        self._late_turns.clear()
        self.discarded = 0

    async def run_all(self, plans: Sequence[Plan], at_a_time: int) -> list[Result]:
        """Do all plans with this many workers at a time; returns their results."""
        waiting, results = iter(plans), list[Result]()
        ready = asyncio.Barrier(at_a_time + 1)  # opening workers would block other runs

        async def lane() -> None:
            async with Relay(self.site.stack.url) as relay, self._worker(relay.url) as worker:
                await ready.wait()
                for plan in waiting:
                    await asyncio.to_thread(self._order, plan)
                    results.append(await self._run(plan, worker, relay))

        lanes = [asyncio.create_task(lane()) for _ in range(at_a_time)]
        watch = asyncio.create_task(self._watch(ready))
        await asyncio.gather(*lanes)
        watch.cancel()
        return results

    async def finish_all(self) -> None:
        """Do undisturbed runs until no job is open, including those with dead leases."""
        self.site.simulator.configure({"latency": 0.0, "rules": []})
        async with self._worker(self.site.stack.url) as worker:
            while self._open_jobs():
                self.site.stack.psql(
                    "update photo_generation_queue set \"leaseExpiresAt\" = now() - interval '1 second' "
                    "where status = 'processing'; "
                    'update photo_generation_queue set "retryAt" = now() where "retryAt" is not null'
                )
                self.discarded += (await worker.run(RunRequest()))["images"]["discarded"]

    def _open_jobs(self) -> int:
        query = "select count(*) from photo_generation_queue where status not in ('completed', 'failed')"
        return int(self.site.stack.psql(query))

    @asynccontextmanager
    async def _worker(self, url: str) -> AsyncIterator[Worker]:
        environment = {
            "SUPABASE_URL": url,
            "SUPABASE_SERVICE_ROLE_KEY": self.site.stack.secret_key,
            "GEMINI_API_KEY": SIMULATED_KEY,
            "MARGIN_SECONDS": "3",
            "CALL_TIMEOUT_SECONDS": "6",
            "RETRY_BASE_SECONDS": "0.5",
            "RETRY_CAP_SECONDS": "2",
        }
        worker = Worker(Settings.from_env(environment, "bench"))
        await asyncio.to_thread(_open, worker)
        try:
            yield worker
        finally:
            await worker.close()

    def _order(self, plan: Plan) -> None:
        if not plan.prompts:
            return
        photo = f"{BUCKET}/{USER}/me.jpg"
        request = {
            "userId": USER,
            "basePrompt": "A portrait",
            "numImagesPerExample": plan.images,
            "maxAttempts": 2,  # what hangs never ends; seeing it come back is enough
            "trainingImageUrls": [photo],
            "exampleImages": [{"url": photo, "prompt": prompt} for prompt in plan.prompts],
        }
        ids = self.site.call("enqueue_generation_batch", p_request=request)["jobIds"]
        self.jobs |= {prompt.split()[0]: job for prompt, job in zip(plan.prompts, ids, strict=True)}

    async def _run(self, plan: Plan, worker: Worker, relay: Relay) -> Result:
        request = RunRequest(budget_seconds=plan.budget_seconds)
        began = time.monotonic()
        run = asyncio.ensure_future(worker.run(request))
        trouble = asyncio.create_task(_meddle(relay, plan.trouble))
        stopped = False
        if plan.stop_seconds is not None:
            await asyncio.wait([run], timeout=plan.stop_seconds)
            stopped = not run.done()
            worker.stop()
        left = began + plan.budget_seconds + STUCK_SECONDS - time.monotonic()
        await asyncio.wait([run], timeout=left)
        seconds = time.monotonic() - began
        trouble.cancel()
        run.cancel()
        await relay.hang_up()
        relay.repair()
        worker.stopping.clear()  # the next run represents one of a new process
        reason, useful = self._told(run, began)
        return Result(plan, seconds, useful, self._stood_still_seconds(began), stopped, reason)

    def _told(self, run: asyncio.Future[Mapping[str, Any]], began: float) -> tuple[str, float]:
        """Why a run ended, and the time of its last lasting result."""
        if not run.done() or run.cancelled():
            return "stuck", 0.0
        error = run.exception()
        if isinstance(error, GenerationError):
            return error.code, 0.0
        summary = run.result()
        self.discarded += summary["images"]["discarded"]
        return str(summary["stopReason"]), self.journal.last_useful.get(summary["runId"], began) - began

    async def _watch(self, ready: asyncio.Barrier) -> None:
        """Record when this process's loop, or the machine, blocked everything, and for how long."""
        await ready.wait()
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if now - began - LOOK_SECONDS > STOOD_STILL_SECONDS:
                self._late_turns.append((now, now - began - LOOK_SECONDS))

    def _stood_still_seconds(self, since: float) -> float:
        first = bisect_left(self._late_turns, (since, 0.0))
        return sum(late for _, late in self._late_turns[first:])


def _open(worker: Worker) -> None:
    """Import and build everything that the first run would wait for."""
    worker.gemini.prepare()
    assert worker.project.storage


async def _meddle(relay: Relay, trouble: Trouble | None) -> None:
    if trouble is None:
        return
    await asyncio.sleep(trouble.begins_seconds)
    relay.begin(trouble.fault, trouble.path)
    if trouble.lasts_seconds is not None:
        await asyncio.sleep(trouble.lasts_seconds)
        relay.repair()
