"""The sweep over HTTP: the same guard, body checks and error answers as a run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.test_process import Bench, check_error, client
from worker.errors import Misconfigured, QueueRefused, QueueUnavailable
from worker.http.auth import Guard


async def test_it_answers_with_what_was_done() -> None:
    """An empty POST sweeps with the default bound, a body may set another."""
    worker = Bench()
    async with client(worker) as http:
        first = await http.post("/sweep")
        await http.post("/sweep", json={"maxJobs": 7})
    assert (first.status_code, first.json()) == (200, {"jobs": []})
    assert worker.asked == [None, 7]


async def test_it_is_guarded_as_the_run_is() -> None:
    """Callers without a credential are refused, also if none is configured."""
    worker = Bench()
    async with client(worker) as http:
        http.headers.clear()
        check_error(await http.post("/sweep"), 401, "no_credentials")
        check_error(await http.post("/sweep", headers={"X-Worker-Secret": "wrong"}), 401, "wrong_secret")
    async with client(worker, Guard()) as http:
        check_error(await http.post("/sweep"), 403, "no_credentials_configured")
    assert worker.asked == []


async def test_a_get_request_removes_nothing() -> None:
    """A link that somebody follows is a GET."""
    worker = Bench()
    async with client(worker) as http:
        check_error(await http.get("/sweep"), 405, "method_not_allowed")
    assert worker.asked == []


@pytest.mark.parametrize(
    "body", [{"maxJobs": 0}, {"maxJobs": 1001}, {"maxJobs": True}, {"maxJobs": "all"}, {"dryRun": True}, []]
)
async def test_a_malformed_body_removes_nothing(body: Any) -> None:
    """The body is validated before the sweep starts."""
    worker = Bench()
    async with client(worker) as http:
        check_error(await http.post("/sweep", json=body), 400, "invalid_request")
    assert worker.asked == []


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (QueueUnavailable("unreachable", "no connection"), 503, "unreachable"),
        (QueueRefused("out_of_range", "no", 400, "other"), 500, "out_of_range"),
        (Misconfigured("storage_refused", "the key"), 500, "storage_refused"),
        (RuntimeError("secret inside"), 500, "internal"),
    ],
)
async def test_a_failed_sweep_is_503_if_unreachable_and_500_otherwise(
    failure: Exception, status: int, code: str
) -> None:
    """500 stands for refused, misconfigured and unexpected."""
    async with client(Bench(failure=failure)) as http:
        answer = await http.post("/sweep")
    check_error(answer, status, code)
    assert "secret inside" not in answer.text
