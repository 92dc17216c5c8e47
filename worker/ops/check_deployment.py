"""Compares the deployed service with what a run needs, and with what cloudbuild.yaml deploys and why."""

from __future__ import annotations

import math

from worker.ops.cloud_run import Deployed
from worker.ops.finding import Finding
from worker.settings import MAX_RUN_SECONDS, InvalidSettings, Settings

CLOCK_SECONDS = 250
"""A clock waits so long: `--attempt-deadline` of scheduler.yaml, `net.http_post` in sql/schedule/call.sql."""

MARGIN_SECONDS = 10
"""A clock waits so much longer than a request may take: a cold start, and the answer's way."""

LEASE_AFTER_RUN_SECONDS, LONGEST_LEASE_SECONDS = 15, 290
"""A lease ends so long after its run, and never later: `claim_generation_jobs` sees to it."""

SCHEDULE = "generation-worker"
"""The job of Cloud Scheduler, as cloudbuild.yaml names it."""

DEFAULT_TIMEOUT_SECONDS = 300.0
DEFAULT_CONCURRENCY = 80
"""Cloud Run's where a service says nothing (Cloud Run, "Request timeout", "Maximum concurrent requests")."""

BASE_GB, GB_PER_IMAGE = 0.2, 0.05
"""More than is needed: 0.2 GB were measured with 10 calls to Gemini at once, each with 15 MB of photos."""

REQUIRED = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "GEMINI_API_KEY")
SECRETS = {
    "SUPABASE_SERVICE_ROLE_KEY": "generation-supabase-service-role-key",
    "GEMINI_API_KEY": "generation-gemini-api-key",
    "WORKER_SECRET": "generation-worker-secret",
    "OPERATOR_SECRET": "generation-operator-secret",
}
"""What belongs into Secret Manager, and its name there (deploy/bootstrap.sh)."""

STAND_INS = {"SUPABASE_URL": "https://example.supabase.co"}
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}


def deployed_findings(deployed: Deployed, max_runs: int | None) -> list[Finding]:
    """Every finding about the service; `max_runs` is the gate's, None if the database did not tell it."""
    found = [Finding("service", "ok", f"{deployed.resource} is there"), *_variables(deployed)]
    try:
        settings = Settings.from_env(_environment(deployed), "deployed")
    except InvalidSettings as invalid:
        mend = f"{_update(deployed)} --update-env-vars=NAME=value (or deploy again with _SETTINGS)"
        return [*found, *(Finding("variables", "failed", problem, mend) for problem in invalid.problems)]
    return [
        *found,
        _timeout(deployed, settings),
        _schedule(deployed, settings),
        _concurrency(deployed),
        _instances(deployed, max_runs),
        _memory(deployed, settings, max_runs),
        _cpu(deployed),
        _clock(deployed, settings),
        _operator(deployed, settings),
    ]


def _update(deployed: Deployed) -> str:
    return f"gcloud run services update {deployed.resource.name} {deployed.resource.flags}"


def _environment(deployed: Deployed) -> dict[str, str]:
    """What the service's own settings are read from; a stand-in for what is secret or was told as missing."""
    platform = {
        "K_SERVICE": deployed.resource.name,
        "CLOUD_RUN_TIMEOUT_SECONDS": f"{deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS:g}",
    }
    unknown = {*deployed.from_secrets, *(name for name in REQUIRED if not deployed.plain.get(name))}
    return {**platform, **deployed.plain, **{n: STAND_INS.get(n, f"stand-in-of-{n}") for n in unknown}}


def _variables(deployed: Deployed) -> list[Finding]:
    """Which of the required variables are set, and whether what is secret comes from Secret Manager."""
    found = []
    for name in REQUIRED:
        if not deployed.plain.get(name) and name not in deployed.from_secrets:
            secret = SECRETS.get(name, "generation-supabase-url")
            mend = f"{_update(deployed)} --update-secrets={name}={secret}:latest"
            found.append(Finding("variables", "failed", f"{name} is not set", mend))
    for name, secret in SECRETS.items():
        if deployed.plain.get(name):
            said = f"{name} is a plain value: whoever may look at the service can read it"
            first = f"{_update(deployed)} --remove-env-vars={name}"
            mend = f"{first} && {_update(deployed)} --update-secrets={name}={secret}:latest"
            found.append(Finding("variables", "warning", said, mend))
    if not found:
        said = "all required ones are set, and what is secret comes from Secret Manager"
        found.append(Finding("variables", "ok", said))
    return found


