"""How a job's outcome is told to the database: the settlement, with its delays drawn. Pure."""

from __future__ import annotations

from typing import assert_never

from worker.job import Job
from worker.outcome import Abandoned, Completed, Failed, JobOutcome, PutAside, Released, Retry
from worker.queue import Settlement
from worker.retry import Uniform, retry_delay_seconds
from worker.settings import Settings

UNKNOWN_QUOTA_DELAY_SECONDS = 60.0
"""How long a job waits after a 429 that names no delay: the per-minute quota's window."""


def settlement(job: Job, outcome: JobOutcome, settings: Settings, uniform: Uniform) -> Settlement:
    """The settlement of a job; `Abandoned` has none (ValueError)."""
    match outcome:
        case Completed():
            return Settlement(job.id, job.fence, "completed")
        case Failed(code, message):
            return Settlement(job.id, job.fence, "failed", code, message)
        case Retry(code, message, server_delay):
            delay = retry_delay_seconds(
                job.attempt, settings.retry_base_seconds, settings.retry_cap_seconds, uniform, server_delay
            )
            return Settlement(job.id, job.fence, "retry", code, message, retry_seconds=delay)
        case PutAside(message, delay, until_daily_reset):
            at_least = 0.0 if until_daily_reset else delay or UNKNOWN_QUOTA_DELAY_SECONDS
            return Settlement(
                job.id,
                job.fence,
                "rate_limited",
                "rate_limited",
                message,
                # The first window, however often: attempts are not spent, so nothing counts these.
                retry_seconds=retry_delay_seconds(
                    1, settings.retry_base_seconds, settings.retry_cap_seconds, uniform, at_least
                ),
                until_daily_reset=until_daily_reset,
                attempt_spent=False,
            )
        case Released(code, message, attempt_spent):
            return Settlement(job.id, job.fence, "released", code, message, attempt_spent=attempt_spent)
        case Abandoned():
            raise ValueError("an abandoned job is not settled")
        case _:
            assert_never(outcome)
