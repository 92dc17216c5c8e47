"""The doctor's look at Cloud Run: Google's real client over REST, answered by `responses`."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from tests.support.cloud_run_api import ADDRESS, ANONYMOUS, SERVICE, deployed_by_the_build
from tests.support.command_line import ROOT, CommandLine
from tests.support.runs import Site
from worker.ops.check import check
from worker.ops.check_deployment import CLOCK_SECONDS, LEASE_AFTER_RUN_SECONDS, deployed_findings
from worker.ops.cloud_run import CloudRunUnreadable, Resource, read_service
from worker.ops.finding import Finding

NAME = Resource.parse(SERVICE, "services")
GCLOUD = "gcloud run services update generation-worker --region=us-central1 --project=my-photos "
ALL = [
    "service",
    "variables",
    "timeout",
    "schedule",
    "concurrency",
    "instances",
    "memory",
    "cpu",
    "clock",
    "operator",
]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module", params=["scheduler", "pg_cron"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The service as cloudbuild.yaml deploys it, with each clock."""
    return deployed_by_the_build(tmp_path_factory.mktemp("build"), request.param)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The service that Cloud Scheduler calls."""
    return deployed_by_the_build(tmp_path_factory.mktemp("build"), "scheduler")


@pytest.fixture
def google() -> Iterator[responses.RequestsMock]:
    """Answers what goes out through `requests`; anything else is refused."""
    with responses.RequestsMock() as mock:
        yield mock


async def look(
    google: responses.RequestsMock, service: dict[str, Any], max_runs: int | None = 3
) -> list[Finding]:
    """The findings about a service as Cloud Run describes it."""
    google.get(ADDRESS, json=service)
    return deployed_findings(await read_service(NAME, ANONYMOUS), max_runs)


async def test_what_the_build_deploys_is_well(google: responses.RequestsMock, built: dict[str, Any]) -> None:
    """The service that cloudbuild.yaml deploys fits its own settings and the gate, with either clock."""
    findings = await look(google, built)
    assert [(finding.name, finding.state, finding.fix) for finding in findings] == [
        (name, "ok", None) for name in ALL
    ]


def variable(service: dict[str, Any], name: str, value: str | None) -> None:
    """Set a variable to a plain value, or take it away."""
    env = service["template"]["containers"][0]["env"]
    env[:] = [each for each in env if each["name"] != name]
    if value is not None:
        env.append({"name": name, "value": value})


def limits(service: dict[str, Any]) -> dict[str, str]:
    """CPU and memory."""
    found: dict[str, str] = service["template"]["containers"][0]["resources"]["limits"]
    return found


CASES: list[tuple[str, str, Change, str]] = [
    ("timeout", "failed", lambda s: s["template"].update(timeout="120s"), GCLOUD + "--timeout=240"),
    ("timeout", "failed", lambda s: variable(s, "INVOCATION_TIMEOUT_SECONDS", "900"),
     GCLOUD + "--timeout=270"),
    ("schedule", "warning", lambda s: s["template"].update(timeout="250s"), "--attempt-deadline=260s"),
    ("schedule", "warning", lambda s: s["template"].update(timeout="241s"), "--attempt-deadline=251s"),
    ("concurrency", "warning", lambda s: s["template"].update(maxInstanceRequestConcurrency=80),
     GCLOUD + "--concurrency=4"),
    ("concurrency", "warning", lambda s: s["template"].update(maxInstanceRequestConcurrency=1),
     GCLOUD + "--concurrency=4"),
    ("instances", "warning", lambda s: s["template"].update(scaling={}), GCLOUD + "--max-instances=3"),
    ("instances", "warning", lambda s: s["template"]["scaling"].update(maxInstanceCount=4),
     "gate set --max-runs 4"),
    ("instances", "warning", lambda s: s["template"].update(
        scaling={"maxInstanceCount": 1}, maxInstanceRequestConcurrency=2), GCLOUD + "--max-instances=3"),
    ("memory", "warning", lambda s: limits(s).update(memory="512Mi"), GCLOUD + "--memory=1Gi"),
    ("memory", "warning", lambda s: variable(s, "IMAGES_AT_A_TIME", "20"), GCLOUD + "--memory=2Gi"),
    ("cpu", "warning", lambda s: limits(s).update(cpu="500m"), GCLOUD + "--cpu=1"),
    ("variables", "failed", lambda s: variable(s, "GEMINI_API_KEY", None),
     GCLOUD + "--update-secrets=GEMINI_API_KEY=generation-gemini-api-key:latest"),
    ("variables", "failed", lambda s: variable(s, "MAX_JOBS", "many"), GCLOUD + "--update-env-vars"),
    ("variables", "warning", lambda s: variable(s, "SUPABASE_SERVICE_ROLE_KEY", "sb_secret_canary"),
     "--remove-env-vars=SUPABASE_SERVICE_ROLE_KEY && "),
    ("operator", "warning", lambda s: variable(s, "OPERATOR_SECRET", None),
     "deploy/bootstrap.sh --project my-photos --region us-central1"),
    ("operator", "warning", lambda s: variable(s, "OPERATOR_SECRET", None),
     GCLOUD + "--update-secrets=OPERATOR_SECRET=generation-operator-secret:latest"),
    ("variables", "failed", lambda s: variable(s, "OPERATOR_SECRET", ""), GCLOUD + "--update-env-vars"),
    ("variables", "failed", lambda s: variable(s, "WORKER_DEVELOPMENT", "1"), GCLOUD + "--update-env-vars"),
    ("clock", "failed", lambda s: s.update(invokerIamDisabled=True), GCLOUD + "--invoker-iam-check"),
    ("clock", "failed", lambda s: s["labels"].update(clock="pg_cron"), "_CLOCK=pg_cron"),
    ("clock", "warning", lambda s: s.update(customAudiences=[]), "--set-custom-audiences=generation-worker"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "change", "fix"), CASES)
async def test_each_disease_has_its_fix(
    google: responses.RequestsMock, closed: dict[str, Any], name: str, state: str, change: Change, fix: str
) -> None:
    """Each problem is one finding with the command that fixes it, and nothing else is reported."""
    ill = copy.deepcopy(closed)
    change(ill)
    found = [finding for finding in await look(google, ill) if finding.state != "ok"]
    assert {(finding.name, finding.state) for finding in found} >= {(name, state)}, found
    assert any(fix in str(finding.fix) for finding in found if finding.name == name), found
    assert {finding.name for finding in found} <= {name, "instances", "schedule"}, found
    assert "canary" not in repr(found)


async def test_the_database_waits_ten_seconds_longer(
    google: responses.RequestsMock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run of more than 240 s is too long for pg_net; the finding says how to shorten it."""
    service = deployed_by_the_build(tmp_path_factory.mktemp("build"), "pg_cron")
    service["template"].update(timeout="245s")
    variable(service, "INVOCATION_TIMEOUT_SECONDS", "245")
    [found] = [finding for finding in await look(google, service) if finding.name == "schedule"]
    assert (found.state, found.fix) == (
        "warning",
        f"{GCLOUD}--timeout=240 --update-env-vars=INVOCATION_TIMEOUT_SECONDS=240",
    )


