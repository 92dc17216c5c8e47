"""The database functions of the queue as methods; the only module that handles postgrest's errors.

Each call is idempotent and is retried until its deadline if Supabase does not answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from worker.common.deadline import Within
from worker.errors import (
    BearerRefused,
    GenerationError,
    Misconfigured,
    NotExecuted,
    QueueRefused,
    QueueUnavailable,
)
from worker.jobs import Job
from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.rpc_errors import call_error, schema_too_old

SCHEMA_VERSION = 9
"""The schema version that this worker needs: the last file in `sql/migrations/` that it relies on."""

TRIES = 4
"""Tries per call; if Supabase refuses immediately, the waits between them add up to at most 3.5 s."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: jobs, or the reason for none and the seconds until the next attempt.

    `successors` are the models that replaced the requested one, in order; `prices` are dollars per image, by
    model; `photo_buckets` and `photo_hosts` are the allowed sources of photos; `answered_at` is the
    database's time; `storage_refused` describes a paid image that Storage did not accept; `most_images` is
    the limit of images claimed: the caller's, or what the rate gate can start.
    """

    answered_at: str
    jobs: tuple[Job, ...] = ()
    successors: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    latency_seconds: float | None = None
    photo_buckets: tuple[str, ...] = ()
    photo_hosts: tuple[str, ...] = ()
    storage_refused: Mapping[str, Any] | None = None
    most_images: float = math.inf
    reason: str | None = None
    next_attempt_seconds: float | None = None

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Claim:
        """The claim that `claim_generation_jobs` answered; without jobs it has fewer fields."""
        return cls(
            answered_at=answer["answeredAt"],
            jobs=tuple(Job.from_row(row, answer["fence"]) for row in answer["jobs"]),
            successors=tuple(answer.get("successors") or ()),
            prices=answer.get("prices") or {},
            latency_seconds=answer.get("latencySeconds"),
            photo_buckets=tuple(answer.get("photoBuckets", ())),
            photo_hosts=tuple(answer.get("photoHosts", ())),
            storage_refused=answer.get("storageRefused"),
            most_images=answer.get("mostImages", math.inf),
            reason=answer.get("reason"),
            next_attempt_seconds=answer.get("nextAttemptInSeconds"),
        )


class Settled(NamedTuple):
    """A settled job's status (None if the lease was lost) and error code."""

    status: str | None
    code: str | None


LEASE_LOST = Settled(None, None)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome to store for a job; times in seconds from now.

    `requests` is the number of requests sent to Gemini for the job.
    """

    job_id: int
    fence: str
    outcome: str
    code: str | None = None
    message: str | None = None
    retry_seconds: float = 0.0
    until_daily_reset: bool = False
    attempt_spent: bool = True
    requests: int = 0

    def as_json(self) -> dict[str, Any]:
        """The JSON that `settle_generation_jobs` expects."""
        return {
            "jobId": self.job_id,
            "fence": self.fence,
            "outcome": self.outcome,
            "code": self.code,
            "message": self.message,
            "retryInSeconds": round(self.retry_seconds, 3),
            "untilDailyReset": self.until_daily_reset,
            "attemptSpent": self.attempt_spent,
            "requests": self.requests,
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to a record: `recorded`, `already_recorded` (with the recorded path) or `job_final`."""

    result: str
    storage_path: str | None = field(default=None)


class ChangeOver(NamedTuple):
    """The successor of a retired model and a note with both prices; both None if there is no successor."""

    successor: str | None
    note: str | None


class Database(Protocol):
    """Calls database functions by name; raises QueueUnavailable, Misconfigured and QueueRefused."""

    async def rpc(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]: ...


