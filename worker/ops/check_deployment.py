"""The findings of `check` about the deployed service, compared with what a run and cloudbuild.yaml need."""

from __future__ import annotations

import math

from worker.ops.cloud_run import Deployed
from worker.ops.finding import Finding
from worker.settings import MAX_RUN_SECONDS, InvalidSettings, Settings

CLOCK_SECONDS = 250
"""The clock's timeout: `--attempt-deadline` in scheduler.yaml, `net.http_post` in sql/schedule/call.sql."""

MARGIN_SECONDS = 10
"""The clock's timeout must be this much longer than the request's, for a cold start and the response."""

LEASE_AFTER_RUN_SECONDS, LONGEST_LEASE_SECONDS = 15, 290
"""`claim_generation_jobs` sets a lease to end this long after the run's deadline, up to the longest lease."""

SCHEDULE = "generation-worker"
"""The name of Cloud Scheduler's job in cloudbuild.yaml."""

DEFAULT_TIMEOUT_SECONDS = 300.0
DEFAULT_CONCURRENCY = 80
"""Cloud Run's defaults (Cloud Run, "Request timeout", "Maximum concurrent requests")."""

BASE_GB, GB_PER_IMAGE = 0.75, 0.01
"""A worker took 0.46 GB in a measurement with as many and as large photos as its limits allow, whatever the
number of runs. A photo of 100 megapixels, decoded beside an ordinary one, takes less than 0.5 GB more."""

REQUIRED = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "GEMINI_API_KEY")
SECRETS = {
    "SUPABASE_SERVICE_ROLE_KEY": "generation-supabase-service-role-key",
    "GEMINI_API_KEY": "generation-gemini-api-key",
    "WORKER_SECRET": "generation-worker-secret",
    "OPERATOR_SECRET": "generation-operator-secret",
}
"""The variables that must come from Secret Manager, with their names there (deploy/bootstrap.sh)."""

STAND_INS = {"SUPABASE_URL": "https://example.supabase.co"}
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}


def deployed_findings(deployed: Deployed, max_runs: int | None) -> list[Finding]:
    """All findings about the service; `max_runs` is the gate's, None if the database did not answer."""
    found = [Finding("service", "ok", f"{deployed.resource} exists"), *_variables(deployed)]
    try:
        settings = Settings.from_env(_environment(deployed), "deployed")
    except InvalidSettings as invalid:
        fix = f"{_update(deployed)} --update-env-vars=NAME=value (or deploy again with _SETTINGS)"
        return [*found, *(Finding("variables", "failed", problem, fix) for problem in invalid.problems)]
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
    """The service's environment; secrets and missing variables, which have a finding, get stand-ins."""
    platform = {
        "K_SERVICE": deployed.resource.name,
        "CLOUD_RUN_TIMEOUT_SECONDS": f"{deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS:g}",
    }
    unknown = {*deployed.from_secrets, *(name for name in REQUIRED if not deployed.plain.get(name))}
    return {**platform, **deployed.plain, **{n: STAND_INS.get(n, f"stand-in-of-{n}") for n in unknown}}


def _variables(deployed: Deployed) -> list[Finding]:
    """Whether all required variables are set, and whether all secrets come from Secret Manager."""
    found = []
    for name in REQUIRED:
        if not deployed.plain.get(name) and name not in deployed.from_secrets:
            secret = SECRETS.get(name, "generation-supabase-url")
            fix = f"{_update(deployed)} --update-secrets={name}={secret}:latest"
            found.append(Finding("variables", "failed", f"{name} is not set", fix))
    for name, secret in SECRETS.items():
        if deployed.plain.get(name):
            message = f"{name} is a plain value: everybody who may view the service can read it"
            first = f"{_update(deployed)} --remove-env-vars={name}"
            fix = f"{first} && {_update(deployed)} --update-secrets={name}={secret}:latest"
            found.append(Finding("variables", "warning", message, fix))
    if not found:
        message = "all required variables are set, and all secrets come from Secret Manager"
        found.append(Finding("variables", "ok", message))
    return found


