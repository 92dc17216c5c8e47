"""One job: adopt what is stored, fetch the photos, then make every missing image.

An image goes photos in hand → start → generate → store → record; how it ended is a value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import backoff

from worker import log
from worker.budget import Budget
from worker.errors import GenerationError, Misconfigured, RateLimited, Refused, Transient
from worker.gemini import GenerationRequest
from worker.job import GeneratedImage, Job, Photo
from worker.outcome import (
    CUT,
    ImageDiscarded,
    ImageErred,
    ImageMade,
    ImageNotStarted,
    ImageOutcome,
    NotStartedReason,
)
from worker.pacer import Pacer
from worker.prompt import build_prompt
from worker.queue import Recorded
from worker.settings import STORE_SECONDS
from worker.storage import StoredImage, object_path, photo_row

UNKNOWN_QUOTA_PAUSE_SECONDS = 20.0
"""How long nothing is started after a 429 that names no delay."""


class Photos(Protocol):
    """Where source photos come from; raises BadInput, Transient or Misconfigured."""

    async def fetch(self, reference: str, user_id: str) -> Photo: ...


class Model(Protocol):
    """What makes an image; raises the errors of `worker.gemini`."""

    async def generate(self, request: GenerationRequest, timeout_seconds: float) -> GeneratedImage: ...


class Store(Protocol):
    """Where images are kept."""

    async def put(self, path: str, image: GeneratedImage, timeout_seconds: float) -> None: ...

    async def remove(self, path: str, timeout_seconds: float) -> None: ...

    async def stored(self, job: Job, timeout_seconds: float) -> dict[int, StoredImage]: ...


class Recorder(Protocol):
    """Where images are recorded."""

    async def record_photo(
        self, job: Job, index: int, photo: Mapping[str, Any], timeout_seconds: float
    ) -> Recorded: ...

    async def record_failed_image(
        self, job: Job, index: int, code: str, message: str, timeout_seconds: float
    ) -> Recorded: ...


@dataclass(slots=True)
class RunState:
    """What the jobs of one run share: its time, its pace, the model in use.

    `sent` are the ids of the jobs for which a request went out.
    """

    budget: Budget
    pacer: Pacer
    images: asyncio.Semaphore
    model: str
    call_timeout_seconds: float
    sent: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Makes the images of one job at a time; any number of them may run at once."""

    photos: Photos
    gemini: Model
    store: Store
    recorder: Recorder
    state: RunState

    async def work(self, job: Job) -> Sequence[ImageOutcome]:
        """Make the job's missing images; returns one outcome for each."""
        missing = set(job.missing)
        outcomes: list[ImageOutcome] = []
        try:
            if job.claimed_before:
                outcomes = await self._adopt(job)
                missing -= {o.index for o in outcomes}
            if not missing or any(isinstance(o, ImageDiscarded) and o.job_final for o in outcomes):
                return outcomes
            photos = await self._photos(job)
        except GenerationError as error:
            return [*outcomes, *(ImageErred(index, error) for index in sorted(missing))]
        request = GenerationRequest(self.state.model, build_prompt(job), photos, job.aspect_ratio)
        ended = asyncio.Event()
        tasks = [ImageTask(self, job, index, request, ended).run() for index in sorted(missing)]
        # All of them, even if one fails unexpectedly: its neighbours may have been paid for.
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            outcomes.append(result)
        return outcomes

    async def _photos(self, job: Job) -> tuple[Photo, ...]:
        """Every photo of the job in hand; the first that fails ends the wait for the others."""
        fetches = [
            asyncio.ensure_future(self.photos.fetch(reference, job.user_id))
            for reference in job.photo_references
        ]
        try:
            async with self.state.budget.until_generate():
                return tuple(await asyncio.gather(*fetches))
        except TimeoutError as exc:
            raise Transient("photo_timeout", "The photos did not arrive within the run's time.") from exc
        finally:
            for fetch in fetches:
                fetch.cancel()

    async def _adopt(self, job: Job) -> list[ImageOutcome]:
        """Record what an earlier claim stored and could not record; nothing is paid for twice."""
        budget = self.state.budget
        stored = await self.store.stored(job, budget.remaining(budget.save))
        outcomes: list[ImageOutcome] = []
        for index in job.missing:
            if index in stored:
                image = stored[index]
                outcomes.append(await self.record(job, index, image.path, image.photo, adopted=True))
        return outcomes

    async def record(
        self, job: Job, index: int, path: str, photo: Mapping[str, Any], adopted: bool = False
    ) -> ImageOutcome:
        """Record a stored image; if it is refused, remove the object, which is ours alone."""
        budget = self.state.budget
        answer = await self.recorder.record_photo(job, index, photo, budget.remaining(budget.save))
        if answer.result == "recorded" or answer.storage_path == path:
            log.event("image_made", job=job.id, batch=job.batch_id, image=index, adopted=adopted)
            return ImageMade(index, adopted)
        await self.store.remove(path, budget.remaining(budget.save))
        log.event("image_discarded", job=job.id, batch=job.batch_id, image=index, reason=answer.result)
        return ImageDiscarded(index, job_final=answer.result == "job_final")