def _timeout(deployed: Deployed, settings: Settings) -> Finding:
    """A run must end, and its answer leave, before Cloud Run ends the request."""
    limit = deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    run = _run_seconds(settings)
    if run > limit:
        said = f"Cloud Run ends a request after {limit:g} s, a run takes up to {run:g} s: answers get lost"
        return Finding("timeout", "failed", said, f"{_update(deployed)} --timeout={run:g}")
    lease = min(run + LEASE_AFTER_RUN_SECONDS, LONGEST_LEASE_SECONDS)
    said = f"a run ends within {run:g} s, its request after {limit:g} s, its leases after {lease:g} s at most"
    return Finding("timeout", "ok", said)


def _run_seconds(settings: Settings) -> float:
    return min(settings.invocation_timeout_seconds, MAX_RUN_SECONDS)


def _schedule(deployed: Deployed, settings: Settings) -> Finding:
    """The clock must hear the answer of a full run; it is not read, so what must hold is told as a number."""
    limit = deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    where = deployed.resource
    longest = CLOCK_SECONDS - MARGIN_SECONDS
    if settings.oidc_audience:
        job = f"{SCHEDULE} --location={where.region} --project={where.project}"
        what, look = "Cloud Scheduler's attempt deadline", f"gcloud scheduler jobs describe {job}"
        mend = f"gcloud scheduler jobs update http {job} --attempt-deadline={limit + MARGIN_SECONDS:g}s"
    else:
        what, look = "the timeout of net.http_post", "sql/schedule/watch.sql"
        run = f"INVOCATION_TIMEOUT_SECONDS={min(_run_seconds(settings), longest):g}"
        mend = f"{_update(deployed)} --timeout={longest} --update-env-vars={run}"
    said = f"{what} must be {MARGIN_SECONDS} s above the request's {limit:g} s"
    if limit > longest:
        said = f"{said}; this repository sets it to {CLOCK_SECONDS} s"
        return Finding("schedule", "warning", said, mend)
    return Finding("schedule", "ok", f"{said}; this repository sets {CLOCK_SECONDS} s ({look} shows yours)")


def _concurrency(deployed: Deployed) -> Finding:
    """An instance takes a run, an overlapping one, a sweep and a look at /health; more would need memory."""
    count = deployed.concurrency or DEFAULT_CONCURRENCY
    if 2 <= count <= 10:
        return Finding("concurrency", "ok", f"an instance takes {count} requests at once")
    why = "a sweep would need an instance of its own" if count < 2 else "they share one instance's memory"
    said = f"an instance takes {count} requests at once: {why}"
    return Finding("concurrency", "warning", said, f"{_update(deployed)} --concurrency=4")


def _instances(deployed: Deployed, max_runs: int | None) -> Finding:
    """As many instances as runs may overlap: fewer refuse calls, more only cost."""
    count, slots = deployed.max_instances, deployed.concurrency or DEFAULT_CONCURRENCY
    runs = max_runs or 3
    mend = f"{_update(deployed)} --max-instances={runs}"
    if not count:
        return Finding("instances", "warning", "nothing bounds how many there are, nor the bill", mend)
    if max_runs is None:
        said = f"at most {count}; whether that fits the gate's max-runs the database did not say"
        return Finding("instances", "ok", said)
    if count * slots < runs:
        said = (
            f"at most {count} × {slots} requests at once, and the gate allows {runs} runs: calls meet a 429"
        )
        return Finding("instances", "warning", said, mend)
    if count > runs:
        said = f"at most {count}, and the gate allows {runs} runs at once: the others start for nothing"
        more = f"python -m worker gate set --max-runs {count}"
        return Finding("instances", "warning", said, f"{mend} (or: {more})")
    return Finding("instances", "ok", f"at most {count}, and the gate allows {runs} runs at once")


