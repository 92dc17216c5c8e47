"""The deployed folders, as cloudbuild.yaml and docs/deploy.md build them, in a bare environment."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from local.stack.folder import free_port
from tests.support.bare import Checkout
from tests.support.clone import wait_for
from tests.support.cloud import StandInCloud
from tests.support.cloud_build import Workspace, workspace
from tests.support.deploy_page import blocks
from tests.support.runs import Site, process_environment

SECRET = "a-secret-of-the-container-0123456789"
OPERATOR_SECRET = "an-operators-secret-of-the-container"
KEEP_SOURCE = '#!/bin/sh\ncp -R "$PWD/job" "$KEPT"\n'
"""A gcloud that keeps the folder it is given; the page removes its own."""


@pytest.fixture(scope="session")
def built(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The folder that both functions are deployed from."""
    place = workspace(tmp_path_factory.mktemp("functions"))
    done = place.run("source")
    assert done.code == 0, done.out
    made = Checkout(place.folder / "function")
    (made.folder / ".venv").symlink_to(checkout.folder / ".venv")
    return made


@pytest.fixture(scope="session")
def built_job(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The folder that the job is deployed from."""
    place = Workspace(StandInCloud(tmp_path_factory.mktemp("job")))
    (place.cloud.folder / "bin" / "gcloud").write_text(KEEP_SOURCE)
    made = Checkout(place.cloud.folder / "kept")
    variables = {"KEPT": str(made.folder), "REGION": "us-central1", "PROJECT": "my-photos-4711"}
    [text] = [block.text for block in blocks() if "gcloud run jobs deploy" in block.text]
    done = place.cloud.run(["/bin/bash", "-euc", text], place.folder, environment=variables)
    assert done.code == 0, done.out
    (made.folder / ".venv").symlink_to(checkout.folder / ".venv")
    return made


@contextmanager
def served(
    container: Checkout, site: Site, target: str = "process_generation_queue", **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A function as the buildpack starts it: its process, and its address; all of it is killed at the end."""
    port = free_port()
    environment = {
        **process_environment(site.stack, site.gemini),
        "FUNCTION_TARGET": target,
        "FUNCTION_SIGNATURE_TYPE": "http",
        "K_SERVICE": "generation-worker",
        "K_REVISION": "generation-worker-00001-abc",
        "CLOUD_RUN_TIMEOUT_SECONDS": "240",
        "PORT": str(port),
        "WORKER_SECRET": SECRET,
        "OPERATOR_SECRET": OPERATOR_SECRET,
        "PATH": f"{container.bin}:/usr/bin:/bin",
        **settings,
    }
    command = [str(container.bin / "functions-framework")]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=container.folder, env=environment, start_new_session=True) as process:
        try:
            wait_for(lambda: _answers(url))
            yield process, url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    """Whether it answers at all; generate_images has no such path and says so."""
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code in (200, 404)
    except httpx.TransportError:
        return False
