"""The queue's HTTP function: routes, callers, bodies and how each end of a run is answered."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker import __version__
from worker.errors import Misconfigured, QueueRefused, QueueUnavailable
from worker.http.auth import Guard
from worker.http.process import MAX_BODY_BYTES, QueueFunction, process_queue
from worker.run.request import Action, RunRequest

ROOT = Path(__file__).resolve().parents[2]
SECRET = {"X-Worker-Secret": "correct horse battery staple"}
OPERATOR = {"X-Operator-Secret": "operating horse battery staple"}
GUARD = Guard(worker_secret=SECRET["X-Worker-Secret"], operator_secret=OPERATOR["X-Operator-Secret"])
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

plain = st.none() | st.booleans() | st.integers(-2, 1002) | st.floats() | st.text() | st.lists(st.none())
bodies = plain | st.dictionaries(st.sampled_from(["maxJobs", "budgetSeconds", "dryRun", "other"]), plain)


class Bench:
    """A fake worker that records its calls and returns given answers."""

    def __init__(self, summary: Mapping[str, Any] | None = None, failure: Exception | None = None) -> None:
        self.summary = summary or {"stopReason": "queue_empty", "jobsClaimed": 0}
        self.failure = failure
        self.asked: list[RunRequest | Action | int | None] = []

    async def run(self, request: RunRequest) -> Mapping[str, Any]:
        """The summary, or the failure."""
        self.asked.append(request)
        if self.failure:
            raise self.failure
        return self.summary

    async def peek(self, max_jobs: int | None) -> Mapping[str, Any]:
        """As `run`, for a dry run."""
        self.asked.append(max_jobs)
        if self.failure:
            raise self.failure
        return {"jobs": []}

    sweep = peek

    async def stats(self) -> Mapping[str, Any]:
        """As `run`, for the numbers."""
        return await self.peek(None)

    async def overview(self) -> Mapping[str, Any]:
        """As `run`, for the dashboard."""
        if self.failure:
            raise self.failure
        return {"photos": []}

    async def details(self, batch_id: str) -> Mapping[str, Any]:
        """As `run`, for one batch."""
        if self.failure:
            raise self.failure
        return {"batch": {"id": batch_id}}

    async def act(self, action: Action) -> Mapping[str, Any]:
        """As `run`, for an action."""
        self.asked.append(action)
        if self.failure:
            raise self.failure
        return {"done": 1}


def client(worker: Bench, guard: Guard = GUARD) -> httpx.AsyncClient:
    """A client with both secrets of the function, which every path reaches as in functions-framework."""
    function = QueueFunction(worker, guard, 240.0)

    async def serve(request: Request) -> Response:
        return await process_queue(request, lambda: function)

    app = Starlette(routes=[Route("/{path:path}", serve, methods=METHODS)])
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://worker", headers=SECRET | OPERATOR
    )


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every error has one shape, is never cached and shows no inside."""
    assert answer.status_code == status
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) <= {"code", "message", "hint"}
    assert body["error"]["code"] == code
    assert "Traceback" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    error: dict[str, Any] = body["error"]
    return error


async def test_run_answers_with_its_summary() -> None:
    """A run that worked is 200 with its summary, whatever became of the jobs."""
    worker = Bench({"stopReason": "budget", "jobsFailed": 3})
    async with client(worker) as http:
        answer = await http.post("/", json={"maxJobs": 50, "budgetSeconds": 150})
    assert (answer.status_code, answer.json()) == (200, {"stopReason": "budget", "jobsFailed": 3})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert worker.asked == [RunRequest(50, 150.0, dry_run=False)]


async def test_empty_body_runs_and_dry_run_only_peeks() -> None:
    """Cloud Scheduler's empty POST asks for the defaults; a dry run never reaches `run`."""
    worker = Bench()
    async with client(worker) as http:
        assert (await http.post("/", headers={"Content-Type": "application/octet-stream"})).status_code == 200
        answer = await http.post("/", json={"dryRun": True, "maxJobs": 3})
    assert (answer.status_code, answer.json()) == (200, {"jobs": []})
    assert worker.asked == [RunRequest(), 3]


async def test_misconfigured_run_is_500_with_the_summary() -> None:
    """The scheduler sees an error, and the body still has the summary."""
    summary = {"stopReason": "misconfigured", "jobsReleased": 2}
    async with client(Bench(summary)) as http:
        answer = await http.post("/")
    assert (answer.status_code, answer.json()) == (500, summary)