async def test_clocks_that_nobody_could_use(google: responses.RequestsMock, closed: dict[str, Any]) -> None:
    """A label without its credential, and a service without any, refuse their own clock."""
    ill = copy.deepcopy(closed)
    for name in ("OIDC_AUDIENCE", "OIDC_SERVICE_ACCOUNT", "OIDC_CHECKED_BY"):
        variable(ill, name, None)
    without = (await look(google, ill))[-2]
    assert without.state == "failed" and "refuses every clock" in without.message
    variable(ill, "WORKER_SECRET", "a-secret-of-sixteen-canary")
    google.reset()
    labelled = (await look(google, ill))[-2]
    assert labelled.state == "failed" and "label says scheduler" in labelled.message


async def test_the_gate_may_be_silent(google: responses.RequestsMock, closed: dict[str, Any]) -> None:
    """Without the database the service is still checked, and check names what was not compared."""
    found = {finding.name: finding for finding in await look(google, closed, None)}
    assert found["instances"].state == "ok" and "not compared" in found["instances"].message


ANSWERS: list[tuple[dict[str, Any], str, str]] = [
    ({"status": 403}, "may not access", "--role=roles/run.viewer"),
    ({"status": 404}, "does not exist", "gcloud run services list --region=us-central1"),
    ({"status": 401}, "no Google credentials", "gcloud auth application-default login"),
    ({"status": 500}, "error (500)", "again"),
    ({"body": requests.ReadTimeout("slow")}, "did not answer in time", "again"),
    ({"body": requests.ConnectionError("away")}, "did not answer in time", "again"),
]


