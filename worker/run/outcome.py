"""The outcomes of images and jobs as frozen values, and the rule that derives a job's from its images'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    PhotoDelayed,
    QueueUnavailable,
    RateLimited,
    Refused,
)
from worker.jobs import Job

_CUT = "The run ended during the request to Gemini; the next run will send it again."

NotStartedReason = Literal["budget", "rate_limited", "stopped", "photos_not_ready"]


@dataclass(frozen=True, slots=True)
class ImageMade:
    """Stored and recorded; `adopted` if an earlier claim generated it."""

    index: int
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class ImageDiscarded:
    """Generated or recovered, but not recorded: the job is final, or another worker recorded this index."""

    index: int
    job_final: bool


@dataclass(frozen=True, slots=True)
class ImageErred:
    """Failed with `error`; `sent` if a request went to Gemini, `paid` if the image's bytes were received."""

    index: int
    error: GenerationError
    sent: bool = False
    paid: bool = False


@dataclass(frozen=True, slots=True)
class ImageNotStarted:
    """No request was sent: no time or quota was left, the run stopped, or the job's photos took too long."""

    index: int
    reason: NotStartedReason


@dataclass(frozen=True, slots=True)
class ImageCut:
    """Its request was cancelled at the run's deadline; Gemini may still bill it.

    Spends an attempt in a run too short for such a request: the next one could be cut in the same way.
    """

    index: int
    attempt_spent: bool


ImageOutcome = ImageMade | ImageDiscarded | ImageErred | ImageCut | ImageNotStarted


@dataclass(frozen=True, slots=True)
class Completed:
    """Every image is made or has failed permanently; the database decides whether the job succeeded."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job can never succeed. As in all outcomes, the message is for the customer."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry the job after at least the server's delay, in its user's next turn.

    Spends an attempt, unless only Supabase failed, or the photos were not ready in time or delayed by others.
    """

    code: str
    message: str
    server_delay_seconds: float | None = None
    attempt_spent: bool = True


@dataclass(frozen=True, slots=True)
class PutAside:
    """The quota is used up: wait until it resets. Spends no attempt."""

    message: str
    delay_seconds: float | None
    until_daily_reset: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Released back to the queue. Spends an attempt only if a request was sent that may be billed, unless the
    run's end cut one."""

    code: str
    message: str
    attempt_spent: bool


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The job was cancelled or claimed by another worker; this run does not settle it."""


JobOutcome = Completed | Failed | Retry | PutAside | Released | Abandoned


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A processed job and its outcome, not yet settled."""

    job: Job
    images: Sequence[ImageOutcome]
    outcome: JobOutcome


def decide(outcomes: Sequence[ImageOutcome]) -> JobOutcome:
    """Derive the job's outcome from those of its images. The first that applies wins, in this order:

    job already final, misconfigured, bad input, paid for but not stored, quota used up, other errors (retry),
    cut by the run's end, not all started, complete. A refused image counts as done, because its refusal is
    recorded. An image that was paid for but not stored always spends the attempt.
    """
    if any(isinstance(o, ImageDiscarded) and o.job_final for o in outcomes):
        return Abandoned()
    errors = [o.error for o in outcomes if isinstance(o, ImageErred) and not isinstance(o.error, Refused)]
    sent = any(_reached_gemini(o) for o in outcomes)
    not_stored = [o.error for o in outcomes if isinstance(o, ImageErred) and o.paid]
    for chosen in (
        [error for error in errors if isinstance(error, Misconfigured)],
        [error for error in errors if isinstance(error, BadInput)],
        not_stored,
        [error for error in errors if isinstance(error, RateLimited)],
        errors,
    ):
        if chosen:
            return _from_errors(chosen, sent, bool(not_stored))
    cut = [o for o in outcomes if isinstance(o, ImageCut)]
    if cut:
        return Released("cut", _CUT, attempt_spent=any(o.attempt_spent for o in cut))
    held_back = [o.reason for o in outcomes if isinstance(o, ImageNotStarted)]
    if "photos_not_ready" in held_back:
        return Retry("photos_not_ready", _why_not_started("photos_not_ready"), attempt_spent=sent)
    if held_back:
        return Released(held_back[0], _why_not_started(held_back[0]), attempt_spent=sent)
    return Completed()


def _from_errors(errors: Sequence[GenerationError], sent: bool, not_stored: bool) -> JobOutcome:
    first = errors[0]
    match first:
        case Misconfigured():
            return Released(first.code, first.for_customers, attempt_spent=not_stored)
        case BadInput():
            return Failed(first.code, first.for_customers)
        case RateLimited():
            facts = [error.facts for error in errors if isinstance(error, RateLimited)]
            delays = [f.retry_after_seconds for f in facts if f.retry_after_seconds is not None]
            return PutAside(
                first.for_customers, max(delays, default=None), any(f.period == "day" for f in facts)
            )
        case _:
            delays = [e.retry_after_seconds for e in errors if e.retry_after_seconds is not None]
            ours = all(isinstance(error, QueueUnavailable | PhotoDelayed) for error in errors)
            return Retry(
                first.code, first.for_customers, max(delays, default=None), attempt_spent=sent or not ours
            )


def _reached_gemini(outcome: ImageOutcome) -> bool:
    match outcome:
        case ImageMade(adopted=adopted):
            return not adopted
        case ImageErred(sent=sent):
            return sent
        case ImageDiscarded() | ImageCut():
            return True
        case ImageNotStarted():
            return False
        case _:
            assert_never(outcome)


def _why_not_started(reason: NotStartedReason) -> str:
    match reason:
        case "budget":
            return "The run ended before this job started; the next run will pick it up."
        case "rate_limited":
            return "The quota was used up before this job started; a later run will pick it up."
        case "stopped":
            return "The run was stopped before this job started; a later run will pick it up."
        case "photos_not_ready":
            return "The photos were not ready when the run ended; a later run will pick this job up."
        case _:
            assert_never(reason)
