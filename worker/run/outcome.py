"""The outcomes of images and jobs as frozen values, and the rule that derives a job's from its images'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    PhotoDelayed,
    QueueUnavailable,
    RateLimited,
)
from worker.jobs import Job

NotStartedReason = Literal["budget", "rate_limited", "stopped", "photos_not_ready"]

_WHY_RELEASED: Mapping[NotStartedReason | Literal["cut"], str] = {
    "budget": "The run ended before this job started; the next run will pick it up.",
    "rate_limited": "The quota was used up before this job started; a later run will pick it up.",
    "stopped": "The run was stopped before this job started; a later run will pick it up.",
    "photos_not_ready": "The photos were not ready in time; a later run will pick this job up.",
    "cut": "The run ended during the request to Gemini; the next run will send it again.",
}

ImageResult = Literal["made", "adopted", "refused", "erred", "notStarted", "discarded", "cut"]


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """How one image ended; the summary counts images by their `result`.

    made        stored and recorded
    adopted     generated and stored by an earlier claim, and recorded by this one
    refused     Gemini refused it for its content; recorded as failed
    erred       failed with `error`; `paid` if the image's bytes were received
    notStarted  no request was sent; `reason` says why
    discarded   not recorded: the job is final (`job_final`), or another worker recorded this image
    cut         its request was cancelled at the run's deadline; Gemini may still bill it. `attempt_spent` in
                a run too short for such a request: the next one could be cut in the same way

    `sent` if a request went to Gemini, or may have.
    """

    result: ImageResult
    error: GenerationError | None = None
    reason: NotStartedReason | None = None
    sent: bool = False
    paid: bool = False
    attempt_spent: bool = False
    job_final: bool = False


class NotStarted(Exception):
    """No request was sent, for an image or for a job whose photos are not ready; `reason` says why."""

    def __init__(self, reason: NotStartedReason) -> None:
        super().__init__(reason)
        self.reason: NotStartedReason = reason


JobResult = Literal["completed", "failed", "retry", "rate_limited", "released", "abandoned"]


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ends, for `settle_generation_jobs`; the message is for the customer.

    completed     every image is made or has failed permanently; the database decides if the job succeeded
    failed        the job can never succeed
    retry         retried after at least the server's delay, in its user's next turn
    rate_limited  the quota is used up: waits until it resets
    released      back to the queue
    abandoned     cancelled or claimed by another worker; this run does not settle it

    `attempt_spent` unless nothing was learned about the job: its quota was used up, only Supabase or other
    users' lookups failed, or no request was sent that may be billed.
    """

    result: JobResult
    code: str | None = None
    message: str | None = None
    delay_seconds: float | None = None
    until_daily_reset: bool = False
    attempt_spent: bool = True


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A processed job and its outcome, not yet settled."""

    job: Job
    images: Sequence[ImageOutcome]
    outcome: JobOutcome


def decide(images: Sequence[ImageOutcome]) -> JobOutcome:
    """Derive the job's outcome from those of its images. The first that applies wins, in this order:

    job already final, misconfigured, bad input, paid for but not stored, quota used up, other errors (retry),
    cut by the run's end, not all started, complete. A refused image counts as done, because its refusal is
    recorded. An image that was paid for but not stored always spends the attempt.
    """
    if any(image.job_final for image in images):
        return JobOutcome("abandoned")
    errors = [image.error for image in images if image.error]
    not_stored = [image.error for image in images if image.error and image.paid]
    sent = any(image.sent for image in images)
    for chosen in (
        [error for error in errors if isinstance(error, Misconfigured)],
        [error for error in errors if isinstance(error, BadInput)],
        not_stored,
        [error for error in errors if isinstance(error, RateLimited)],
        errors,
    ):
        if chosen:
            return _from_errors(chosen, sent, bool(not_stored))
    if cut := [image for image in images if image.result == "cut"]:
        spent = any(image.attempt_spent for image in cut)
        return JobOutcome("released", "cut", _WHY_RELEASED["cut"], attempt_spent=spent)
    if reasons := [image.reason for image in images if image.reason]:
        late = "photos_not_ready" in reasons
        reason = "photos_not_ready" if late else reasons[0]
        return JobOutcome("retry" if late else "released", reason, _WHY_RELEASED[reason], attempt_spent=sent)
    return JobOutcome("completed")


def _from_errors(errors: Sequence[GenerationError], sent: bool, not_stored: bool) -> JobOutcome:
    first = errors[0]
    code, message = first.code, first.for_customers
    match first:
        case Misconfigured():
            return JobOutcome("released", code, message, attempt_spent=not_stored)
        case BadInput():
            return JobOutcome("failed", code, message)
        case RateLimited():
            facts = [error.facts for error in errors if isinstance(error, RateLimited)]
            delay = _longest(each.retry_after_seconds for each in facts)
            daily = any(each.period == "day" for each in facts)
            return JobOutcome("rate_limited", "rate_limited", message, delay, daily, attempt_spent=False)
        case _:
            delay = _longest(error.retry_after_seconds for error in errors)
            ours = all(isinstance(error, QueueUnavailable | PhotoDelayed) for error in errors)
            return JobOutcome("retry", code, message, delay, attempt_spent=sent or not ours)


def _longest(delays: Iterable[float | None]) -> float | None:
    return max((delay for delay in delays if delay is not None), default=None)