@pytest.mark.parametrize(("answer", "message", "fix"), ANSWERS)
async def test_a_service_that_cannot_be_read_is_one_finding(
    google: responses.RequestsMock, site: Site, answer: dict[str, Any], message: str, fix: str
) -> None:
    """Cloud Run is asked only once, and the finding is readable."""
    google.get(
        ADDRESS, **({"json": {"error": {"message": "canary"}}} | answer if "status" in answer else answer)
    )
    [found] = [f for f in await check(site.worker(), NAME, ANONYMOUS) if f.name == "service"]
    assert (found.name, found.state) == ("service", "failed")
    assert message in found.message and fix in str(found.fix) and "canary" not in repr(found)
    assert len(google.calls) == 1


async def test_check_asks_the_gate(
    google: responses.RequestsMock, site: Site, closed: dict[str, Any]
) -> None:
    """The whole check reads the service and compares its instances with the gate's own max-runs."""
    google.get(ADDRESS, json=closed)
    site.db.execute('update generation.limits set "maxRuns" = 2')
    found = {f.name: f for f in await check(site.worker(), NAME, ANONYMOUS)}
    assert "the gate allows 2 runs" in found["instances"].message
    assert found["instances"].state == "warning"


async def test_an_answer_that_does_not_come(google: responses.RequestsMock) -> None:
    """An answer that hangs is given up after the time that was given."""
    release = threading.Event()

    def hang(_request: object) -> tuple[int, dict[str, str], str]:
        release.wait(30)
        return 500, {}, "{}"

    google.add_callback(responses.GET, ADDRESS, callback=hang)
    try:
        with pytest.raises(CloudRunUnreadable, match="in time"):
            await read_service(NAME, ANONYMOUS, 2.0)
    finally:
        release.set()


async def test_check_without_google_credentials_says_how_to_sign_in(cli: CommandLine) -> None:
    """The command shows no traceback."""
    env = {"NO_GCE_CHECK": "true", "HOME": str(cli.folder), "GOOGLE_APPLICATION_CREDENTIALS": None}
    done = await cli.call("check", "--json", "--project", "my-photos", "--region", "us-central1", env=env)
    assert (done.code, done.json["ok"]) == (1, False)
    assert done.json["findings"][-1] == {
        "name": "service",
        "ok": False,
        "state": "failed",
        "message": "Cloud Run accepts no Google credentials of this machine",
        "mend": "gcloud auth application-default login",
    }


@pytest.mark.parametrize(
    "arguments",
    [["--project", "p"], ["--service", "worker"], ["--service", "projects/p/services/s"],
     ["--service", SERVICE, "--region", "r"], ["--service", SERVICE.replace("services", "jobs")]],
)  # fmt: skip
async def test_services_named_in_part(cli: CommandLine, arguments: list[str]) -> None:
    """A service that is not named in full is a mistake of the caller's."""
    assert "--service" in (await cli.call("check", *arguments)).complained(2)


def test_numbers_are_those_of_the_files() -> None:
    """The scheduler's patience and the lease's length are those of the files."""
    scheduler = (ROOT / "scheduler.yaml").read_text()
    assert f"--attempt-deadline: {CLOCK_SECONDS}s" in scheduler
    call = (ROOT / "sql" / "schedule" / "call.sql").read_text()
    assert re.findall(r"timeout_milliseconds => (\d+)", call) == [str(CLOCK_SECONDS * 1000)]
    claim = (ROOT / "sql" / "functions" / "45_claim.sql").read_text()
    assert f"least(p_run_seconds + {LEASE_AFTER_RUN_SECONDS}, 290)" in claim


def test_values_are_not_shown() -> None:
    """Even the `repr` of the deployed service contains no value."""
    from worker.ops.cloud_run import Deployed

    seen = Deployed(NAME, 1, 1, 1, "1", "1Gi", True, "", (), {"GEMINI_API_KEY": "canary"}, frozenset())
    assert "canary" not in repr(seen)
