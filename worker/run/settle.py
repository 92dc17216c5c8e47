"""Settles ended jobs in the database, several per call, and counts them by the status it returns."""

from __future__ import annotations

from collections.abc import Sequence

from worker import log
from worker.common.retry_delay import Uniform, retry_delay_seconds
from worker.errors import GenerationError
from worker.run.context import RunContext
from worker.run.outcome import JobEnd
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
        if requests[end.job.id] or end.outcome.result != "abandoned"
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
    errors = [image.error for image in end.images if image.error]
    if error := next((error for error in errors if error.for_customers != error.message), None):
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
    job, outcome = end.job, end.outcome
    # An abandoned job is final or has another worker: it is settled only to count its requests.
    abandoned = outcome.result == "abandoned"
    return Settlement(
        job.id,
        job.fence,
        "released" if abandoned else outcome.result,
        outcome.code,
        outcome.message,
        retry_seconds=_retry_seconds(end, settings, uniform),
        until_daily_reset=outcome.until_daily_reset,
        attempt_spent=requests > 0 if abandoned else outcome.attempt_spent,
        requests=requests,
    )


def _retry_seconds(end: JobEnd, settings: Settings, uniform: Uniform) -> float:
    outcome, attempt, at_least = end.outcome, end.job.attempt, end.outcome.delay_seconds
    if outcome.result == "rate_limited":
        attempt = 1  # no attempt is spent, so nothing counts these delays
        at_least = 0.0 if outcome.until_daily_reset else at_least or UNKNOWN_QUOTA_DELAY_SECONDS
    elif outcome.result != "retry":
        return 0.0
    base, cap = settings.retry_base_seconds, settings.retry_cap_seconds
    return retry_delay_seconds(attempt, base, cap, uniform, at_least)
