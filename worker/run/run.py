"""One run: claim jobs, process many concurrently, settle them as they end, finish, and return a summary.

A run ends when the queue is empty, its job limit or time budget is reached, or an error affects every job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from worker import log
from worker.common.deadline import Deadline
from worker.errors import GenerationError, Misconfigured
from worker.run.context import RunContext
from worker.run.job import process_job
from worker.run.outcome import ImageOutcome, JobEnd, JobOutcome
from worker.run.run_errors import handle_errors, storage_lost
from worker.run.settle import settle_jobs
from worker.run.stop import known_reason
from worker.supabase.queue import Claim

CLAIM_SECONDS = 20.0

CLAIM_PAUSE_SECONDS = 2.0
"""Longest pause after an empty claim while jobs are still in flight."""

CLAIM_ROUNDS = 2
"""A run claims up to this many times `images_at_a_time` images. A low value keeps claimed jobs from delaying
other users' jobs."""


async def run(context: RunContext) -> dict[str, Any]:
    """One invocation; returns its summary. Raises QueueUnavailable if the first claim fails."""
    with log.bound(run=str(context.id)):
        try:
            while claim := await next_claim(context):
                await start_jobs(context, claim)
                await settle_until(context, lambda: may_claim(context), context.deadlines.save)
            await settle_until(context, lambda: not context.jobs, context.deadlines.settle)
        finally:
            context.jobs.abandon()  # a failed or cancelled run releases its jobs too
            await finish_run(context)
        summary = sum_up(context)
        log.event("run_finished", **{k: v for k, v in summary.items() if k not in ("runId", "images")})
        return summary


async def next_claim(context: RunContext) -> Claim | None:
    """The next jobs to start, or None when the run claims no more; `stop` has the reason."""
    while not stop_if_used_up(context):
        if context.stop.paused:
            # An error that affects all jobs: wait for them to end, then decide whether to continue.
            await settle_until(context, lambda: not context.jobs, context.deadlines.save)
            context.stop.resume()
            continue
        try:
            claim = await _claim(context)
        except GenerationError as error:
            _claim_failed(context, error)
            return None
        if claim.jobs:
            return claim
        if not _may_get_more(context, claim):
            _set_next_attempt(context, claim.next_attempt_seconds)
            context.stop.end(known_reason(claim.reason, "queue_empty"))
            return None
        await _wait_for_more(context)
        await settle_until(context, lambda: may_claim(context), context.deadlines.save)
    return None


async def start_jobs(context: RunContext, claim: Claim) -> None:
    """Start the claimed jobs, or release them if Storage cannot store their images."""
    services = context.services
    context.summary.claimed += len(claim.jobs)
    try:
        await services.proof.require(claim.storage_refused, claim.answered_at, context.deadlines.generate)
    except GenerationError as error:
        await _release(context, claim, error)
        return
    context.deadlines.expect_latency(claim.latency_seconds)
    context.prices = claim.prices
    context.follow(claim.successors)
    if context.photos is None:
        context.photos = services.open_photos(claim.photo_buckets, claim.photo_hosts)
    for job in claim.jobs:
        context.jobs.start(job, process_job(context, job, context.photos))


async def settle_until(context: RunContext, satisfied: Callable[[], bool], deadline: Deadline) -> None:
    """Settle jobs as they end, several per call, until `satisfied` or the deadline."""
    while True:
        if ends := context.jobs.take_ended():
            await settle_jobs(context, ends)
            for end in ends:
                await handle_errors(context, end)
        if satisfied() or deadline.passed:
            return
        await context.jobs.wait_for_change(deadline)


async def finish_run(context: RunContext) -> None:
    """Finish the run in the database, unless it claimed nothing. Releases its remaining jobs, including those
    of a claim whose answer was lost."""
    if context.photos is not None:
        context.photos.close()
    if not context.summary.claimed and not context.claim_unanswered:
        return
    services = context.services
    await services.proof.report_pending(context.deadlines.answer)
    spent = list(context.jobs.requests.elements())
    try:
        await services.queue.finish(context.id, sum_up(context), spent, context.deadlines.finish)
    except GenerationError as error:
        log.event("finish_failed", level="error", reason=str(error))


