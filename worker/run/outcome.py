"""What became of an image and of a job: frozen values, and the rule that makes the one from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    QueueUnavailable,
    RateLimited,
    Refused,
)
from worker.jobs import Job

CUT = "cut"
"""Code of the error of a call that was under way when the run's time was up."""

NotStartedReason = Literal["budget", "rate_limited", "stopped"]


@dataclass(frozen=True, slots=True)
class ImageMade:
    """Stored and recorded; `adopted` when an earlier claim had generated it."""

    index: int
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class ImageDiscarded:
    """Generated or found, but not wanted any more: the job ended meanwhile, or somebody else was first."""

    index: int
    job_final: bool


@dataclass(frozen=True, slots=True)
class ImageErred:
    """Not made, and why; `sent` when a request reached Gemini for it, `paid` when its bytes reached us."""

    index: int
    error: GenerationError
    sent: bool = False
    paid: bool = False


@dataclass(frozen=True, slots=True)
class ImageNotStarted:
    """No request was sent for it: the time, the quota or the run was at its end."""

    index: int
    reason: NotStartedReason


ImageOutcome = ImageMade | ImageDiscarded | ImageErred | ImageNotStarted


@dataclass(frozen=True, slots=True)
class Completed:
    """Every image is made or given up for good; the database says whether that is success."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job can never work. As in all outcomes, the message is for the customer."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another try, after the server's delay at least; an attempt, unless only Supabase failed."""

    code: str
    message: str
    server_delay_seconds: float | None = None
    attempt_spent: bool = True


@dataclass(frozen=True, slots=True)
class PutAside:
    """The quota is used up: wait for it; the attempt is not spent."""

    message: str
    delay_seconds: float | None
    until_daily_reset: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Given back as it was; the attempt counts only if a request was sent that may have been answered."""

    code: str
    message: str
    attempt_spent: bool


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Not ours any more: cancelled, or claimed by somebody else. Nothing is settled."""


JobOutcome = Completed | Failed | Retry | PutAside | Released | Abandoned


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How work on a job ended, before it is settled."""

    job: Job
    images: Sequence[ImageOutcome]
    outcome: JobOutcome


def decide(outcomes: Sequence[ImageOutcome]) -> JobOutcome:
    """The job's outcome from those of its images; the first that applies, in this order:

    ended meanwhile, misconfigured, impossible as ordered, paid for and not kept, quota used up, worth a
    retry, not all started, complete. A refused image counts as done: it was recorded as such. An image that
    was paid for and not kept spends the attempt, whatever else happened.
    """
    if any(isinstance(o, ImageDiscarded) and o.job_final for o in outcomes):
        return Abandoned()
    errors = [o.error for o in outcomes if isinstance(o, ImageErred) and not isinstance(o.error, Refused)]
    sent = any(_reached_gemini(o) for o in outcomes)
    unkept = [o.error for o in outcomes if isinstance(o, ImageErred) and o.paid]
    for chosen in (
        [error for error in errors if isinstance(error, Misconfigured)],
        [error for error in errors if isinstance(error, BadInput)],
        unkept,
        [error for error in errors if isinstance(error, RateLimited)],
        errors,
    ):
        if chosen:
            return _from_errors(chosen, sent, bool(unkept))
    held_back = [o.reason for o in outcomes if isinstance(o, ImageNotStarted)]
    if held_back:
        return Released(held_back[0], _why_not_started(held_back[0]), attempt_spent=sent)
    return Completed()


def _from_errors(errors: Sequence[GenerationError], sent: bool, unkept: bool) -> JobOutcome:
    first = errors[0]
    match first:
        case Misconfigured():
            return Released(first.code, first.for_customers, attempt_spent=unkept)
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
            ours = all(isinstance(error, QueueUnavailable) for error in errors)
            return Retry(
                first.code, first.for_customers, max(delays, default=None), attempt_spent=sent or not ours
            )


def _reached_gemini(outcome: ImageOutcome) -> bool:
    match outcome:
        case ImageMade(adopted=adopted):
            return not adopted
        case ImageErred(sent=sent):
            return sent
        case ImageDiscarded():
            return True
        case ImageNotStarted():
            return False
        case _:
            assert_never(outcome)


def _why_not_started(reason: NotStartedReason) -> str:
    match reason:
        case "budget":
            return "The run's time was up before this could start; the next run takes it."
        case "rate_limited":
            return "The quota was used up before this could start; a later run takes it."
        case "stopped":
            return "The run stopped before this could start; a later run takes it."
        case _:
            assert_never(reason)
