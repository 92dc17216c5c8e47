"""The job for large backlogs: started once, only where it helps, and never at the answer's expense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import responses
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tests.support.cloud_run_api import ANONYMOUS
from tests.support.runs import Site
from worker.http.auth import Guard
from worker.http.process import QueueFunction, process_queue
from worker.ops.scale_out import ScaleOut

JOB = "projects/my-photos/locations/us-central1/jobs/generation-worker"
ADDRESS = f"https://run.googleapis.com/v2/{JOB}"
SECRET = "a-secret-of-the-tests"
ON = {"DRAIN_JOB": JOB, "DRAIN_JOB_BACKLOG": "2", "DRAIN_JOB_TASKS": "3", "MAX_JOBS": "1"}
RUNNING, PENDING, SUCCEEDED, FAILED, CANCELLED = 3, 4, 1, 2, 5


@pytest.fixture
def google() -> Iterator[responses.RequestsMock]:
    """Answers requests of `requests`; an unexpected one fails."""
    with responses.RequestsMock() as mock:
        yield mock


def answer_job(google: responses.RequestsMock, latest: dict[str, Any] | None = None) -> None:
    """Cloud Run knows the job and its latest execution."""
    google.get(ADDRESS, json={"name": JOB} | ({"latestCreatedExecution": latest} if latest else {}))


def answer_start(google: responses.RequestsMock) -> None:
    """Cloud Run starts an execution."""
    google.post(f"{ADDRESS}:run", json={"name": "projects/my-photos/locations/us-central1/operations/1"})


async def call(site: Site, **settings: str) -> dict[str, Any]:
    """One call of the HTTP function, which answers 200 with the run's summary whatever Cloud Run does."""
    worker = site.worker(**settings)
    after = ScaleOut(worker.settings, worker.queue, ANONYMOUS).after
    function = QueueFunction(worker, Guard(worker_secret=SECRET), 240.0, after_run=after)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await process_queue(Request(scope, receive), lambda: function)
        await response(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://worker") as client:
        answer = await client.post("/", headers={"X-Worker-Secret": SECRET})
    summary: dict[str, Any] = answer.json()
    assert (answer.status_code, summary["completed"]) == (200, min(summary["claimed"], 1)), summary
    return summary


@pytest.mark.parametrize("latest", [None, SUCCEEDED, FAILED, CANCELLED])
async def test_a_backlog_over_the_threshold_starts_one_execution(
    site: Site, google: responses.RequestsMock, latest: int | None
) -> None:
    """The execution has the configured number of tasks."""
    await site.order("one", "two", "three", "four")
    answer_job(google, {"name": "execution-1", "completionStatus": latest} if latest else None)
    answer_start(google)
    assert (await call(site, **ON))["stopReason"] == "max_jobs"
    assert [each.request.method for each in google.calls] == ["GET", "POST"]
    assert json.loads(google.calls[1].request.body or b"") == {"overrides": {"taskCount": 3}}


@pytest.mark.parametrize("status", [RUNNING, PENDING, 0])
async def test_one_execution_at_a_time(site: Site, google: responses.RequestsMock, status: int) -> None:
    """While one is running, or its end is unknown, no other is started."""
    await site.order("one", "two", "three", "four")
    answer_job(google, {"name": "execution-1", "completionStatus": status})
    await call(site, **ON)
    assert [each.request.method for each in google.calls] == ["GET"]


async def test_cloud_run_is_not_called_without_the_setting(
    site: Site, google: responses.RequestsMock
) -> None:
    """Whatever the backlog."""
    await site.order("one", "two", "three", "four")
    await call(site, MAX_JOBS="1", DRAIN_JOB_BACKLOG="1")
    assert len(google.calls) == 0


async def test_not_below_the_threshold(site: Site, google: responses.RequestsMock) -> None:
    """Exactly the threshold starts no job."""
    await site.order("one", "two", "three")
    await call(site, **ON)
    assert len(google.calls) == 0


async def test_an_idle_run_asks_nobody(site: Site, google: responses.RequestsMock) -> None:
    """A run that empties the queue, or has no time left, calls neither Cloud Run nor the database."""
    worker = site.worker(**ON)
    asked = []

    class Unasked:
        async def rpc(self, *given: Any, **named: Any) -> dict[str, Any]:
            asked.append(given)
            return {"ready": 0}

    after = ScaleOut(worker.settings, Unasked(), ANONYMOUS)
    for reason in ("queue_empty", "rate_limited", "daily_cap", "paused", "shutdown", "misconfigured"):
        await after.after({"stopReason": reason, "durationSeconds": 1.0})
    await after.after({"stopReason": "budget", "durationSeconds": 240.0})  # no time is left for asking
    assert (asked, len(google.calls)) == ([], 0)


FAILURES: list[dict[str, Any]] = [
    {"status": 403, "json": {}},
    {"status": 404, "json": {}},
    {"status": 503, "json": {}},
    {"body": requests.ReadTimeout("slow")},
    {"body": ValueError("a bug in a package")},
]


@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_leave_the_answer_alone(
    site: Site, google: responses.RequestsMock, caplog: pytest.LogCaptureFixture, failure: dict[str, Any]
) -> None:
    """Whatever goes wrong is logged once, and the summary is answered as if nothing had been tried."""
    await site.order("one", "two", "three", "four")
    google.get(ADDRESS, **failure)
    await call(site, **ON)
    assert [record.message for record in caplog.records].count("drain_job_not_started") == 1
    known = not isinstance(failure.get("body"), ValueError)
    assert all(known != bool(record.exc_info) for record in caplog.records if "job_not" in record.message)