def _timeout(deployed: Deployed, settings: Settings) -> Finding:
    """A run must end, and its response be sent, before Cloud Run's request timeout."""
    limit = deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    run = _run_seconds(settings)
    if run > limit:
        message = (
            f"a run may take {run:g} s, but Cloud Run ends its request after {limit:g} s, without a response"
        )
        return Finding("timeout", "failed", message, f"{_update(deployed)} --timeout={run:g}")
    lease = min(run + LEASE_AFTER_RUN_SECONDS, LONGEST_LEASE_SECONDS)
    message = f"a run takes up to {run:g} s, its request up to {limit:g} s, its leases up to {lease:g} s"
    return Finding("timeout", "ok", message)


def _run_seconds(settings: Settings) -> float:
    return min(settings.invocation_timeout_seconds, MAX_RUN_SECONDS)


def _schedule(deployed: Deployed, settings: Settings) -> Finding:
    """The clock's timeout must be longer than the request's. It is not read here, only stated as a number."""
    limit = deployed.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    where = deployed.resource
    longest = CLOCK_SECONDS - MARGIN_SECONDS
    if settings.oidc_audience:
        job = f"{SCHEDULE} --location={where.region} --project={where.project}"
        what, look = "Cloud Scheduler's attempt deadline", f"gcloud scheduler jobs describe {job}"
        fix = f"gcloud scheduler jobs update http {job} --attempt-deadline={limit + MARGIN_SECONDS:g}s"
    else:
        what, look = "the timeout of net.http_post", "sql/schedule/watch.sql"
        run = f"INVOCATION_TIMEOUT_SECONDS={min(_run_seconds(settings), longest):g}"
        fix = f"{_update(deployed)} --timeout={longest} --update-env-vars={run}"
    message = f"{what} must be {MARGIN_SECONDS} s longer than the request timeout of {limit:g} s"
    if limit > longest:
        message = f"{message}; this repository sets it to {CLOCK_SECONDS} s"
        return Finding("schedule", "warning", message, fix)
    return Finding(
        "schedule", "ok", f"{message}; this repository sets {CLOCK_SECONDS} s ({look} shows yours)"
    )


def _concurrency(deployed: Deployed) -> Finding:
    """An instance needs to serve two runs, a sweep and a GET of /health at once; more would need memory."""
    count = deployed.concurrency or DEFAULT_CONCURRENCY
    if 2 <= count <= 10:
        return Finding("concurrency", "ok", f"an instance serves {count} requests at once")
    why = "a sweep needs an instance of its own" if count < 2 else "they share one instance's memory"
    message = f"an instance serves {count} requests at once: {why}"
    return Finding("concurrency", "warning", message, f"{_update(deployed)} --concurrency=4")


def _instances(deployed: Deployed, max_runs: int | None) -> Finding:
    """There should be as many instances as concurrent runs: fewer refuse requests, more only cost."""
    count, slots = deployed.max_instances, deployed.concurrency or DEFAULT_CONCURRENCY
    runs = max_runs or 3
    fix = f"{_update(deployed)} --max-instances={runs}"
    if not count:
        return Finding("instances", "warning", "there is no maximum, so the cost has none either", fix)
    if max_runs is None:
        message = f"at most {count}; not compared with the gate's max-runs, since the database check failed"
        return Finding("instances", "ok", message)
    if count * slots < runs:
        message = (
            f"at most {count} × {slots} requests at once, but the gate allows {runs} runs: "
            "Cloud Run answers the others with 429"
        )
        return Finding("instances", "warning", message, fix)
    if count > runs:
        message = f"at most {count}, but the gate allows {runs} runs at once: the others start in vain"
        more = f"python -m worker gate set --max-runs {count}"
        return Finding("instances", "warning", message, f"{fix} (or: {more})")
    return Finding("instances", "ok", f"at most {count}; the gate allows {runs} runs at once")