class Queue:
    """The database functions of `sql/`, called with the service key. Times in seconds."""

    def __init__(self, project: Project, worker_id: str) -> None:
        self._project = project
        self._worker_id = worker_id

    async def claim(
        self,
        run_id: UUID,
        claim_id: UUID,
        max_jobs: int,
        run_seconds: float,
        model: str,
        within: Within,
        skip_users: Sequence[str] = (),
        max_images: int | None = None,
    ) -> Claim:
        """Claim jobs for a run with `run_seconds` left, but none of `skip_users`.

        The job that reaches `max_images` is the last. Repeating a claim id returns the same jobs.
        """
        params = {
            "p_run_id": str(run_id),
            "p_worker_id": self._worker_id,
            "p_claim_id": str(claim_id),
            "p_max_jobs": max_jobs,
            "p_run_seconds": round(run_seconds, 3),
            "p_model": model,
            "p_photo_host": self._project.photo_host,
            "p_skip_users": list(skip_users),
            "p_max_images": max_images,
            "p_schema_version": SCHEMA_VERSION,
        }
        return Claim.from_answer(await self._claim(params, within))

    async def record_photo(self, job: Job, index: int, photo: Mapping[str, Any], within: Within) -> Recorded:
        """Record a stored image; the first writer wins until the job is final."""
        params = {"p_job_id": job.id, "p_image_index": index, "p_photo": dict(photo)}
        answer = await self._call("record_generated_photo", params, within)
        return Recorded(answer["result"], answer["storagePath"])

    async def record_failed_image(
        self, job: Job, index: int, code: str, message: str, within: Within
    ) -> Recorded:
        """Record that an image will never be made."""
        params = {
            "p_job_id": job.id,
            "p_image_index": index,
            "p_code": code,
            "p_message": message,
            "p_batch_id": job.batch_id,
        }
        return Recorded((await self._call("record_failed_image", params, within))["result"])

    async def settle(self, settlements: Sequence[Settlement], within: Within) -> dict[int, Settled]:
        """Settle jobs; returns the new status of each."""
        params = {"p_results": [settlement.as_json() for settlement in settlements]}
        answer = await self._call("settle_generation_jobs", params, within)
        return {row["jobId"]: Settled(row["status"], row.get("code")) for row in answer["results"]}

    async def finish(
        self, run_id: UUID, summary: Mapping[str, Any], spent: Sequence[int], within: Within
    ) -> None:
        """Finish the run; `spent` has the id of each job it still holds, once per request sent."""
        params = {
            "p_run_id": str(run_id),
            "p_worker_id": self._worker_id,
            "p_summary": dict(summary),
            "p_spent_jobs": list(spent),
        }
        await self._call("finish_generation_run", params, within)

    async def known_models(self, within: Within = 10.0) -> Mapping[str, Any] | None:
        """The models that the database knows, for `KnownModels`; None if it does not answer."""
        try:
            return await self._call("generation_models", {}, within)
        except GenerationError:
            return None

    async def retire_model(self, model: str, instead: str | None, within: Within) -> ChangeOver:
        """Record that Google answered 404 for `model`; `instead` is the fallback the operator configured."""
        params = {"p_model": model, "p_successor": instead}
        answer = await self._call("retire_generation_model", params, within)
        return ChangeOver(answer["successor"], answer["note"])

    async def rpc(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = TRIES
    ) -> dict[str, Any]:
        """Call a function by name and return its answer."""
        return await self._call(function, params, within, tries)

    async def enqueue(
        self,
        request: Mapping[str, Any],
        idempotency_key: str | None,
        access_token: str | None = None,
        publishable_key: str = "",
        timeout_seconds: float = 30.0,
    ) -> dict[str, Any]:
        """Enqueue an order, as the token's user or with the service key.

        Without an idempotency key it is retried only if Supabase refused it before execution.
        """
        params = {"p_request": dict(request), "p_idempotency_key": idempotency_key}
        repeated = QueueUnavailable if idempotency_key else NotExecuted
        if access_token is None:
            return await self._call("enqueue_generation_batch", params, timeout_seconds, repeated=repeated)
        headers = {"apikey": publishable_key, "Authorization": f"Bearer {access_token}"}
        try:
            return await self._call(
                "enqueue_generation_batch", params, timeout_seconds, headers=headers, repeated=repeated
            )
        except BearerRefused as exc:
            raise QueueRefused(
                "not_signed_in", "the access token was not accepted", 401, "sign in again"
            ) from exc

    async def _claim(self, params: Mapping[str, Any], within: Within) -> dict[str, Any]:
        """Claim; raise Misconfigured with both versions if the database is older than this worker."""
        try:
            return await self._call("claim_generation_jobs", params, within)
        except Misconfigured as error:
            if error.code != "schema_missing":
                raise
            # A database from before claims had `p_schema_version`.
            installed = (await self._call("generation_schema_version", {}, within)).get("version", 0)
            if installed >= SCHEMA_VERSION:
                raise
            versions = f"the database is at {installed}, this worker needs {SCHEMA_VERSION}"
            raise schema_too_old(versions) from error

    async def _call(
        self,
        function: str,
        params: Mapping[str, Any],
        within: Within,
        tries: int = TRIES,
        headers: Mapping[str, str] | None = None,
        repeated: type[QueueUnavailable] = QueueUnavailable,
    ) -> dict[str, Any]:
        """Call a function with retries; QueueUnavailable when the time or the tries are used up."""

        async def attempt() -> dict[str, Any]:
            request = self._project.rest.rpc(function, dict(params))
            for name, value in (headers or {}).items():
                request.request.headers[name] = value
            with translated(function):
                data = (await request.execute()).data
            if not isinstance(data, dict):
                raise QueueUnavailable("bad_answer", f"{function} did not answer with a JSON object")
            return data

        return await call_with_retry(attempt, function, within, tries, repeated)


@contextmanager
def translated(function: str) -> Iterator[None]:
    """Translate errors of postgrest and its HTTP client, by class and code only."""
    import httpx
    from postgrest import APIError
    from pydantic import ValidationError

    try:
        yield
    except APIError as exc:
        raise call_error(exc.code, exc.message, exc.details, exc.hint, function) from exc
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError, ValueError) as exc:
        why = (
            f" ({exc})" if isinstance(exc, httpx.ConnectError) else ""
        )  # the system's message, which has no URL
        raise QueueUnavailable("unreachable", f"{function}: {type(exc).__name__}{why}") from exc
