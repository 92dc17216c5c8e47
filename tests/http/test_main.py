"""The module that functions-framework loads, in a fresh interpreter as the server does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Loads a function as the framework does, posts each body to it and prints the answers.
POST = """
import asyncio, json, sys, httpx
from functions_framework.aio import create_asgi_app

async def post():
    app = create_asgi_app(sys.argv[1], "main.py")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        headers = {"Origin": "https://app.example", "X-Worker-Secret": "a-secret-of-the-worker"}
        answers = [await http.post("/", headers=headers, content=body) for body in sys.argv[2:]]
    print(json.dumps([(answer.status_code, answer.json(), dict(answer.headers)) for answer in answers]))

asyncio.run(post())
"""

IMPORT = """
import json, sys, threading
import main
heavy = ["supabase", "google.genai", "google.auth", "google.cloud.run_v2", "PIL", "worker.app"]
print(json.dumps([[name for name in heavy if name in sys.modules], threading.active_count()]))
"""


def _python(script: str, *arguments: str, **environment: str) -> tuple[Any, str]:
    """Run a script in the repository with only this environment; its JSON output, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_importing_main_opens_no_client_and_starts_no_thread() -> None:
    """The server imports it before it forks; large packages are not loaded."""
    [heavy, threads], _ = _python(IMPORT)
    assert heavy == []
    assert threads == 1


@pytest.mark.parametrize(
    ("function", "needed"),
    [("process_generation_queue", "SUPABASE_SERVICE_ROLE_KEY"), ("generate_images", "SUPABASE_ANON_KEY")],
)
def test_missing_settings_are_told_by_name_in_the_log_only(function: str, needed: str) -> None:
    """Without settings every request is 500 `misconfigured`; the log names them all and shows no value."""
    [[status, body, headers]], log = _python(
        POST, function, "", WORKER_SECRET="short-secret", SUPABASE_URL="ftp://no"
    )
    assert (status, body["error"]["code"]) == (500, "misconfigured")
    assert f"{needed} is not set" in log
    assert needed not in json.dumps(body)
    assert "short-secret" not in log
    assert "ftp://no" not in log
    assert ("access-control-allow-origin" in headers) == (function == "generate_images")


def test_a_run_has_time_for_two_requests_and_jobs_for_all_places_whatever_the_settings() -> None:
    """Otherwise a caller with WORKER_SECRET could make jobs spend their attempts, or occupy all runs."""
    settings = {
        "SUPABASE_URL": "https://example.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_0123456789",
        "GEMINI_API_KEY": "a-key-of-gemini",
        "WORKER_SECRET": "a-secret-of-the-worker",
        "CALL_TIMEOUT_SECONDS": "100",
        "JOBS_AT_A_TIME": "20",
        "INVOCATION_TIMEOUT_SECONDS": "290",
    }
    bodies = ('{"budgetSeconds": 220}', '{"maxJobs": 19}')
    answers, log = _python(POST, "process_generation_queue", *bodies, **settings)
    assert [(status, answer["error"]["message"]) for status, answer, _ in answers] == [
        (400, "budgetSeconds must be a number from 221 to 290"),
        (400, "maxJobs must be a whole number from 20 to 1000"),
    ], log
