"""Starts the Cloud Run job that drains the backlog, if a run of the HTTP function leaves a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker import log
from worker.errors import GenerationError
from worker.ops.cloud_run import CloudRunUnreadable, Resource, start_job
from worker.settings import Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from worker.supabase.queue import Database

LEFT_WORK = ("budget", "max_jobs")
"""Stop reasons of runs that may have left due jobs although the gate is open. Other runs start no job."""

LONGEST_SECONDS = 4.0


class ScaleOut:
    """Decides after a run whether to start the job; never raises, and never delays the response too long."""

    def __init__(self, settings: Settings, queue: Database, credentials: Credentials | None = None) -> None:
        self._settings = settings
        self._queue = queue
        self._credentials = credentials

    async def after(self, summary: Mapping[str, Any]) -> None:
        """Start the job if more jobs are ready than DRAIN_JOB_BACKLOG; failures are only logged."""
        job = self._settings.drain_job
        if job is None or summary["stopReason"] not in LEFT_WORK:
            return
        # Half of the remaining time (2.5 s if the run used its whole budget); the response needs the rest.
        left = self._settings.invocation_timeout_seconds - summary["durationSeconds"]
        seconds = min(left / 2, LONGEST_SECONDS) / 2  # for each of the two calls
        if seconds <= 0:
            return
        try:
            await self._look(Resource.parse(job, "jobs"), seconds)
        except (CloudRunUnreadable, GenerationError) as exc:
            log.event("drain_job_not_started", level="error", drain_job=job, reason=exc.message)
        except Exception:  # noqa: BLE001 - the run is done, and its response must be sent in any case
            log.event("drain_job_not_started", level="error", drain_job=job, exc_info=True)

    async def _look(self, job: Resource, seconds: float) -> None:
        stats = await self._queue.rpc("generation_queue_stats", {}, seconds)
        ready = stats["ready"]
        if ready <= self._settings.drain_job_backlog:
            return
        tasks = self._settings.drain_job_tasks
        if await start_job(job, tasks, self._credentials, seconds):
            log.event("drain_job_started", drain_job=str(job), ready=ready, tasks=tasks)
