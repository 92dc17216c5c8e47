"""Keys and tokens that Supabase does not accept are reported as such, not as an outage."""

from __future__ import annotations

import pytest

from local.stack.stack import Stack
from worker.errors import Misconfigured, QueueRefused
from worker.log.secret import Secret
from worker.supabase.client import Project
from worker.supabase.queue import Queue

STRANGER = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1IiwiZXhwIjo0MTAyNDQ0ODAwfQ.c2lnbmVkLWJ5LXNvbWVib2R5LWVsc2U"


async def test_a_key_of_another_project_is_misconfigured(stack: Stack) -> None:
    """Waiting would never help."""
    project = Project(stack.url, Secret("sb_secret_of_another_project"))
    try:
        with pytest.raises(Misconfigured) as caught:
            await Queue(project, "w").rpc("generation_schema_version", {})
    finally:
        await project.close()
    assert caught.value.code == "key_refused"


async def test_a_token_of_another_project_is_401(stack: Stack) -> None:
    """Nothing is enqueued."""
    project = Project(stack.url, Secret(stack.secret_key))
    try:
        with pytest.raises(QueueRefused) as caught:
            await Queue(project, "w").enqueue({}, None, STRANGER, stack.publishable_key)
    finally:
        await project.close()
    assert (caught.value.status, caught.value.code) == (401, "not_signed_in")