class ImageTask:
    """One image on its way; remembers how far it came, so that its end can be told truly.

    `ended` is shared by the images of a job and set once one of them learns that the job is final.
    """

    def __init__(
        self, pipeline: Pipeline, job: Job, index: int, request: GenerationRequest, ended: asyncio.Event
    ) -> None:
        self._pipeline = pipeline
        self._state = pipeline.state
        self._job = job
        self._index = index
        self._request = request
        self._ended = ended
        self._sent = False
        self._paid = False
        self._first_error: GenerationError | None = None

    async def run(self) -> ImageOutcome:
        """Make the image; expected failures become its outcome."""
        async with self._state.images:
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
        except Refused as error:
            return await self._give_up(error)
        except GenerationError as error:
            return self._erred(error)

    async def _make(self) -> ImageOutcome:
        image = await self._generate_with_retry()()
        self._paid = True
        budget = self._state.budget
        path = object_path(self._job, self._index, image.data)
        await self._pipeline.store.put(path, image, min(STORE_SECONDS, budget.remaining(budget.save)))
        return await self._pipeline.record(self._job, self._index, path, photo_row(path, image))

    def _generate_with_retry(self) -> Callable[[], Awaitable[GeneratedImage]]:
        """The one in-call retry: a second try after 0 to 2 s, unless the server asks for longer than fits."""
        return backoff.on_exception(
            backoff.expo,
            Transient,
            max_tries=2,
            factor=2,
            jitter=backoff.full_jitter,
            giveup=self._too_late_to_retry,
            on_backoff=self._tell_retry,
            logger=None,
        )(self._generate)

    async def _generate(self) -> GeneratedImage:
        state = self._state
        if not await state.pacer.take(self._latest_start):
            raise _NotStarted(self._why_not())
        self._sent = True
        state.sent.add(self._job.id)
        try:
            async with state.budget.until_generate():
                return await self._pipeline.gemini.generate(self._request, state.call_timeout_seconds)
        except TimeoutError as exc:
            raise Transient(CUT, "The run's time was up while the photo was being made.") from exc

    def _latest_start(self) -> float:
        """The last moment this call may start, moved to the past once nothing may start any more."""
        nothing_more = self._state.pacer.closed or self._ended.is_set()
        return self._state.budget.began - 1 if nothing_more else self._state.budget.start

    def _why_not(self) -> NotStartedReason:
        if self._state.pacer.closed or self._ended.is_set():
            return "stopped"
        return "rate_limited" if self._state.pacer.blocked_until > self._state.budget.start else "budget"

    def _too_late_to_retry(self, exc: Exception) -> bool:
        asked = exc.retry_after_seconds if isinstance(exc, Transient) else None
        return (
            bool(asked and asked > 2)
            or self._state.pacer.closed
            or self._state.budget.passed(self._state.budget.start)
        )

    def _tell_retry(self, details: Any) -> None:
        error = self._first_error = details["exception"]
        log.event(
            "image_retried", job=self._job.id, batch=self._job.batch_id, image=self._index,
            code=error.code, wait_seconds=round(details["wait"], 2),
        )  # fmt: skip

    async def _give_up(self, refused: Refused) -> ImageOutcome:
        budget = self._state.budget
        try:
            answer = await self._pipeline.recorder.record_failed_image(
                self._job, self._index, refused.code, refused.message, budget.remaining(budget.save)
            )
        except GenerationError as error:
            return self._erred(error)
        log.event(
            "image_refused", job=self._job.id, batch=self._job.batch_id, image=self._index, code=refused.code
        )
        if answer.result == "job_final":
            return ImageDiscarded(self._index, job_final=True)
        return ImageErred(self._index, refused, sent=True)

    def _erred(self, error: GenerationError) -> ImageOutcome:
        match error:
            case Misconfigured():
                self._state.pacer.close()
            case RateLimited(facts=facts):
                remaining = self._state.budget.remaining(self._state.budget.end)
                pause = facts.retry_after_seconds or UNKNOWN_QUOTA_PAUSE_SECONDS
                self._state.pacer.block(remaining if facts.period == "day" else pause)
            case _:
                pass
        log.event(
            "image_erred", job=self._job.id, batch=self._job.batch_id, image=self._index, code=error.code,
            paid=self._paid, level="error" if isinstance(error, Misconfigured) else "warning",
        )  # fmt: skip
        return ImageErred(self._index, error, sent=self._sent, paid=self._paid)


class _NotStarted(Exception):
    """No call was made."""

    def __init__(self, reason: NotStartedReason) -> None:
        super().__init__(reason)
        self.reason = reason
