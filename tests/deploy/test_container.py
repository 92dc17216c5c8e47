"""The contract with Cloud Run: started as the buildpack starts it, with requirements.txt alone.

The buildpack maps GOOGLE_FUNCTION_TARGET to FUNCTION_TARGET and starts plain `functions-framework` beside
main.py; Cloud Run sets PORT, and kills ten seconds after SIGTERM (Cloud Run: container runtime contract).
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.bare import Checkout
from tests.support.built import SECRET, served
from tests.support.runs import Site

pytestmark = pytest.mark.slow

KILLED_AFTER_SECONDS = 10.0
OLDER = ("gunicorn==23.0.0", "uvicorn==0.33.0", "uvicorn-worker==0.3.0")
"""The buildpack installs these if requirements.txt has no server (buildpacks, functions_framework_compat)."""


@pytest.fixture(scope="session")
def older(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The same folder with the servers that the buildpack pins."""
    folder = tmp_path_factory.mktemp("older")
    for path in built.folder.iterdir():
        if path.name != ".venv":
            (folder / path.name).symlink_to(path.resolve())
    made, uv = Checkout(folder), str(Path(sys.executable).with_name("uv"))
    into = ("--python", str(made.bin / "python"))
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder / ".venv")],
        [uv, "pip", "install", "--quiet", *into, "--require-hashes", "-r", "requirements.txt"],
        [uv, "pip", "install", "--quiet", *into, "--no-deps", *OLDER],
    ):
        subprocess.run(command, cwd=folder, check=True, timeout=300)
    return made


@pytest.fixture(params=["built", "older"], ids=["our servers", "the buildpack's servers"])
def container(request: pytest.FixtureRequest) -> Checkout:
    """A checkout with the packages of the image."""
    made: Checkout = request.getfixturevalue(request.param)
    return made


async def call(url: str) -> httpx.Response:
    """Invoke the function."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        return await http.post(url, headers={"X-Worker-Secret": SECRET})


async def test_the_container_serves_the_function_on_its_port(container: Checkout, site: Site) -> None:
    """It does a run, shows the dashboard's page, and refuses callers without the secret."""
    (job,) = await site.order("one")
    with served(container, site) as (_, url):
        summary = (await call(url)).json()
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            assert (await http.post(url)).status_code == 401
            assert (await http.get(f"{url}/dashboard")).status_code == 200
    assert (summary["completed"], summary["stopReason"]) == (1, "queue_empty")
    assert site.job(job)["status"] == "completed"


async def test_sigterm_ends_a_run_in_time(container: Checkout, site: Site) -> None:
    """The response leaves before Cloud Run's SIGKILL, and no unsent request spends an attempt.

    gunicorn itself would wait for thirty seconds.
    """
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[held]", times=1)
    _, waiting = await site.order("held", "waiting")
    with served(container, site, IMAGES_AT_A_TIME="1") as (process, url):
        invocation = asyncio.create_task(call(url))
        await site.open_calls(1)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answer = await invocation
        assert time.monotonic() - told < KILLED_AFTER_SECONDS
        assert (answer.status_code, answer.json()["stopReason"]) == (200, "shutdown")
        assert await asyncio.to_thread(process.wait, KILLED_AFTER_SECONDS) == 0
    assert (site.job(waiting)["status"], site.job(waiting)["attempts"]) == ("pending", 0)
    assert len(site.calls()) == 1, "a request was sent after SIGTERM"
