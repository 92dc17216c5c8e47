"""The dashboard's page, what it asks for and what it may have done: routes, policy, refusals."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest

from tests.http.test_process import Bench, check_error, client
from worker.errors import QueueRefused, QueueUnavailable
from worker.http.dashboard.page import dashboard
from worker.run.request import Action

BATCH = "8d1cab83-d2c8-4d40-b700-d451e3e9e6b4"
DONE: list[tuple[dict[str, str], Action]] = [
    ({"action": "retry-failed"}, Action("retry_failed_generation_jobs", {})),
    (
        {"action": "retry-failed", "batchId": BATCH},
        Action("retry_failed_generation_jobs", {"p_batch_id": BATCH}),
    ),
    ({"action": "cancel", "batchId": BATCH}, Action("cancel_generation_batch", {"p_batch_id": BATCH})),
    ({"action": "release-stale"}, Action("release_stale_generation_jobs", {})),
    ({"action": "pause"}, Action("pause_generation", {})),
    ({"action": "pause", "reason": "the bill"}, Action("pause_generation", {"p_reason": "the bill"})),
    ({"action": "resume"}, Action("resume_generation", {})),
]


async def test_the_page_is_open_and_has_no_data() -> None:
    """Anybody may have the page; nothing in it is of this queue, and the worker is not asked."""
    worker = Bench(failure=RuntimeError("asked"))
    async with client(worker) as http:
        http.headers.clear()
        answer = await http.get("/dashboard")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert worker.asked == []


def test_the_policy_admits_what_the_page_has() -> None:
    """The page's own script and style run, its host and the photos' are asked, and nothing else is."""
    answer = dashboard("https://abc.supabase.co", asks_secret=True)
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    text = bytes(answer.body).decode()
    for kind in ("script", "style"):
        (inline,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "img-src": "data: https://abc.supabase.co",
    }
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"https?://(?!www\.w3\.org)", text), "the page names another host"
    assert not re.search(r"""\son[a-z]+=|\sstyle=|innerHTML|eval\(""", text)


async def test_an_overview_is_for_whoever_knows_the_secret() -> None:
    """Numbers, batches and photos are data: no secret, no answer."""
    async with client(Bench()) as http:
        assert (await http.get("/overview")).json() == {"photos": []}
        http.headers.clear()
        check_error(await http.get("/overview"), 401, "no_credentials")
        check_error(await http.post("/actions", json={"action": "pause"}), 401, "no_credentials")


async def test_a_batch_is_for_whoever_knows_the_secret() -> None:
    """A batch is shown by its id, only with the secret; an invalid id is refused."""
    async with client(Bench()) as http:
        assert (await http.get("/batch", params={"id": BATCH})).json() == {"batch": {"id": BATCH}}
        for wrong in ("", "?id=", "?id=a&id=b", f"?id={'x' * 201}", "?id=%00"):
            assert (
                "id must" in check_error(await http.get(f"/batch{wrong}"), 400, "invalid_request")["message"]
            )
        http.headers.clear()
        check_error(await http.get("/batch", params={"id": BATCH}), 401, "no_credentials")
    gone = QueueRefused("no_such_order", "there is no batch", 404, "Check it.")
    async with client(Bench(failure=gone)) as http:
        check_error(await http.get("/batch?id=x"), 404, "no_such_order")


@pytest.mark.parametrize(("body", "action"), DONE)
async def test_an_action_is_a_function_of_the_database(body: dict[str, str], action: Action) -> None:
    """Each action calls its one function with what was named, and its answer is the caller's."""
    worker = Bench()
    async with client(worker) as http:
        answer = await http.post("/actions", json=body)
    assert (answer.status_code, answer.json()) == (200, {"done": 1})
    assert worker.asked == [action]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "action is missing"),
        ({"action": "drop"}, "action is missing or unknown"),
        ({"action": 1}, "action is missing or unknown"),
        ({"action": ["pause"]}, "action is missing or unknown"),
        ({"action": "cancel"}, "cancel needs batchId"),
        ({"action": "cancel", "batchId": ""}, "batchId must be a string"),
        ({"action": "cancel", "batchId": 7}, "batchId must be a string"),
        ({"action": "cancel", "batchId": "x" * 201}, "batchId must be a string"),
        ({"action": "resume", "batchId": BATCH}, "unknown field 'batchId'"),
        ({"action": "pause", "reason": None}, "reason must be a string"),
        ({"action": "retry-failed", "p_limit": 1}, "unknown field 'p_limit'"),
    ],
)
async def test_a_wrong_action_does_nothing(body: dict[str, Any], said: str) -> None:
    """An unknown or incomplete action is refused with the field and the fix."""
    worker = Bench()
    async with client(worker) as http:
        error = check_error(await http.post("/actions", json=body), 400, "invalid_request")
    assert said in error["message"] and error["hint"]
    assert worker.asked == []


async def test_what_the_database_refuses_is_the_callers() -> None:
    """A batch that does not exist is 404, as the database says; a Supabase that is away is 503."""
    gone = QueueRefused("no_such_batch", "there is no such batch", 404, "Check the batch id.")
    async with client(Bench(failure=gone)) as http:
        refused = await http.post("/actions", json={"action": "cancel", "batchId": "x"})
        assert check_error(refused, 404, "no_such_batch")["hint"] == "Check the batch id."
        check_error(await http.get("/overview"), 500, "no_such_batch")
    async with client(Bench(failure=QueueUnavailable("unreachable", "no answer"))) as http:
        check_error(await http.get("/overview"), 503, "unreachable")
