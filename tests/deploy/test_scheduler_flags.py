"""scheduler.yaml and scheduler-sweep.yaml: the request to Cloud Scheduler, and that it fits the worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]

from tests.support.cloud import ROOT
from tests.support.cloud_build import build
from tests.support.gcloud_flags import complaint, read_flags
from worker.ops.sweep import SWEEP_SECONDS

FILES = {"scheduler.yaml": "/", "scheduler-sweep.yaml": "/sweep"}
URL = "https://generation-worker-1.run.app"
CLOCK = "generation-clock@project-1.iam.gserviceaccount.com"
FIELDS = {
    "--description": "description",
    "--schedule": "schedule",
    "--time-zone": "timeZone",
    "--attempt-deadline": "attemptDeadline",
    "--http-method": "httpTarget.httpMethod",
    "--uri": "httpTarget.uri",
    "--oidc-service-account-email": "httpTarget.oidcToken.serviceAccountEmail",
    "--oidc-token-audience": "httpTarget.oidcToken.audience",
    "--max-retry-attempts": "retryConfig.retryCount",
    "--max-retry-duration": "retryConfig.maxRetryDuration",
    "--min-backoff": "retryConfig.minBackoffDuration",
    "--max-backoff": "retryConfig.maxBackoffDuration",
    "--max-doublings": "retryConfig.maxDoublings",
}
"""Which field of a job each flag sets ("gcloud scheduler jobs create http", and the API's Job)."""


def job(file: str) -> Any:
    """The job that a file and the two flags of cloudbuild.yaml make, as Google's own type."""
    flags = read_flags(ROOT / file) | given(file)
    made: dict[str, Any] = {}
    for name, value in flags.items():
        *path, last = FIELDS[name].split(".")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value.upper() if name == "--http-method" else value
    return read_job(made)


def read_job(made: dict[str, Any]) -> Any:
    """A job as Google's own type."""
    from google.cloud.scheduler_v1 import Job

    return json_format.ParseDict(made, Job.pb(Job()))


def given(file: str) -> dict[str, str]:
    """What cloudbuild.yaml adds to a file, since it differs between projects."""
    return {"--uri": URL + FILES[file], "--oidc-service-account-email": CLOCK}


def command(verb: str, file: str) -> list[str]:
    """The command for creating or updating a job."""
    added = [f"{name}={value}" for name, value in given(file).items()]
    return [
        "scheduler",
        "jobs",
        verb,
        "http",
        "a-job",
        "--location=us-central1",
        f"--flags-file={file}",
        *added,
    ]


@pytest.mark.parametrize("file", FILES)
def test_google_takes_the_job(file: str) -> None:
    """Each flag sets a field of Google's own type; the caller is the clock's account, the method POST."""
    made = job(file)
    assert made.http_target.uri == URL + FILES[file]
    assert made.http_target.http_method == 1  # POST
    assert made.http_target.oidc_token.service_account_email == CLOCK
    assert made.time_zone == "Etc/UTC"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("verb", ["create", "update"])
def test_one_file_serves_both(verb: str, file: str) -> None:
    """Creating and updating know every flag of the file, so that an update brings everything back to it."""
    assert complaint(command(verb, file), ROOT) is None
    assert set(read_flags(ROOT / file)) | set(given(file)) == set(FIELDS)


def test_the_scheduler_waits_for_the_longest_run_and_sweep() -> None:
    """The scheduler also never makes two calls at once."""
    script = next(step.script for step in build().steps if step.id == "generation-worker")
    assert "--timeout=240 " in script
    run, sweep = job("scheduler.yaml"), job("scheduler-sweep.yaml")
    assert 240 < run.attempt_deadline.seconds <= 30 * 60
    assert SWEEP_SECONDS < sweep.attempt_deadline.seconds <= 240
    assert "INVOCATION_TIMEOUT_SECONDS=240" in script


def test_an_idempotent_tick_is_not_retried() -> None:
    """The next minute is the retry: a call that failed is not repeated sooner."""
    for file in FILES:
        assert job(file).retry_config.retry_count == 0
    assert job("scheduler.yaml").schedule == "* * * * *"
    assert job("scheduler-sweep.yaml").schedule == "*/10 * * * *"


def test_the_audience_is_the_services() -> None:
    """The token is made for the audience that the service and the worker expect."""
    script = next(step.script for step in build().steps if step.id == "generation-worker")
    for file in FILES:
        assert f"service={job(file).http_target.oidc_token.audience}\n" in script
    assert "OIDC_AUDIENCE=$service" in script
    assert '--set-custom-audiences="$service"' in script


class Scheduler(BaseHTTPRequestHandler):
    """A fake of Cloud Scheduler's API for one job: records requests and returns the job it got."""

    requests: list[tuple[str, str, dict[str, Any]]]

    def _answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = json.loads(text) if text else {}
        self.requests.append((self.command, self.path, sent))
        body = json.dumps({"name": "projects/project-1/locations/us-central1/jobs/a-job", **sent}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *_args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def api() -> Iterator[ThreadingHTTPServer]:
    """The API on loopback; its handler's `requests` are what it was asked."""
    handler = type("Handler", (Scheduler,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sent(
    api: ThreadingHTTPServer, verb: str, file: str, folder: Path
) -> list[tuple[str, str, dict[str, Any]]]:
    """The requests that gcloud makes of a command."""
    (folder / "token").write_text("a-token-of-nobody")
    environment = {
        "PATH": os.environ["PATH"],
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_PROJECT": "project-1",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(folder / "token"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDSCHEDULER": f"http://127.0.0.1:{api.server_port}/",
    }
    done = subprocess.run(
        ["gcloud", *command(verb, file)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    requests: list[tuple[str, str, dict[str, Any]]] = api.RequestHandlerClass.requests  # type: ignore[attr-defined]
    return requests


@pytest.mark.system
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("verb", ["create", "update"])
def test_gcloud_requests_exactly_the_job_of_the_file(
    api: ThreadingHTTPServer, verb: str, file: str, tmp_path: Path
) -> None:
    """Where gcloud is not installed, the table decides."""
    if shutil.which("gcloud") is None:
        assert complaint(command(verb, file), ROOT) is None
        return
    requests = sent(api, verb, file, tmp_path)
    [(path, asked)] = [(path, body) for method, path, body in requests if method in ("POST", "PATCH")]
    if verb == "update":
        [mask] = parse_qs(urlsplit(path).query)["updateMask"]
        assert set(mask.split(",")) == set(FIELDS.values())
    made = read_job(asked)
    made.ClearField("name")
    assert made == job(file)
