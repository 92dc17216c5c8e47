"""What each failure means for its job, its attempts, its batch and everyone else, and what the summary says."""

import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import logging

import pytest

from tests.runs import KEY, MODEL, Site, picture
from worker import log

pytest_plugins = ("tests.runs",)

JITTER = 0.1  # RETRY_BASE_SECONDS of these tests: the width of the first retry's window
AGO = 5.0  # how long before a look at the row the job may have been settled

PER_MINUTE = {
    # shape of the 429: the delay it names, or what is assumed where it names none
    "full": 47.0,
    "several": 47.0,
    "no_value": 47.0,
    "fractional": 47.5,
    "list": 47.0,
    "no_retry_info": 60.0,
    "error_info": 60.0,
    "bare": 60.0,
    "vertex": 60.0,
}
PER_DAY = ("full", "several", "no_value", "error_info", "help_only")

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
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "SAFETY": ({"kind": "finish", "reason": "SAFETY"}, "safety"),
    "PROHIBITED": ({"kind": "finish", "reason": "PROHIBITED_CONTENT"}, "prohibited_content"),
    "RECITATION": ({"kind": "finish", "reason": "IMAGE_RECITATION"}, "image_recitation"),
    "IMAGE_SAFETY": ({"kind": "finish", "reason": "IMAGE_SAFETY"}, "image_safety"),
    "blocked": ({"kind": "blocked", "reason": "SAFETY"}, "blocked_safety"),
}
WIDE = {"JOBS_AT_A_TIME": "40", "IMAGES_AT_A_TIME": "40"}


def next_midnight_in_california() -> float:
    """Seconds until then."""
    now = datetime.now(ZoneInfo("America/Los_Angeles"))
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
    return midnight.timestamp() - now.timestamp()


@pytest.mark.parametrize(("shape", "delay"), PER_MINUTE.items())
async def test_quota_per_minute(site: Site, shape: str, delay: float) -> None:
    """A 429 for a quota per minute puts the job aside, unspent, for as long as it says, and a little more."""
    site.gemini.add_rule({"kind": "quota", "shape": shape, "retry_seconds": 47.0})
    (job,) = await site.order("a")

    summary = await site.run(budget=6)

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("rate_limited", 0, "rate_limited")
    assert delay - AGO < row["due"] <= delay + JITTER
    assert (summary["rateLimited"], summary["images"]["erred"]) == (1, 1)
    assert summary["stopReason"] == "rate_limited"
    assert site.batch(job) == "generating"
    site.make_due()
    site.audit(summary, await site.run())
    assert site.job(job)["attempts"] == 1


@pytest.mark.parametrize("shape", PER_DAY)
async def test_quota_per_day(site: Site, shape: str) -> None:
    """A 429 for a quota per day puts the job aside until midnight in California and starts nothing more."""
    site.gemini.add_rule({"kind": "quota", "shape": shape, "period": "day", "retry_seconds": 7.0}, times=None)
    jobs = await site.order("a", "b", "c")

    summary = await site.run(IMAGES_AT_A_TIME="1")

    assert summary["stopReason"] == "rate_limited"
    assert len(site.calls()) == 1
    expected = next_midnight_in_california()
    asked = [site.job(job) for job in jobs if site.job(job)["status"] == "rate_limited"]
    assert len(asked) == 1
    assert expected - AGO < asked[0]["due"] <= expected + JITTER + AGO
    others = [site.job(job) for job in jobs if site.job(job)["status"] == "pending"]
    assert [(row["attempts"], row["retryAt"]) for row in [*others, asked[0]]] == [(0, None)] * 2 + [
        (0, asked[0]["retryAt"])
    ]
    site.audit(summary)


async def test_quota_of_zero(site: Site) -> None:
    """A quota of zero never comes back: the run stops as misconfigured and everything is given back unspent."""
    site.gemini.configure(quotas={"*": 0})
    jobs = await site.order("a", "b", images=2)

    summary = await site.run()

    assert summary["stopReason"] == "misconfigured"
    assert "billing" in summary["problem"]
    for job in jobs:
        row = site.job(job)
        assert (row["status"], row["attempts"], row["retryAt"]) == ("pending", 0, None)
    site.audit(summary)


