"""The contract with Cloud Run's container: started as the buildpack starts it, with requirements.txt alone.

The buildpack maps GOOGLE_FUNCTION_TARGET to FUNCTION_TARGET and starts plain `functions-framework` beside
main.py; Cloud Run sets PORT, and kills ten seconds after SIGTERM (Cloud Run: container runtime contract).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from local.stack.folder import free_port
from tests.bare import Checkout
from tests.clone import wait_for
from tests.runs import Site, process_environment

pytest_plugins = ("tests.bare", "tests.runs")

SECRET = "a-secret-of-the-container-0123456789"
KILLED_AFTER_SECONDS = 10.0
OLDER = ("gunicorn==23.0.0", "uvicorn==0.33.0", "uvicorn-worker==0.3.0")
"""The servers that the buildpack pins where a function does not (buildpacks, functions_framework_compat)."""


@pytest.fixture(scope="session")
def older(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The same checkout with the servers that the buildpack pins."""
    folder = tmp_path_factory.mktemp("older")
    for path in checkout.folder.iterdir():
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


@pytest.fixture(params=["checkout", "older"], ids=["our servers", "the buildpack's servers"])
def container(request: pytest.FixtureRequest) -> Checkout:
    """What is in the image."""
    made: Checkout = request.getfixturevalue(request.param)
    return made


@contextmanager
def started(
    container: Checkout, site: Site, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The container's process, and its address; killed at the end with all that it started."""
    port = free_port()
    environment = {
        **process_environment(site.stack, site.gemini),
        "FUNCTION_TARGET": "process_generation_queue",
        "FUNCTION_SIGNATURE_TYPE": "http",
        "K_SERVICE": "generation-worker",
        "K_REVISION": "generation-worker-00001-abc",
        "CLOUD_RUN_TIMEOUT_SECONDS": "240",
        "PORT": str(port),
        "WORKER_SECRET": SECRET,
        "PATH": f"{container.bin}:/usr/bin:/bin",
        **settings,
    }
    command = [str(container.bin / "functions-framework")]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=container.folder, env=environment, start_new_session=True) as process:
        try:
            wait_for(lambda: _answers(url), 60)
            yield process, url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def call(url: str) -> httpx.Response:
    """An invocation."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        return await http.post(url, headers={"X-Worker-Secret": SECRET})


async def test_it_answers_on_its_port(container: Checkout, site: Site) -> None:
    """It serves the function on $PORT, does a run, shows its page, and lets nobody in without the secret."""
    (job,) = await site.order("one")
    with started(container, site) as (_, url):
        summary = (await call(url)).json()
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            assert (await http.post(url)).status_code == 401
            assert (await http.get(f"{url}/dashboard")).status_code == 200
    assert (summary["completed"], summary["stopReason"]) == (1, "queue_empty")
    assert site.job(job)["status"] == "completed"


async def test_told_to_end_amid_a_run(container: Checkout, site: Site) -> None:
    """SIGTERM amid a long run: the answer leaves in time, and nothing is spent that was not sent.

    gunicorn itself would wait for thirty seconds.
    """
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[held]", times=1)
    _, waiting = await site.order("held", "waiting")
    with started(container, site, IMAGES_AT_A_TIME="1") as (process, url):
        invocation = asyncio.create_task(call(url))
        await site.open_calls(1)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answer = await invocation
        assert time.monotonic() - told < KILLED_AFTER_SECONDS
        assert (answer.status_code, answer.json()["stopReason"]) == (200, "shutdown")
        assert await asyncio.to_thread(process.wait, KILLED_AFTER_SECONDS) == 0
    assert (site.job(waiting)["status"], site.job(waiting)["attempts"]) == ("pending", 0)
    assert len(site.calls()) == 1, "nothing was asked for after that"
