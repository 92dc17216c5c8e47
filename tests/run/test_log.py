"""What a run logs, and what it must not log."""

import io
import json

import pytest

from tests.support.runs import KEY, MODEL, Site
from worker import log

TROUBLE = ("error", "html", "reset", "malformed", "truncated", "empty", "text", "finish", "blocked")
WIDE = {"JOBS_AT_A_TIME": "40", "IMAGES_AT_A_TIME": "40"}


@pytest.fixture
def logged(restored_logging: None) -> io.StringIO:
    """What a worker would write to its log, as JSON."""
    stream = io.StringIO()
    log.set_up({"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}, stream)
    return stream


async def test_log_gives_nothing_away(site: Site, logged: io.StringIO) -> None:
    """The log of a run with all kinds of failures has no prompt, key, photo or user."""
    for kind in TROUBLE:
        site.gemini.add_rule({"kind": kind}, prompt=f"[{kind}]", times=2)
    site.gemini.add_rule({"kind": "quota", "limit": 10_000, "retry_seconds": 0.1}, prompt="[quota]")
    site.gemini.add_rule({"kind": "error", "code": 403, "message": "canary-of-google"}, prompt="[denied]")
    await site.order(*TROUBLE, "quota", basePrompt="canary-of-the-prompt", hairColor="canary-of-hair")
    await site.order("gone", photo=f"training-photos/{site.user}/canary-of-a-file.png")
    await site.run(**WIDE)
    site.make_due()
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