def _memory(deployed: Deployed, settings: Settings, max_runs: int | None) -> Finding:
    """All runs that one instance may be given must fit into it."""
    given = _bytes(deployed.memory or "512Mi")
    runs = min(deployed.concurrency or DEFAULT_CONCURRENCY, max_runs or 3)
    needed = BASE_GB + GB_PER_IMAGE * settings.images_at_a_time * runs
    images = settings.images_at_a_time
    said = f"{deployed.memory or '512Mi'}; {runs} runs of {images} images at once may need {needed:.1f} GB"
    if given is not None and given < needed * 10**9:
        enough = math.ceil(needed * 10**9 / 2**30)
        return Finding("memory", "warning", said, f"{_update(deployed)} --memory={enough}Gi")
    return Finding("memory", "ok", said)


def _cpu(deployed: Deployed) -> Finding:
    """A run waits for Gemini nearly all the time, but below one CPU Cloud Run takes one request at a time."""
    text = deployed.cpu or "1"
    try:
        count = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    except ValueError:
        count = 1.0
    if count < 1:
        return Finding("cpu", "warning", f"{text} CPU is too little for more than one request at a time",
            f"{_update(deployed)} --cpu=1")  # fmt: skip
    return Finding("cpu", "ok", f"{text} CPU")


def _bytes(text: str) -> float | None:
    """A quantity of Kubernetes in bytes, None if it cannot be read."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        return None


def _clock(deployed: Deployed, settings: Settings) -> Finding:
    """Who calls, as the label says, must be who is let in: by IAM and OIDC, or by the worker's own secret."""
    where = deployed.resource
    again = (
        f"gcloud builds submit --config=cloudbuild.yaml --project={where.project} "
        f"--substitutions=_REGION={where.region},_CLOCK={deployed.clock or 'scheduler'}"
    )
    if settings.oidc_behind_iam and not deployed.iam_checked:
        said = "OIDC_CHECKED_BY=cloud-run on a service open to everybody: anybody could write such a token"
        return Finding("clock", "failed", said, f"{_update(deployed)} --invoker-iam-check")
    secret = "WORKER_SECRET" in deployed.from_secrets or bool(deployed.plain.get("WORKER_SECRET"))
    if not settings.oidc_audience and not secret:
        said = "neither OIDC_AUDIENCE nor WORKER_SECRET is set: the service refuses every caller"
        return Finding("clock", "failed", said, again)
    if deployed.clock == "scheduler" and not settings.oidc_audience:
        return Finding("clock", "failed", "the label says scheduler, but OIDC_AUDIENCE is not set", again)
    if deployed.clock == "pg_cron" and (not secret or deployed.iam_checked):
        said = "WORKER_SECRET is not set" if not secret else "IAM lets no caller without a token in"
        return Finding("clock", "failed", f"the label says pg_cron, but {said}", again)
    if settings.oidc_behind_iam and settings.oidc_audience not in deployed.audiences:
        said = f"{settings.oidc_audience} is not among the service's audiences: Cloud Run refuses the token"
        mend = f"{_update(deployed)} --set-custom-audiences={settings.oidc_audience}"
        return Finding("clock", "warning", said, mend)
    by = f"the OIDC token of {settings.oidc_service_account}" if settings.oidc_audience else "WORKER_SECRET"
    return Finding("clock", "ok", f"{deployed.clock or 'no label'}; callers come with {by}")


def _operator(deployed: Deployed, settings: Settings) -> Finding:
    """Who may see and change what customers ordered, by HTTP."""
    if settings.operator_secret:
        return Finding("operator", "ok", "the dashboard's data are shown for OPERATOR_SECRET")
    said = "OPERATOR_SECRET is not set: the dashboard shows nothing to anybody"
    where = deployed.resource
    mend = (
        f"deploy/bootstrap.sh --project {where.project} --region {where.region} makes one; then "
        f"{_update(deployed)} --update-secrets=OPERATOR_SECRET={SECRETS['OPERATOR_SECRET']}:latest"
    )
    return Finding("operator", "warning", said, mend)
