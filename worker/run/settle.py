"""How jobs' ends are told to the database, several in one call, and counted by what it says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from worker import log
from worker.backoff import Uniform, retry_delay_seconds
from worker.errors import GenerationError
from worker.run.context import RunContext
from worker.run.outcome import Abandoned, Completed, Failed, ImageErred, JobEnd, PutAside, Released, Retry
from worker.settings import Settings
from worker.supabase.queue import LEASE_LOST, Settled, Settlement

UNKNOWN_QUOTA_DELAY_SECONDS = 60.0
"""How long a job waits after a 429 that names no delay: the per-minute quota's window."""


async def settle_jobs(context: RunContext, ends: Sequence[JobEnd]) -> None:
    """Settle jobs that have ended; if that fails, their leases run out or finishing releases them.

    An abandoned job is told of only for the requests that were sent for it.
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
    """The settlement of a job for which so many requests were sent."""
    job = end.job
    told = partial(Settlement, job.id, job.fence, requests=requests)
    base, cap = settings.retry_base_seconds, settings.retry_cap_seconds
    match end.outcome:
        case Completed():
            return told("completed")
        case Failed(code, message):
            return told("failed", code, message)
        case Retry(code, message, server_delay, attempt_spent):
            delay = retry_delay_seconds(job.attempt, base, cap, uniform, server_delay)
            return told("retry", code, message, retry_seconds=delay, attempt_spent=attempt_spent)
        case PutAside(message, stated_delay, until_daily_reset):
            at_least = 0.0 if until_daily_reset else stated_delay or UNKNOWN_QUOTA_DELAY_SECONDS
            return told(
                "rate_limited",
                "rate_limited",
                message,
                # The first window, however often: attempts are not spent, so nothing counts these.
                retry_seconds=retry_delay_seconds(1, base, cap, uniform, at_least),
                until_daily_reset=until_daily_reset,
                attempt_spent=False,
            )
        case Released(code, message, attempt_spent):
            return told("released", code, message, attempt_spent=attempt_spent)
        case Abandoned():
            return told("released", attempt_spent=requests > 0)  # the database finds it final, or another's
        case _:
            assert_never(end.outcome)