@pytest.mark.parametrize("body", [None, {"dryRun": True}])
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (QueueUnavailable("supabase_unreachable", "no connection"), 503, "supabase_unreachable"),
        (QueueRefused("schema_outdated", "no such function", 404, "run sql/"), 500, "schema_outdated"),
        (Misconfigured("key_invalid", "the key is not accepted"), 500, "key_invalid"),
        (RuntimeError("secret inside"), 500, "internal"),
    ],
)
async def test_failure_of_the_worker(body: Any, failure: Exception, status: int, code: str) -> None:
    """Unreachable is 503 with Retry-After; refused or unexpected is a 500 of ours, never a 4xx."""
    async with client(Bench(failure=failure)) as http:
        answer = await http.post("/", json=body) if body else await http.post("/")
    error = check_error(answer, status, code)
    assert "secret inside" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
    if isinstance(failure, QueueRefused):
        assert error["hint"] == "run sql/"


async def test_unexpected_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The answer hides the details."""
    async with client(Bench(failure=RuntimeError("the reason"))) as http:
        await http.post("/")
    [record] = [r for r in caplog.records if r.message == "request_failed"]
    assert record.exc_info and str(record.exc_info[1]) == "the reason"


async def test_a_summary_that_is_no_json_is_an_internal_error() -> None:
    """The error handling covers the rendering of the response too."""
    async with client(Bench({"stopReason": "budget", "rate": float("nan")})) as http:
        check_error(await http.post("/"), 500, "internal")


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_health_is_open_and_tells_nothing(path: str) -> None:
    """Anyone may ask whether the process is up; it does not touch the queue."""
    worker = Bench(failure=RuntimeError("not to be called"))
    async with client(worker) as http:
        http.headers.clear()
        answer = await http.get(path)
        head = await http.head(path)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "version": __version__})
    assert head.status_code == 200
    assert worker.asked == []


def test_version_is_the_projects() -> None:
    """`worker.__version__` is the version in pyproject.toml."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/", "POST"),
        ("OPTIONS", "/", "POST"),
        ("DELETE", "/", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_wrong_method_names_the_right_one(method: str, path: str, allowed: str) -> None:
    """405 comes with Allow."""
    async with client(Bench()) as http:
        answer = await http.request(method, path)
    check_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/nothing", "/healthz/", "/index.php", "/%00", "/..%2f"])
async def test_unknown_path_is_404(path: str) -> None:
    """With or without a secret."""
    async with client(Bench()) as http:
        check_error(await http.post(path), 404, "not_found")


@pytest.mark.parametrize("host", ["[", "worker/healthz?", ""])
async def test_host_header_chooses_no_path(host: str) -> None:
    """The path comes from the request line; a forged Host header changes nothing."""
    async with client(Bench(failure=RuntimeError())) as http:
        check_error(await http.post("/", headers={"Host": host}), 500, "internal")
        http.headers.clear()
        check_error(await http.post("/", headers={"Host": host}), 401, "no_credentials")


async def test_a_caller_without_the_secret_is_refused_before_the_body_is_read() -> None:
    """The worker is not called."""
    worker = Bench()
    async with client(worker) as http:
        http.headers.clear()
        answer = await http.post("/", content=b"{ not JSON")
        wrong = await http.post("/", headers={"X-Worker-Secret": "wrong"})
    assert "X-Worker-Secret" in check_error(answer, 401, "no_credentials")["hint"]
    check_error(wrong, 401, "wrong_secret")
    assert worker.asked == []


async def test_without_a_credential_configured_nobody_is_served() -> None:
    """A deployment that forgot its secret is closed, not open."""
    async with client(Bench(), Guard()) as http:
        check_error(await http.post("/"), 403, "no_credentials_configured")


async def test_bad_body_names_the_field() -> None:
    """The refusal of a field reaches the caller with its name and the fix."""
    worker = Bench()
    async with client(worker) as http:
        answer = await http.post("/", json={"maxJobs": True})
    assert "maxJobs" in check_error(answer, 400, "invalid_request")["message"]
    assert worker.asked == []


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1024


async def test_large_body_is_refused_while_it_arrives() -> None:
    """More than 64 KiB is 413, also from a stream that announces no length; exactly 64 KiB is read."""
    async with client(Bench()) as http:
        check_error(await http.post("/", content=_chunks(1000)), 413, "body_too_large")
        check_error(await http.post("/", content=b" " * (MAX_BODY_BYTES + 1)), 413, "body_too_large")
        short = {"Content-Length": "10"}
        check_error(await http.post("/", content=_chunks(65), headers=short), 413, "body_too_large")
        assert (await http.post("/", content=_chunks(64))).status_code == 200


@settings(max_examples=60)
@given(body=bodies)
async def test_any_json_body_is_answered(body: Any) -> None:
    """Whatever JSON is posted, the answer is 200 or a 400 of the one shape, never a 5xx."""
    async with client(Bench()) as http:
        answer = await http.post(
            "/", content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        check_error(answer, 400, answer.json()["error"]["code"])
