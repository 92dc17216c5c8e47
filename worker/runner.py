"""One run: claims jobs, works on many at once, settles them in groups, finishes, and sums up.

Ends by itself: when the queue is empty, its jobs or its time are used up, or nothing can work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from worker import log
from worker.active import ActiveJobs
from worker.budget import Budget
from worker.database_time import DatabaseTime
from worker.errors import (
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoBucketMissing,
    PhotoUnreadable,
)
from worker.gate import DatabaseGate
from worker.image_task import RunState
from worker.keeper import Keeper
from worker.outcome import ImageErred, ImageNotStarted, Released
from worker.pipeline import Pipeline
from worker.queue import Claim
from worker.request import RunRequest
from worker.retirement import LIST_SECONDS, hint, retire
from worker.settings import Settings
from worker.settle import JobEnd, Settler
from worker.slots import Slots
from worker.summary import CLAIM_REASONS, StopReason, Summary
from worker.tools import PhotoLender, Tools

CLAIM_SECONDS = 20.0
CLAIM_PAUSE_SECONDS = 2.0
"""Between claims of a run that has nothing left but jobs that others need not wait for."""

CLAIM_ROUNDS = 2
"""How many times the images made at a time a run claims ahead: what is claimed stands before others' jobs."""

SHUTDOWN_SECONDS = 8.0
"""Cloud Run kills 10 s after SIGTERM (Cloud Run, "Container runtime contract")."""

GRAVITY: Mapping[StopReason, int] = {"queue_lost": 1, "shutdown": 2, "misconfigured": 3}
"""Which reason to stop goes before others; those not named here are the mildest."""


