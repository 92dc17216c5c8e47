"""The run's summary: a fold over the outcomes that were settled, so that the two cannot disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from worker.errors import Refused
from worker.run.outcome import (
    CUT,
    ImageDiscarded,
    ImageErred,
    ImageMade,
    ImageNotStarted,
    ImageOutcome,
)
from worker.run.stop import Stop


@dataclass(slots=True)
class Summary:
    """What one run did. Jobs are counted by the status the database gave them, images by their outcome.

    `answered_by` counts the images that another model made than the one that was asked, by that model,
    `extra_images` those that came in answers beside the one that was asked for: paid for, and thrown away.
    `order_problem` concerns some orders only, and is told where `stop` has none: customers can cause it.
    """

    run_id: str
    worker_id: str
    model: str
    stop: Stop = field(default_factory=Stop)
    next_attempt_seconds: float | None = None
    next_attempt_at: str | None = None
    order_problem: str | None = None
    changed_over_from: str | None = None
    change_over_note: str | None = None
    answered_by: Counter[str] = field(default_factory=Counter)
    extra_images: int = 0
    claimed: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def add_images(self, outcomes: Sequence[ImageOutcome]) -> None:
        """Count a job's images."""
        for outcome in outcomes:
            self.images[_image_count(outcome)] += 1

    def add_job(self, status: str | None, code: str | None = None) -> None:
        """Count a settled job by its new status, a failed one by its error code; None: the lease was lost."""
        self.jobs[status or "lease_lost"] += 1
        if status == "failed":
            self.failures[code or "unknown"] += 1

    def as_json(self, duration_seconds: float) -> dict[str, Any]:
        """The answer of an invocation; every count is there, also when zero."""
        answer: dict[str, Any] = {
            "runId": self.run_id,
            "workerId": self.worker_id,
            "model": self.model,
            "stopReason": self.stop.reason,
            "claimed": self.claimed,
            "completed": self.jobs["completed"],
            "failed": self.jobs["failed"],
            "failuresByCode": most_common(self.failures),
            "retried": self.jobs["pending"],
            "rateLimited": self.jobs["rate_limited"],
            "leaseLost": self.jobs["lease_lost"],
            "images": {name: self.images[name] for name in IMAGE_COUNTS},
            "durationSeconds": round(duration_seconds, 3),
            "nextAttemptInSeconds": self.next_attempt_seconds,
            "nextAttemptAt": self.next_attempt_at,
        }
        if problem := self.stop.problem or self.order_problem:
            answer["problem"] = problem
        if self.changed_over_from:
            answer["changedOverFrom"] = self.changed_over_from
        if self.change_over_note:
            answer["changeOverNote"] = self.change_over_note
        if self.answered_by:
            made = sorted(self.answered_by.items())
            answer["answeredBy"] = [{"model": model, "images": images} for model, images in made]
        if self.extra_images:
            answer["extraImages"] = self.extra_images
        return answer


MOST_CODES = 10
"""Codes that a summary names, so that it stays small; the rest are counted together as `other_codes`."""


def most_common(failures: Counter[str]) -> dict[str, int]:
    """The counts by error code, small enough for a summary."""
    named = dict(failures.most_common(MOST_CODES))
    others = failures.total() - sum(named.values())
    return {**named, "other_codes": others} if others else named


# `cut`: under way when the time was up; Gemini may bill it all the same.
IMAGE_COUNTS = ("made", "adopted", "refused", "erred", "notStarted", "discarded", "cut")


def _image_count(outcome: ImageOutcome) -> str:
    match outcome:
        case ImageMade(adopted=adopted):
            return "adopted" if adopted else "made"
        case ImageErred(error=Refused()):
            return "refused"
        case ImageErred(error=error):
            return "cut" if error.code == CUT else "erred"
        case ImageDiscarded():
            return "discarded"
        case ImageNotStarted():
            return "notStarted"
        case _:
            assert_never(outcome)
