"""Settles ended jobs in the database, several per call, and counts them by the status it returns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from worker import log
from worker.common.retry_delay import Uniform, retry_delay_seconds
from worker.errors import GenerationError
from worker.run.context import RunContext
from worker.run.outcome import Abandoned, Completed, Failed, ImageErred, JobEnd, PutAside, Released, Retry
from worker.settings import Settings
from worker.supabase.queue import LEASE_LOST, Settled, Settlement

UNKNOWN_QUOTA_DELAY_SECONDS = 60.0
"""Delay of a job after a 429 without a retry delay: the window of the per-minute quota."""


async def settle_jobs(context: RunContext, ends: Sequence[JobEnd]) -> None:
    """Settle ended jobs. If the call fails, finishing the run releases them, or their leases expire.

    An abandoned job is sent only if requests were sent for it, so that they are counted.
    """
    requests = context.jobs.requests
    results = [
        settlement(end, context.settings, context.services.uniform, requests[end.job.id])
        for end in ends
        if requests[end.job.id] or not isinstance(end.outcome, Abandoned)
    ]
    answers = await _send(context, results)
    for job_id in answers:
        del requests[job_id]
    for end in ends:
        settled_as = answers.get(end.job.id, LEASE_LOST)
        context.summary.add_images(end.images)
        context.summary.add_job(settled_as.status, settled_as.code)
        _log(end, settled_as)


async def _send(context: RunContext, results: Sequence[Settlement]) -> dict[int, Settled]:
    if not results:
        return {}
    try:
        return await context.services.queue.settle(results, context.deadlines.answer)
    except GenerationError as error:
        log.event("settle_failed", level="error", code=error.code, reason=error.message, jobs=len(results))
        return {}


def _log(end: JobEnd, settled: Settled) -> None:
    job = end.job
    log.event(
        f"job_{settled.status or 'lease_lost'}",
        level="info" if settled.status == "completed" else "warning",
        job=job.id,
        batch=job.batch_id,
        attempt=job.attempt,
        code=settled.code,
    )
    errors = [image.error for image in end.images if isinstance(image, ImageErred)]
    for error in [error for error in errors if error.for_customers != error.message][:1]:
        log.event(
            "reason_withheld",
            level="warning",
            job=job.id,
            batch=job.batch_id,
            code=error.code,
            reason=error.message,
        )


def settlement(end: JobEnd, settings: Settings, uniform: Uniform, requests: int = 0) -> Settlement:
    """The settlement of a job for which `requests` requests were sent."""
    job = end.job
    settled_as = partial(Settlement, job.id, job.fence, requests=requests)
    base, cap = settings.retry_base_seconds, settings.retry_cap_seconds
    match end.outcome:
        case Completed():
            return settled_as("completed")
        case Failed(code, message):
            return settled_as("failed", code, message)
        case Retry(code, message, server_delay, attempt_spent):
            delay = retry_delay_seconds(job.attempt, base, cap, uniform, server_delay)
            return settled_as("retry", code, message, retry_seconds=delay, attempt_spent=attempt_spent)
        case PutAside(message, stated_delay, until_daily_reset):
            at_least = 0.0 if until_daily_reset else stated_delay or UNKNOWN_QUOTA_DELAY_SECONDS
            return settled_as(
                "rate_limited",
                "rate_limited",
                message,
                # Always the window of attempt 1: no attempt is spent, so nothing counts these delays.
                retry_seconds=retry_delay_seconds(1, base, cap, uniform, at_least),
                until_daily_reset=until_daily_reset,
                attempt_spent=False,
            )
        case Released(code, message, attempt_spent):
            return settled_as("released", code, message, attempt_spent=attempt_spent)
        case Abandoned():
            # The job is final or has another worker: settled only to count its requests.
            return settled_as("released", attempt_spent=requests > 0)
        case _:
            assert_never(end.outcome)
