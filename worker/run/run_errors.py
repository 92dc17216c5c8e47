"""Handles errors that affect more than one job: switches to a successor model, or stops the run."""

from __future__ import annotations

from worker import log
from worker.errors import (
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoBucketMissing,
    PhotoUnreadable,
)
from worker.gemini.models import KnownModels
from worker.run.context import RunContext
from worker.run.outcome import JobEnd

RETIRE_SECONDS = 20.0
LIST_SECONDS = 10.0


async def handle_errors(context: RunContext, end: JobEnd) -> None:
    """Handle the errors of a settled job."""
    for image in end.images:
        error = image.error
        if isinstance(error, ModelRetired) and error.model != context.model:
            continue  # requested before the model was changed over
        if isinstance(error, ModelRetired) and context.settings.gemini_model_follows:
            await _change_over(context, error)
        elif isinstance(error, Misconfigured):
            await _misconfigured(context, error)
        elif error and image.paid and not context.deadlines.save.passed:
            await storage_lost(context, error)
        elif isinstance(error, PhotoBucketMissing):
            _report_missing_bucket(context, error)
        elif isinstance(error, PhotoUnreadable) and context.summary.order_problem is None:
            context.summary.order_problem = error.message


async def storage_lost(context: RunContext, error: GenerationError) -> None:
    """Stop the run because a paid image could not be stored or recorded."""
    if isinstance(error, Misconfigured):
        await _misconfigured(context, error)
    else:
        context.stop.abort("queue_lost", f"{error.message}; the run stopped")


async def _misconfigured(context: RunContext, error: Misconfigured) -> None:
    is_known = context.stop.reason == "misconfigured"
    context.stop.abort("misconfigured", error.message)
    if is_known:
        return
    if isinstance(error, ModelRetired):
        context.stop.problem = f"{error.message} {await _advice(context, error)}"
    log.event("misconfigured", level="error", code=error.code, reason=context.stop.problem)


async def _advice(context: RunContext, error: ModelRetired) -> str:
    deadline = context.deadlines.save.within(LIST_SECONDS)
    known = KnownModels(await context.services.queue.known_models(deadline))
    return known.advice(error.model, await context.services.gemini.listed_models(deadline.remaining))


async def _change_over(context: RunContext, error: ModelRetired) -> None:
    """Use the successor from now on, and record it for all workers.

    The retired model's error has paused new requests; the run continues once its jobs have ended.
    """
    settings, retired = context.settings, error.model
    instead = settings.gemini_model_fallback if retired == settings.gemini_model_name else None
    try:
        deadline = context.deadlines.save.within(RETIRE_SECONDS)
        found = await context.services.queue.retire_model(retired, instead, deadline)
    except GenerationError as failed:
        log.event("successor_not_remembered", level="error", code=failed.code, reason=failed.message)
        context.stop.abort("queue_lost")
        return
    if found.successor is None:
        await _misconfigured(context, error)
        return
    context.use_model(found.successor)
    context.summary.changed_over_from = context.summary.changed_over_from or retired
    context.summary.change_over_note = found.note
    log.event(
        "model_changed_over", level="warning", model=retired, successor=found.successor, note=found.note
    )


def _report_missing_bucket(context: RunContext, error: PhotoBucketMissing) -> None:
    context.summary.order_problem = error.message
    if error.message not in context.logged_problems:
        context.logged_problems.add(error.message)
        log.event("misconfigured", level="error", code=error.code, reason=error.message)