def _memory(deployed: Deployed, settings: Settings, max_runs: int | None) -> Finding:
    """The concurrent runs of one instance must fit into its memory."""
    given = _bytes(deployed.memory or "512Mi")
    runs = min(deployed.concurrency or DEFAULT_CONCURRENCY, max_runs or 3)
    needed = BASE_GB + GB_PER_IMAGE * settings.images_at_a_time * runs
    images = settings.images_at_a_time
    message = f"{deployed.memory or '512Mi'}; {runs} runs of {images} images at once may need {needed:.1f} GB"
    if given is not None and given < needed * 10**9:
        enough = math.ceil(needed * 10**9 / 2**30)
        return Finding("memory", "warning", message, f"{_update(deployed)} --memory={enough}Gi")
    return Finding("memory", "ok", message)


def _cpu(deployed: Deployed) -> Finding:
    """A run mostly waits for Gemini, but below one CPU Cloud Run sends one request at a time."""
    text = deployed.cpu or "1"
    try:
        count = float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
    except ValueError:
        count = 1.0
    if count < 1:
        return Finding("cpu", "warning", f"{text} CPU allows only one request at a time",
            f"{_update(deployed)} --cpu=1")  # fmt: skip
    return Finding("cpu", "ok", f"{text} CPU")


def _bytes(text: str) -> float | None:
    """A Kubernetes quantity in bytes, None if it cannot be parsed."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        return None


def _clock(deployed: Deployed, settings: Settings) -> Finding:
    """The service must accept the clock that its label names: by IAM and OIDC, or by WORKER_SECRET."""
    where = deployed.resource
    again = (
        f"gcloud builds submit --config=cloudbuild.yaml --project={where.project} "
        f"--substitutions=_REGION={where.region},_CLOCK={deployed.clock or 'scheduler'}"
    )
    if settings.oidc_behind_iam and not deployed.iam_checked:
        message = "OIDC_CHECKED_BY=cloud-run, but IAM does not check callers: anybody could forge a token"
        return Finding("clock", "failed", message, f"{_update(deployed)} --invoker-iam-check")
    secret = "WORKER_SECRET" in deployed.from_secrets or bool(deployed.plain.get("WORKER_SECRET"))
    if not settings.oidc_audience and not secret:
        message = "neither OIDC_AUDIENCE nor WORKER_SECRET is set: the service refuses every clock"
        return Finding("clock", "failed", message, again)
    if deployed.clock == "scheduler" and not settings.oidc_audience:
        return Finding("clock", "failed", "the label says scheduler, but OIDC_AUDIENCE is not set", again)
    if deployed.clock == "pg_cron" and (not secret or deployed.iam_checked):
        message = "WORKER_SECRET is not set" if not secret else "IAM refuses callers without a token"
        return Finding("clock", "failed", f"the label says pg_cron, but {message}", again)
    if settings.oidc_behind_iam and settings.oidc_audience not in deployed.audiences:
        message = (
            f"{settings.oidc_audience} is not among the service's audiences: Cloud Run refuses the token"
        )
        fix = f"{_update(deployed)} --set-custom-audiences={settings.oidc_audience}"
        return Finding("clock", "warning", message, fix)
    by = f"the OIDC token of {settings.oidc_service_account}" if settings.oidc_audience else "WORKER_SECRET"
    return Finding("clock", "ok", f"{deployed.clock or 'no label'}; it sends {by}")


def _operator(deployed: Deployed, settings: Settings) -> Finding:
    """The dashboard needs OPERATOR_SECRET."""
    if settings.operator_secret:
        return Finding("operator", "ok", "the dashboard needs OPERATOR_SECRET, which is set")
    message = "OPERATOR_SECRET is not set: the dashboard shows no data"
    where = deployed.resource
    fix = (
        f"deploy/bootstrap.sh --project {where.project} --region {where.region} creates it; then "
        f"{_update(deployed)} --update-secrets=OPERATOR_SECRET={SECRETS['OPERATOR_SECRET']}:latest"
    )
    return Finding("operator", "warning", message, fix)
