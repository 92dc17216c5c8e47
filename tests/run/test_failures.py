"""Failures that may pass, and what only a person can fix: retries, attempts, batches, and the summary."""

import asyncio
import logging

import pytest

from tests.support.runs import KEY, MODEL, Site
from worker.run import image
from worker.run.request import RunRequest

JITTER = 0.1  # RETRY_BASE_SECONDS of these tests: the width of the first retry's window
AGO = 60.0  # how long before a look at the row the job may have been settled
WIDE = {"JOBS_AT_A_TIME": "40", "IMAGES_AT_A_TIME": "40"}

PASSING: dict[str, tuple[dict[str, object], str]] = {
    # name: what Gemini answers, the code of the error
    "internal": ({"kind": "error", "code": 500}, "internal"),
    "overloaded": ({"kind": "error", "code": 503}, "unavailable"),
    "deadline": ({"kind": "error", "code": 504}, "deadline_exceeded"),
    "proxy": ({"kind": "html", "code": 502}, "http_502"),
    "reset": ({"kind": "reset"}, "connection"),
    "closed": ({"kind": "close"}, "connection"),
    "malformed": ({"kind": "malformed"}, "malformed_answer"),
    "truncated": ({"kind": "truncated"}, "malformed_answer"),
    "empty": ({"kind": "empty"}, "no_image"),
    "talk": ({"kind": "text"}, "no_image"),
    "NO_IMAGE": ({"kind": "finish", "reason": "NO_IMAGE"}, "no_image"),
    "OTHER": ({"kind": "finish", "reason": "OTHER"}, "other"),
    "IMAGE_OTHER": ({"kind": "finish", "reason": "IMAGE_OTHER"}, "image_other"),
    "UNHEARD_OF": ({"kind": "finish", "reason": "UNHEARD_OF"}, "no_image"),
}


async def test_a_transient_failure_is_retried_once_then_later(site: Site) -> None:
    """The job then waits, with its attempt spent."""
    for name, (answer, _) in PASSING.items():
        site.gemini.add_rule(answer, prompt=f"[{name} twice]", times=2)
        site.gemini.add_rule(answer, prompt=f"[{name} once]", times=1)
    twice = await site.order(*(f"{name} twice" for name in PASSING))
    once = await site.order(*(f"{name} once" for name in PASSING))

    first = await site.run(RunRequest(max_jobs=28), **WIDE)  # those, and not what comes due meanwhile

    for job, (name, (_, code)) in zip(twice, PASSING.items(), strict=True):
        row = site.job(job)
        assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, code), name
        assert -AGO < row["due"] <= JITTER
        assert len(site.calls(f"{name} twice")) == len(site.calls(f"{name} once")) == 2, name
    assert {site.job(job)["status"] for job in once} == {"completed"}
    (counted,) = site.rows('select sum("requestsSent") as requests from generation.flows')
    assert counted["requests"] == len(site.calls())  # whatever came of them
    assert (first["retried"], first["completed"], first["images"]["erred"]) == (14, 14, 14)
    assert (site.batch(twice[0]), site.batch(once[0])) == ("generating", "completed")
    site.make_due()
    second = await site.run(**WIDE)
    assert {(row["status"], row["attempts"]) for row in map(site.job, twice)} == {("completed", 2)}
    site.audit(first, second)


async def test_a_retry_that_finds_no_slot_leaves_the_failure_of_the_first_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was sent and may be billed: the attempt is spent, and the customer reads why it failed."""
    monkeypatch.setattr(image, "LONGEST_RETRY_SECONDS", 0.0)
    site.rows("select set_generation_rate(%s, 1, 1)", MODEL)  # the next start is a minute later
    site.gemini.add_rule({"kind": "error", "code": 503}, times=1)
    (job,) = await site.order("a")

    summary = await site.run(RunRequest(budget_seconds=20))

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "unavailable")
    assert (len(site.calls()), summary["images"]["erred"]) == (1, 1)
    site.make_due()
    site.audit(summary, await site.run())


async def test_a_request_without_an_answer_is_a_transient_failure(site: Site) -> None:
    """The request is cut after CALL_TIMEOUT_SECONDS."""
    site.gemini.add_rule({"kind": "hang"}, times=2)
    (job,) = await site.order("a")

    summary = await site.run(RunRequest(max_jobs=1), CALL_TIMEOUT_SECONDS="1")

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "timeout")
    assert len(site.calls()) == 2
    site.audit(summary)


async def test_a_job_fails_after_its_last_attempt_with_the_last_reason(site: Site) -> None:
    """Each attempt of the job fails."""
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[a]", times=None)
    a, b = await site.order("a", "b", maxAttempts=2)

    first = await site.run(RunRequest(max_jobs=2))
    site.make_due()
    second = await site.run()

    row = site.job(a)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("failed", 2, "unavailable")
    assert "after 2 attempts" in row["errorMessage"]
    assert (site.job(b)["status"], site.batch(a)) == ("completed", "partial")
    site.audit(first, second)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"invalid_keys": [KEY]}, "api_key_invalid"),
        ({"rules": [{"answer": {"kind": "error", "code": 403}}]}, "permission_denied"),
        (
            {"rules": [{"answer": {"kind": "error", "code": 400, "status": "FAILED_PRECONDITION"}}]},
            "failed_precondition",
        ),
    ],
)
async def test_a_misconfigured_run_stops_and_gives_its_jobs_back_unspent(
    site: Site, settings: dict[str, object], code: str
) -> None:
    """The jobs complete once the problem is fixed."""
    site.gemini.configure(**settings)
    jobs = await site.order("a", "b", "c", images=2)

    first = await site.run(IMAGES_AT_A_TIME="2")

    assert (first["stopReason"], first["completed"], first["failed"]) == ("misconfigured", 0, 0)
    assert first["problem"]
    for row in map(site.job, jobs):
        assert (row["status"], row["attempts"], row["retryAt"]) == ("pending", 0, None)
    assert code in {site.job(job)["errorCode"] for job in jobs}
    assert len(site.calls()) <= 2
    site.gemini.configure(invalid_keys=[], rules=[])
    second = await site.run()
    assert second["completed"] == 3
    site.audit(first, second)


async def test_a_problem_that_several_requests_meet_is_logged_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator gets one alert for a run, not one for each request that was under way."""
    caplog.set_level(logging.INFO, logger="worker")
    site.gemini.add_rule({"kind": "error", "code": 403, "hold": True}, times=3)
    await site.order("a", images=3)

    run = asyncio.create_task(site.run())
    await site.open_calls(3)
    site.gemini.release()

    assert (await run)["stopReason"] == "misconfigured"
    assert caplog.messages.count("misconfigured") == caplog.messages.count("reason_withheld") == 1


async def test_requests_of_a_job_count_once_over_several_claims(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the new requests are reported."""
    monkeypatch.setattr("worker.run.image.LONGEST_RETRY_SECONDS", 0.0)
    site.gemini.add_rule({"kind": "empty"}, prompt="[a]", times=None)
    site.gemini.add_rule({"kind": "image", "latency_seconds": 1}, prompt="[slow]", times=1)
    (job, _) = await site.order("a", "slow")

    await site.run()

    assert site.job(job)["claims"] > 1
    (counted,) = site.rows('select sum("requestsSent") as requests from generation.flows')
    assert counted["requests"] == len(site.calls())