class Run:
    """One invocation's run. Make one, `execute` it once; `stop` may come at any time from the same loop."""

    def __init__(self, settings: Settings, tools: Tools, request: RunRequest) -> None:
        self._settings = settings
        self._tools = tools
        self._id = uuid4()
        self._max_jobs = request.max_jobs or settings.max_jobs
        seconds = min(
            request.budget_seconds or settings.invocation_timeout_seconds, settings.invocation_timeout_seconds
        )
        self._budget = Budget(seconds, settings.margin_seconds, tools.monotonic)
        self._summary = Summary(str(self._id), settings.worker_id, settings.gemini_model_name)
        self._state = RunState(
            gemini=tools.gemini,
            keeper=Keeper(tools.store, tools.queue, tools.proof, self._budget),
            budget=self._budget,
            slots=Slots(self._gate(settings.gemini_model_name), tools.monotonic),
            images=asyncio.Semaphore(settings.images_at_a_time),
            in_calls=tools.in_calls,
            model=settings.gemini_model_name,
            call_timeout_seconds=settings.call_timeout_seconds,
            summary=self._summary,
            monotonic=tools.monotonic,
        )
        self._settler = Settler(
            tools.queue, settings, tools.uniform, self._budget, self._summary, self._state.sent
        )
        self._active = ActiveJobs(self._state, self._settler, settings.jobs_at_a_time)
        self._database_time = DatabaseTime(tools.monotonic)
        self._photos: PhotoLender | None = None
        self._queue_ran_dry = False
        self._must_finish = False

    def stop(self) -> None:
        """Claim and start nothing more, and answer within SHUTDOWN_SECONDS."""
        self._stop_for("shutdown")
        self._budget.shorten(SHUTDOWN_SECONDS)

    async def execute(self) -> dict[str, Any]:
        """Run to the end and return the summary. Raises QueueUnavailable if the first claim fails."""
        with log.bound(run=str(self._id)):
            try:
                await self._claim_and_work()
                await self._drain()
            finally:
                self._active.abandon()  # also of a run that failed or was cancelled: its jobs are given back
                await self._close()
            summary = self._summary.as_json(self._tools.monotonic() - self._budget.began)
            log.event("run_finished", **{k: v for k, v in summary.items() if k not in ("runId", "images")})
            return summary

    async def _claim_and_work(self) -> None:
        while not self._should_stop():
            if self._state.slots.closed and self._active:
                await self._settle_next()  # an error that concerns all; how its job ends says what to do
                continue
            try:
                claim = await self._claim()
            except GenerationError as error:
                await self._claim_failed(error)
                return
            if claim.jobs:
                await self._start(claim)
                await self._make_room()
            elif self._may_get_more(claim):
                await self._wait_for_end(CLAIM_PAUSE_SECONDS)
                await self._make_room()
            else:
                self._come_back_in(claim.next_attempt_seconds)
                self._stop_for(CLAIM_REASONS.get(claim.reason, "queue_empty"), pause=False)

    def _may_get_more(self, claim: Claim) -> bool:
        """Whether a claim that gave nothing is worth repeating in this run."""
        if claim.reason == "isolated":
            return bool(self._active)
        return claim.reason in ("queue_empty", "busy") and bool(self._active.awaiting())

    def _should_stop(self) -> bool:
        """Whether to claim no more; notes the reason the first time."""
        if self._summary.stop_reason is None:
            if self._summary.claimed >= self._max_jobs:
                self._stop_for("max_jobs", pause=False)
            elif self._state.slots.blocked_until > self._budget.start:
                self._gate_closed()
            elif self._budget.passed(self._budget.start):
                self._stop_for("budget", pause=False)
        return self._summary.stop_reason is not None

    def _gate_closed(self) -> None:
        """The gate opens too late for this run: say why, and when to come back."""
        slots = self._state.slots
        self._come_back_in(round(self._budget.remaining(slots.blocked_until), 3))
        self._stop_for(CLAIM_REASONS.get(slots.refusal, "rate_limited"), pause=False)

    def _come_back_in(self, seconds: float | None) -> None:
        self._summary.next_attempt_seconds = seconds
        self._summary.next_attempt_at = self._database_time.after(seconds)

    def _stop_for(self, reason: StopReason, pause: bool = True) -> None:
        """End the claiming; with `pause` also start nothing more of what was claimed.

        Of several reasons the gravest stands, and of two as grave the first.
        """
        told = self._summary.stop_reason
        if told is None or GRAVITY.get(reason, 0) > GRAVITY.get(told, 0):
            self._summary.stop_reason = reason
        if pause:
            self._state.slots.close()

    async def _claim(self) -> Claim:
        room = min(self._active.free_places(), self._max_jobs - self._summary.claimed)
        images = max(CLAIM_ROUNDS * self._settings.images_at_a_time - self._active.unsent_images(), 1)
        claim = await self._tools.queue.claim(
            self._id,
            uuid4(),
            room,
            max(self._budget.remaining(self._budget.end), 1.0),
            self._state.model,
            self._budget.until("generate", CLAIM_SECONDS),
            self._active.crowding_users(),
            images,
        )
        if claim.answered_at:
            self._database_time.set(claim.answered_at)
        claimed = sum(job.num_images for job in claim.jobs)
        self._queue_ran_dry = len(claim.jobs) < room and claimed < claim.most_images
        return claim

    async def _claim_failed(self, error: GenerationError) -> None:
        """The answer may have been lost after the database gave jobs out: only finishing frees them."""
        self._must_finish = True
        log.event("claim_failed", level="error", code=error.code, reason=error.message)
        if isinstance(error, Misconfigured):
            self._summary.problem = error.message
            self._stop_for("misconfigured", pause=False)
        elif self._summary.claimed == 0:
            raise error
        else:
            self._stop_for("queue_lost", pause=False)

    async def _start(self, claim: Claim) -> None:
        """Begin to work on what was claimed, unless what would be made could not be kept."""
        self._must_finish = True
        self._summary.claimed += len(claim.jobs)
        try:
            await self._tools.proof.require(claim.storage_refused, claim.answered_at, self._budget)
        except GenerationError as error:
            await self._give_back(claim, error)
            return
        self._budget.latency_seconds = claim.latency_seconds
        self._state.prices = claim.prices
        if claim.successors and self._settings.gemini_model_follows:
            self._follow(claim.successors)
        if self._photos is None:
            self._photos = self._tools.photos(claim.photo_buckets, claim.photo_hosts)
        pipeline = Pipeline(self._photos, self._state)
        for job in claim.jobs:
            self._active.start(pipeline, job)

    async def _give_back(self, claim: Claim, error: GenerationError) -> None:
        """Release jobs for which nothing was paid, with their attempts unspent, and stop."""
        outcome = Released(error.code, error.for_customers, attempt_spent=False)
        await self._settler.settle(
            [
                JobEnd(job, [ImageNotStarted(index, "stopped") for index in job.missing], outcome)
                for job in claim.jobs
            ]
        )
        await self._storage_lost(error)

    def _follow(self, successors: Sequence[str]) -> None:
        """Use what the model in use was changed over to; for the default model, the named fallback."""
        own, fallback = self._settings.gemini_model_name, self._settings.gemini_model_fallback
        if fallback and self._state.model == own and fallback not in successors:
            self._use_model(fallback)
        else:
            self._use_model(successors[-1])

    def _use_model(self, model: str) -> None:
        if model != self._state.model:
            self._state.model = self._summary.model = model
            self._state.slots.move(self._gate(model))

    def _gate(self, model: str) -> DatabaseGate:
        return DatabaseGate(self._tools.queue, self._id, model, self._budget)

    async def _make_room(self) -> None:
        """Wait until another claim is worth its round trip: few images left that have not started, so that
        what is claimed does not stand before others' jobs for long, and a quarter of the places free, or,
        when the last claim emptied the queue, all of them."""
        places = self._settings.jobs_at_a_time
        least = places if self._queue_ran_dry else places - places * 3 // 4
        most_images = self._settings.images_at_a_time // 2
        while self._active.free_places() < least or self._active.unsent_images() > most_images:
            if self._budget.passed(self._budget.save):
                return
            await self._settle_next()

    async def _wait_for_end(self, seconds: float) -> None:
        """Settle the jobs that end next; wait for them at most so long."""
        latest = self._tools.monotonic() + seconds
        while self._active and self._tools.monotonic() < latest:
            if await self._settle_next() or self._state.slots.closed:
                return

    async def _drain(self) -> None:
        """Settle what ends before the settle deadline."""
        while self._active and not self._budget.passed(self._budget.settle):
            await self._settle_next()

    async def _settle_next(self) -> int:
        """Wait a moment; settle the jobs that have ended by then, and return how many."""
        ends = await self._active.settle_next()
        for end in ends:
            await self._heed(end)
        return len(ends)

    async def _heed(self, end: JobEnd) -> None:
        """Act on an error that concerns more than its job: change the model over, or stop the run, also where
        an image that was paid for could not be kept, for the next could not either."""
        for erred in [image for image in end.images if isinstance(image, ImageErred)]:
            error = erred.error
            if isinstance(error, ModelRetired) and error.model != self._state.model:
                continue  # asked before the change-over
            if isinstance(error, ModelRetired) and self._settings.gemini_model_follows:
                await self._change_over(error)
            elif isinstance(error, Misconfigured):
                await self._misconfigured(error)
            elif erred.paid and not self._budget.passed(self._budget.save):
                await self._storage_lost(error)
            elif isinstance(error, PhotoBucketMissing) and self._summary.problem is None:
                self._summary.problem = error.message
                log.event("misconfigured", level="error", code=error.code, reason=error.message)
            elif isinstance(error, PhotoUnreadable):
                self._summary.photo_problem = error.message

    async def _storage_lost(self, error: GenerationError) -> None:
        """Stop where what is paid for could not be stored or recorded, and say why."""
        if isinstance(error, Misconfigured):
            await self._misconfigured(error)
        elif self._summary.stop_reason not in ("misconfigured", "shutdown"):
            self._summary.problem = f"{error.message}; the run started nothing more"
            self._stop_for("queue_lost")

    async def _change_over(self, error: ModelRetired) -> None:
        """Go on with the successor: remember it, let the old model's jobs come back, start again."""
        settings, retired = self._settings, error.model
        instead = settings.gemini_model_fallback if retired == settings.gemini_model_name else None
        try:
            found = await retire(
                self._tools.queue, retired, instead, self._budget.until("save", CLAIM_SECONDS)
            )
        except GenerationError as failed:
            log.event("successor_not_remembered", level="error", code=failed.code, reason=failed.message)
            self._stop_for("queue_lost")
            return
        if found.successor is None:
            await self._misconfigured(error)
            return
        self._use_model(found.successor)
        self._summary.changed_over_from = self._summary.changed_over_from or retired
        self._summary.change_over_note = found.note
        log.event(
            "model_changed_over", level="warning", model=retired, successor=found.successor, note=found.note
        )
        while self._active and not self._budget.passed(self._budget.save):
            await self._settle_next()
        if self._summary.stop_reason is None:
            self._queue_ran_dry = False
            self._state.slots.reopen()

    async def _misconfigured(self, error: Misconfigured) -> None:
        first = self._summary.stop_reason != "misconfigured"
        self._stop_for("misconfigured")
        if not first:
            return
        problem = self._summary.problem = error.message
        if isinstance(error, ModelRetired):
            problem = self._summary.problem = f"{problem} {await self._hint(error)}"
        log.event("misconfigured", level="error", code=error.code, reason=problem)

    async def _hint(self, error: ModelRetired) -> str:
        seconds = max(min(self._budget.remaining(self._budget.save), LIST_SECONDS), 0.0)
        tools = self._tools
        return await hint(
            tools.queue, tools.gemini, error.model, self._budget.until("save", seconds), seconds
        )

    async def _close(self) -> None:
        if self._photos is not None:
            self._photos.close()
        if not self._must_finish:
            return
        await self._tools.proof.tell(self._budget.until("answer"))
        summary = self._summary.as_json(self._tools.monotonic() - self._budget.began)
        try:
            await self._tools.queue.finish(
                self._id, summary, list(self._state.sent.elements()), self._budget.until("finish")
            )
        except GenerationError as error:
            log.event("finish_failed", level="error", reason=str(error))
