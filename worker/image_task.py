"""One image: a start → generate → store → record; how it ended is a value.

Everything here runs many times at once within a run and shares its `RunState`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from worker import log
from worker.budget import Budget
from worker.errors import (
    GenerationError,
    Misconfigured,
    PhotoUnprocessed,
    QueueUnavailable,
    RateLimited,
    Refused,
    Transient,
)
from worker.gemini import GenerationRequest
from worker.job import GeneratedImage, Job
from worker.keeper import Keeper
from worker.model import price_note
from worker.outcome import (
    CUT,
    ImageDiscarded,
    ImageErred,
    ImageNotStarted,
    ImageOutcome,
    NotStartedReason,
)
from worker.retry import retried
from worker.room import Room
from worker.slots import Slots
from worker.summary import Summary

UNKNOWN_QUOTA_PAUSE_SECONDS = 20.0
"""How long nothing is started after a 429 that names no delay."""


class Model(Protocol):
    """What makes an image; raises the errors of `worker.gemini`. Prepared, a call goes out without delay.

    `models` names the models that there are.
    """

    def prepare(self) -> None: ...

    async def generate(self, request: GenerationRequest, timeout_seconds: float) -> GeneratedImage: ...

    async def models(self, timeout_seconds: float) -> frozenset[str]: ...


@dataclass(slots=True)
class RunState:
    """What the jobs of one run share: its time, its pace, the model in use.

    `in_calls` is memory for photos being sent, shared by all runs of the worker. `sent` counts the requests
    that went out for jobs that are not settled, by the job's id, and the images beyond one that an answer
    had; `prices` are the dollars of an image by model;
    `waits` says since when a job waits for its photos, or its images for memory, by the job's id.
    """

    gemini: Model
    keeper: Keeper
    budget: Budget
    slots: Slots
    images: asyncio.Semaphore
    in_calls: Room
    model: str
    call_timeout_seconds: float
    summary: Summary
    monotonic: Callable[[], float]
    prices: Mapping[str, float] = field(default_factory=dict)
    sent: Counter[int] = field(default_factory=Counter)
    waits: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def waiting(self, job: Job) -> Iterator[None]:
        """Note that the job, or an image of it, waits for what its user may have a share of."""
        since = self.monotonic()
        self.waits[job.id].append(since)
        try:
            yield
        finally:
            self.waits[job.id].remove(since)
            if not self.waits[job.id]:
                del self.waits[job.id]

    def not_tried(self, error: GenerationError) -> bool:
        """Whether what failed before a request was sent counts as no try: the run was stopped meanwhile."""
        return self.slots.closed and isinstance(error, (Transient, QueueUnavailable))

    def count_answer(self, job: Job, asked: str, image: GeneratedImage) -> None:
        """Count an image at the model that made it, and those beside it; tell of another model once a run."""
        self.sent[job.id] += image.extra_images
        self.summary.extra_images += image.extra_images
        answering = image.usage.model
        if answering == asked:
            return
        if not self.summary.answered_by:
            note = price_note(asked, answering, self.prices)
            log.event(
                "model_answered_by_another", level="warning", model=asked, answered_by=answering, note=note
            )
        self.summary.answered_by[answering] += 1


class ImageTask:
    """One image on its way; remembers how far it came, so that its end can be told truly.

    `ended` is shared by the images of a job and set once one of them learns that the job is final.
    """

    def __init__(
        self, state: RunState, job: Job, index: int, request: GenerationRequest, ended: asyncio.Event
    ) -> None:
        self._state = state
        self._job = job
        self._index = index
        self._request = request
        self._ended = ended
        self._sent = False
        self._paid = False
        self._first_error: GenerationError | None = None

    async def run(self) -> ImageOutcome:
        """Make the image; expected failures become its outcome."""
        state = self._state
        memory = state.in_calls.hold(self._job.user_folder, self._request.photo_bytes)
        async with AsyncExitStack() as held:
            # Memory first: who waits for their own share of it keeps no place from others.
            try:
                with state.waiting(self._job):
                    async with state.budget.until("generate"):  # a longer run may hold it
                        await held.enter_async_context(memory)
            except TimeoutError:
                return ImageNotStarted(self._index, self._why_not())
            await held.enter_async_context(state.images)
            outcome = await self._outcome()
        if isinstance(outcome, ImageDiscarded) and outcome.job_final:
            self._ended.set()
        return outcome

    async def _outcome(self) -> ImageOutcome:
        try:
            return await self._make()
        except _NotStarted as exc:
            # A retry that could not start leaves the first try's error standing.
            if self._first_error is not None:
                return self._erred(self._first_error)
            return ImageNotStarted(self._index, exc.reason)
        except GenerationError as error:
            if not self._sent and self._state.not_tried(error):
                return ImageNotStarted(self._index, "stopped")
            return self._erred(error)

    async def _make(self) -> ImageOutcome:
        try:
            image = await self._generate_with_retry()()
        except Refused as refused:
            return await self._state.keeper.give_up(self._job, self._index, refused)
        self._paid = True
        self._state.count_answer(self._job, self._request.model, image)
        return await self._state.keeper.keep(self._job, self._index, image)

    def _generate_with_retry(self) -> Callable[[], Awaitable[GeneratedImage]]:
        """The one in-call retry: a second try after 0 to 2 s, unless the server asks for longer than fits."""
        return retried(
            self._generate, Transient, 2, 2.0, give_up=self._too_late_to_retry, tell=self._tell_retry
        )

    async def _generate(self) -> GeneratedImage:
        state = self._state
        state.gemini.prepare()  # before there is a slot, which would be void by the time the SDK is imported
        epoch = await state.slots.take(self._latest_start)
        if epoch is None:
            raise _NotStarted(self._why_not())
        self._sent = True
        state.sent[self._job.id] += 1
        try:
            async with state.budget.until("generate"):
                return await state.gemini.generate(self._request, state.call_timeout_seconds)
        except RateLimited as error:
            await self._tell_gate(error, epoch)
            raise
        except PhotoUnprocessed as error:
            if isinstance(self._first_error, PhotoUnprocessed):
                raise error.as_bad_input() from error
            raise
        except TimeoutError as exc:
            raise Transient(CUT, "The run's time was up while the photo was being made.") from exc

    async def _tell_gate(self, error: RateLimited, epoch: int) -> None:
        """Let all workers know of a 429; if that fails, at least this run keeps quiet for a while."""
        slots, facts = self._state.slots, error.facts
        try:
            await slots.limited(facts, epoch)
        except GenerationError as lost:
            slots.block(facts.retry_after_seconds or UNKNOWN_QUOTA_PAUSE_SECONDS)
            log.event("rate_limit_not_reported", level="warning", code=lost.code, reason=lost.message)

    def _is_over(self) -> bool:
        """Whether nothing may start any more, in this run or for this job."""
        return self._state.slots.closed or self._ended.is_set()

    def _latest_start(self) -> float:
        """The last moment this call may start, moved to the past once nothing may start any more."""
        return self._state.budget.began - 1 if self._is_over() else self._state.budget.start

    def _why_not(self) -> NotStartedReason:
        if self._is_over():
            return "stopped"
        blocked = self._state.slots.blocked_until > self._state.budget.start or self._state.slots.refusal
        return "rate_limited" if blocked else "budget"

    def _too_late_to_retry(self, error: Transient) -> bool:
        asked = error.retry_after_seconds
        return (
            bool(asked and asked > 2)
            or self._state.slots.closed
            or self._state.budget.passed(self._state.budget.start)
        )

    def _tell_retry(self, error: Transient, wait_seconds: float) -> None:
        self._first_error = error
        log.event("image_retried", image=self._index, code=error.code, wait_seconds=round(wait_seconds, 2))

    def _erred(self, error: GenerationError) -> ImageOutcome:
        level = "error" if isinstance(error, Misconfigured) else "warning"
        if self._paid or isinstance(error, Misconfigured):
            # What cannot work is not tried, and what cannot be kept is not paid for.
            self._state.slots.close()
        log.event("image_erred", level=level, image=self._index, code=error.code, paid=self._paid)
        return ImageErred(self._index, error, sent=self._sent, paid=self._paid)


class _NotStarted(Exception):
    """No call was made."""

    def __init__(self, reason: NotStartedReason) -> None:
        super().__init__(reason)
        self.reason = reason
