"""The run's summary, counted from the settled outcomes, so that the two cannot disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from worker.run.outcome import ImageOutcome, ImageResult
from worker.run.stop import Stop

IMAGE_COUNTS: tuple[ImageResult, ...] = get_args(ImageResult)


@dataclass(slots=True)
class Summary:
    """What one run did. Jobs are counted by the status the database returned, images by their result.

    `answered_by` counts images made by another model than the one requested, by that model. `extra_images`
    counts images beyond the requested one in an answer; they are billed and discarded.
    `order_problem` affects only some orders and can be caused by customers; it is shown if `stop` has no
    problem.
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
        self.images.update(outcome.result for outcome in outcomes)

    def add_job(self, status: str | None, code: str | None = None) -> None:
        """Count a settled job by its new status (None: lease lost), a failed one also by its error code."""
        self.jobs[status or "lease_lost"] += 1
        if status == "failed":
            self.failures[code or "unknown"] += 1

    def as_json(self, duration_seconds: float) -> dict[str, Any]:
        """The response of an invocation; zero counts are included."""
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
"""Most error codes in a summary, to keep it small; the rest are counted together as `other_codes`."""


def most_common(failures: Counter[str]) -> dict[str, int]:
    """The counts by error code, limited to MOST_CODES."""
    named = dict(failures.most_common(MOST_CODES))
    others = failures.total() - sum(named.values())
    return {**named, "other_codes": others} if others else named