def sum_up(context: RunContext) -> dict[str, Any]:
    """The run's summary so far."""
    return context.summary.as_json(context.services.monotonic() - context.deadlines.began)


def stop_if_used_up(context: RunContext) -> bool:
    """End the run if its jobs, quota or time are used up; returns whether it has ended."""
    stop, limiter = context.stop, context.limiter
    if stop.reason is None:
        if context.summary.claimed >= context.max_jobs:
            stop.end("max_jobs")
        elif limiter.blocked_until > context.deadlines.start.at:
            seconds = max(limiter.blocked_until - context.services.monotonic(), 0.0)
            _set_next_attempt(context, round(seconds, 3))
            stop.end(known_reason(limiter.refusal, "rate_limited"))
        elif context.deadlines.start.passed:
            stop.end("budget")
    return stop.reason is not None


def may_claim(context: RunContext) -> bool:
    """Whether another claim is worth its round trip.

    At most half of `images_at_a_time` may be unsent, so that claimed jobs do not delay other users' jobs.
    A quarter of the places must be free, or all of them if the last claim emptied the queue.
    """
    places = context.settings.jobs_at_a_time
    least = places if context.queue_ran_dry else places - places * 3 // 4
    return context.jobs.free_places() >= least and context.jobs.unsent_images() <= context.jobs.most_unsent


async def _claim(context: RunContext) -> Claim:
    jobs = min(context.jobs.claimable_jobs(), context.max_jobs - context.summary.claimed)
    skipped = context.jobs.users_at_limit()
    images = max(CLAIM_ROUNDS * context.settings.images_at_a_time - context.jobs.unsent_images(), 1)
    context.claim_unanswered = True
    claim = await context.services.queue.claim(
        context.id,
        uuid4(),
        jobs,
        max(context.deadlines.end.remaining, 1.0),
        context.model,
        context.deadlines.generate.within(CLAIM_SECONDS),
        skipped,
        images,
    )
    context.claim_unanswered = False
    context.database_time.set(claim.answered_at)
    claimed = sum(job.num_images for job in claim.jobs)
    is_short = len(claim.jobs) < jobs and claimed < claim.most_images
    context.queue_ran_dry = is_short and not skipped
    return claim


def _claim_failed(context: RunContext, error: GenerationError) -> None:
    """Stop after a failed claim."""
    log.event("claim_failed", level="error", code=error.code, reason=error.message)
    if isinstance(error, Misconfigured):
        context.stop.end("misconfigured", error.message)
    elif context.summary.claimed == 0:
        raise error
    else:
        context.stop.end("queue_lost")


def _may_get_more(context: RunContext, claim: Claim) -> bool:
    """Whether an empty claim is worth repeating when jobs in flight end or start to wait."""
    return claim.reason in ("isolated", "queue_empty", "busy") and bool(context.jobs)


async def _wait_for_more(context: RunContext) -> None:
    """Wait for a job to end after an empty claim, or for a user to leave their limit; settle ended jobs."""
    jobs, at_limit = context.jobs, context.jobs.users_at_limit()
    before = len(jobs)

    def changed() -> bool:
        return jobs.users_at_limit() != at_limit if at_limit else len(jobs) < before

    pause = claim_pause_seconds(context.limiter.horizon)
    await settle_until(context, changed, context.deadlines.save.within(pause))


def claim_pause_seconds(horizon: float) -> float:
    """The longest pause after an empty claim; at most a fifth of how far in advance the gate gives slots, so
    that the next slots can be for a new user."""
    return min(CLAIM_PAUSE_SECONDS, horizon / 5)


def _set_next_attempt(context: RunContext, seconds: float | None) -> None:
    context.summary.next_attempt_seconds = seconds
    context.summary.next_attempt_at = context.database_time.after(seconds)


async def _release(context: RunContext, claim: Claim, error: GenerationError) -> None:
    """Release the claimed jobs without spending an attempt, and stop the run."""
    outcome = JobOutcome("released", error.code, error.for_customers, attempt_spent=False)
    stopped = ImageOutcome("notStarted", reason="stopped")
    await settle_jobs(context, [JobEnd(job, [stopped] * len(job.missing), outcome) for job in claim.jobs])
    await storage_lost(context, error)