async def test_passing_failures(site: Site) -> None:
    """Whatever may pass is tried once more in the call, then the job waits with its attempt spent."""
    for name, (answer, _) in PASSING.items():
        site.gemini.add_rule(answer, prompt=f"[{name} twice]", times=2)
        site.gemini.add_rule(answer, prompt=f"[{name} once]", times=1)
    twice = await site.order(*(f"{name} twice" for name in PASSING))
    once = await site.order(*(f"{name} once" for name in PASSING))

    first = await site.run(max_jobs=28, **WIDE)  # those, and not what comes due meanwhile

    for job, (name, (_, code)) in zip(twice, PASSING.items(), strict=True):
        row = site.job(job)
        assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, code), name
        assert -AGO < row["due"] <= JITTER
        assert len(site.calls(f"{name} twice")) == len(site.calls(f"{name} once")) == 2, name
    assert {site.job(job)["status"] for job in once} == {"completed"}
    assert (first["retried"], first["completed"], first["images"]["erred"]) == (14, 14, 14)
    assert (site.batch(twice[0]), site.batch(once[0])) == ("generating", "completed")
    site.make_due()
    second = await site.run(**WIDE)
    assert {(row["status"], row["attempts"]) for row in map(site.job, twice)} == {("completed", 2)}
    site.audit(first, second)


async def test_timeout(site: Site) -> None:
    """A call without an answer ends after CALL_TIMEOUT_SECONDS and counts like any failure that may pass."""
    site.gemini.add_rule({"kind": "hang"}, times=2)
    (job,) = await site.order("a")

    summary = await site.run(max_jobs=1, CALL_TIMEOUT_SECONDS="1")

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "timeout")
    assert len(site.calls()) == 2
    site.audit(summary)


async def test_attempts_run_out(site: Site) -> None:
    """A job that fails again and again fails for good when its attempts are used up, with the last reason."""
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[a]", times=None)
    a, b = await site.order("a", "b", maxAttempts=2)

    first = await site.run(max_jobs=2)
    site.make_due()
    second = await site.run()

    row = site.job(a)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("failed", 2, "unavailable")
    assert "after 2 attempts" in row["errorMessage"]
    assert (site.job(b)["status"], site.batch(a)) == ("completed", "partial")
    site.audit(first, second)


async def test_refused_images(site: Site) -> None:
    """A refused image fails for good and is never asked for again; the others of its job go on."""
    for name, (answer, _) in REFUSED.items():
        site.gemini.add_rule(answer, prompt=f"[{name}]", times=1)
    jobs = await site.order(*REFUSED, images=3)

    summary = await site.run(**WIDE)

    for job, (name, (_, code)) in zip(jobs, REFUSED.items(), strict=True):
        row = site.job(job)
        assert (row["status"], row["errorCode"], len(site.photos(job))) == ("completed", "some_images_refused", 2)
        assert "1 of 3 photos could not be made" in row["errorMessage"]
        (image,) = site.rows('select * from generation.failed_images where "jobId" = %s', job)
        assert image["code"] == code, name
        assert len(site.calls(name)) == 3
    assert (summary["images"]["refused"], summary["images"]["made"]) == (5, 10)
    assert site.batch(jobs[0]) == "partial"
    site.audit(summary, await site.run())
    assert len(site.calls()) == 15


async def test_all_refused(site: Site) -> None:
    """A job whose every image is refused fails, for a reason that a person can read."""
    site.gemini.add_rule({"kind": "finish", "reason": "PROHIBITED_CONTENT"}, times=2)
    (job,) = await site.order("a", images=2)

    summary = await site.run()

    row = site.job(job)
    assert (row["status"], row["errorCode"]) == ("failed", "prohibited_content")
    assert row["errorMessage"] == "Gemini refused this image: it may show prohibited content (PROHIBITED_CONTENT)."
    assert (summary["failed"], site.batch(job)) == (1, "failed")
    site.audit(summary, await site.run())
    assert len(site.calls()) == 2


