"""Starts the Cloud Run job that drains a backlog, when a run of the HTTP function leaves a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from worker import log
from worker.errors import GenerationError
from worker.ops.cloud_run import CloudRunUnreadable, Resource, start_job
from worker.settings import Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

LEFT_WORK = ("budget", "max_jobs")
"""Only such runs ended with more to do and a gate that lets start; for all others nothing is asked."""

LONGEST_SECONDS = 4.0


class Queue(Protocol):
    """Who knows the backlog."""

    async def rpc(self, name: str, params: Mapping[str, Any], within: float) -> Any: ...


class ScaleOut:
    """Looks after a run whether its job should be started; never raises, and never makes an answer late."""

    def __init__(self, settings: Settings, queue: Queue, credentials: Credentials | None = None) -> None:
        self._settings = settings
        self._queue = queue
        self._credentials = credentials

    async def after(self, summary: Mapping[str, Any]) -> None:
        """Start the job if the run left more jobs ready than the threshold; failures are only logged."""
        job = self._settings.drain_job
        if job is None or summary["stopReason"] not in LEFT_WORK:
            return
        # Half of what is left, the rest is the answer's: 2.5 s after a run that used its whole budget.
        left = self._settings.invocation_timeout_seconds - summary["durationSeconds"]
        seconds = min(left / 2, LONGEST_SECONDS) / 2  # for each of two questions
        if seconds <= 0:
            return
        try:
            await self._look(Resource.parse(job, "jobs"), seconds)
        except (CloudRunUnreadable, GenerationError) as exc:
            log.event("drain_job_not_started", level="error", drain_job=job, reason=exc.message)
        except Exception:  # noqa: BLE001 - the run is done and its answer must leave, whatever happens here
            log.event("drain_job_not_started", level="error", drain_job=job, exc_info=True)

    async def _look(self, job: Resource, seconds: float) -> None:
        stats = await self._queue.rpc("generation_queue_stats", {}, seconds)
        ready = stats["ready"]
        if ready <= self._settings.drain_job_backlog:
            return
        tasks = self._settings.drain_job_tasks
        if await start_job(job, tasks, self._credentials, seconds):
            log.event("drain_job_started", drain_job=str(job), ready=ready, tasks=tasks)