async def test_refused_and_passing(site: Site) -> None:
    """Beside a failure that may pass, a refusal stands: only what failed is asked for again."""
    site.gemini.add_rule({"kind": "finish", "reason": "SAFETY"}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[a]", times=2)
    (job,) = await site.order("a", images=2)

    first = await site.run(max_jobs=1, IMAGES_AT_A_TIME="1")
    site.make_due()
    second = await site.run()

    assert (first["retried"], second["completed"]) == (1, 1)
    assert len(site.calls()) == 4
    assert len(site.photos(job)) == 1
    site.audit(first, second)


async def test_impossible_orders(site: Site) -> None:
    """An order that can never work fails at once, with a reason that names the photo and no retry."""
    orders = {
        "missing": (f"training-photos/{site.user}/gone.png", "photo_missing"),
        "text": (await site.upload("note.png", b"this is no photo"), "photo_not_an_image"),
        "empty": (await site.upload("empty.png", b""), "photo_empty"),
        "large": (await site.upload("large.png", picture() + b"\0" * 7_000_000), "photo_too_large"),
        "inside": ("https://10.0.0.1/me.png", "forbidden_address"),
        "foreign": ("training-photos/somebody-else/me.png", "foreign_photo"),
    }
    jobs = {name: (await site.order(name))[0] for name in orders}
    for name, (photo, _) in orders.items():  # past the checks at the door, as a row inserted by hand
        site.rows('update photo_generation_queue set "exampleImageUrl" = %s where id = %s returning id', photo, jobs[name])
    (good,) = await site.order("good")

    summary = await site.run()

    found = {name: (site.job(job)["status"], site.job(job)["errorCode"]) for name, job in jobs.items()}
    assert found == {name: ("failed", code) for name, (_, code) in orders.items()}
    assert all(site.job(job)["errorMessage"] and site.batch(job) == "failed" for job in jobs.values())
    assert "gone.png" in site.job(jobs["missing"])["errorMessage"]
    assert (summary["failed"], summary["completed"], site.batch(good)) == (6, 1, "completed")
    assert len(site.calls()) == 1
    site.audit(summary)


async def test_invalid_argument(site: Site) -> None:
    """An order that Gemini does not accept fails at once; what was made of it stays, and so does its batch."""
    site.gemini.add_rule({"kind": "image"}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "error", "code": 400}, prompt="[a]", times=1)
    a, b = await site.order("a", "b", images=2)

    summary = await site.run(IMAGES_AT_A_TIME="1")

    row = site.job(a)
    assert (row["status"], row["errorCode"], len(site.photos(a))) == ("failed", "invalid_argument", 1)
    assert (site.job(b)["status"], site.batch(a)) == ("completed", "partial")
    assert len(site.calls("a")) == 2
    site.audit(summary)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"invalid_keys": [KEY]}, "api_key_invalid"),
        ({"rules": [{"answer": {"kind": "error", "code": 403}}]}, "permission_denied"),
        ({"rules": [{"answer": {"kind": "error", "code": 400, "status": "FAILED_PRECONDITION"}}]}, "failed_precondition"),
    ],
)
async def test_misconfigured(site: Site, settings: dict[str, object], code: str) -> None:
    """What only a person can mend stops the run; every job is given back as it was, and works once mended."""
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


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a worker would write to its log, as JSON."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    log.set_up({"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}, stream)
    yield stream
    root.handlers, root.level = handlers, level


async def test_log_gives_nothing_away(site: Site, logged: io.StringIO) -> None:
    """The log of a run with failures of all kinds tells events, and no prompt, key, photo or person."""
    for name, (answer, _) in {**PASSING, **REFUSED}.items():
        site.gemini.add_rule(answer, prompt=f"[{name}]", times=2)
    site.gemini.add_rule({"kind": "quota", "retry_seconds": 0.1}, prompt="[quota]")
    site.gemini.add_rule({"kind": "error", "code": 403, "message": "canary-of-google"}, prompt="[denied]")
    await site.order(*PASSING, *REFUSED, "quota", basePrompt="canary-of-the-prompt", hairColor="canary-of-hair")
    await site.order("gone", photo=f"training-photos/{site.user}/canary-of-a-file.png")
    await site.run(**WIDE)
    await site.order("denied", basePrompt="canary-of-the-prompt")
    await site.run(**WIDE)

    text = logged.getvalue()
    events = [json.loads(line) for line in text.splitlines()]
    assert {"job_claimed", "image_made", "image_erred", "image_refused", "misconfigured", "run_finished"} <= {
        event["message"] for event in events
    }
    for secret in ("canary", KEY, site.stack.secret_key, site.user, "iVBOR", "PNG"):
        assert secret not in text, secret
    assert MODEL in text
