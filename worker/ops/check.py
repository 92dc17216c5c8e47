"""Checks everything that a run needs, at no cost and without changes. Each finding says how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from worker.errors import GenerationError, ProjectRefused, QueueUnavailable
from worker.gemini.models import KnownModels
from worker.ops.check_access import access_finding
from worker.ops.check_buckets import KEY_REFUSED, ask_bucket, bucket_finding
from worker.ops.check_clock import clock_finding
from worker.ops.check_deployment import deployed_findings
from worker.ops.check_models import followed, gemini_finding, models_finding
from worker.ops.check_rate_limit import gate_finding
from worker.ops.cloud_run import CloudRunUnreadable, Resource, read_service
from worker.ops.finding import Finding
from worker.settings import InvalidSettings, Settings
from worker.supabase.queue import SCHEMA_VERSION
from worker.supabase.rpc_errors import INSTALL, SERVICE_KEY, key_trouble

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from worker.gemini.client import Gemini
    from worker.supabase.client import Project
    from worker.supabase.queue import Queue

TIMEOUT_SECONDS = 10.0
UNREACHABLE = "check SUPABASE_URL, and check in Supabase's dashboard that the project is not paused"


class Parts(Protocol):
    """The parts of a worker that are checked."""

    settings: Settings
    project: Project
    queue: Queue
    gemini: Gemini


def settings_findings(invalid: InvalidSettings) -> list[Finding]:
    """One finding for each problem in the settings."""
    fix = "set it in the environment or in .env; see docs/settings.md"
    return [Finding("settings", "failed", problem, fix) for problem in invalid.problems]


async def check(
    worker: Parts, service: Resource | None = None, credentials: Credentials | None = None
) -> list[Finding]:
    """All findings, in the order in which to fix them. If `service` is given, it is checked too."""
    settings = worker.settings
    supabase = await _supabase(worker)
    there = any(finding.name == "database" and finding.state == "ok" for finding in supabase)
    stats = await _ask_stats(worker.queue) if there else None
    gate = stats["gate"] if stats else None
    known = KnownModels(await worker.queue.known_models(TIMEOUT_SECONDS) if there else None)
    return [
        Finding("settings", "ok", "complete and consistent"),
        *supabase,
        await _access(worker.queue, there),
        await gemini_finding(worker.gemini, settings, known),
        _callers(settings),
        gate_finding(gate, {settings.gemini_model_name, *followed(settings, known)}),
        models_finding(stats, settings, known),
        clock_finding(stats),
        *(await _deployed(gate, service, credentials) if service else []),
    ]


async def _access(queue: Queue, there: bool) -> Finding:
    if not there:
        return Finding("access", "skipped", "not checked, since the database check failed")
    return await access_finding(queue, TIMEOUT_SECONDS)


async def _ask_stats(queue: Queue) -> dict[str, Any] | None:
    try:
        return await queue.rpc("generation_queue_stats", {}, TIMEOUT_SECONDS)
    except GenerationError:
        return None


async def _deployed(
    gate: dict[str, Any] | None, service: Resource, credentials: Credentials | None
) -> list[Finding]:
    """Findings about the service on Cloud Run, or one that says why it cannot be read."""
    try:
        deployed = await read_service(service, credentials)
    except CloudRunUnreadable as exc:
        return [Finding("service", "failed", exc.message, exc.fix)]
    return deployed_findings(deployed, None if gate is None else int(gate["maxRuns"]))


async def _supabase(worker: Parts) -> list[Finding]:
    """Findings about Supabase, its database functions, buckets and photo hosts."""
    schema = await _ask_schema(worker.queue)
    bucket = await ask_bucket(worker.project)
    if isinstance(schema, ProjectRefused):
        return _no_supabase(schema.problem, schema.fix)
    if isinstance(bucket, GenerationError) and bucket.code in KEY_REFUSED:
        refused = key_trouble(SERVICE_KEY, "it does not accept the key, or the key is not a secret key")
        return _no_supabase(refused.problem, refused.fix)
    if isinstance(schema, QueueUnavailable):
        return _no_supabase(schema.message, UNREACHABLE)
    if isinstance(schema, GenerationError):
        database, schema = Finding("database", "failed", schema.message, INSTALL), {}
    else:
        database = _schema(schema)
    return [
        Finding("supabase", "ok", "answers and accepts the key"),
        database,
        await bucket_finding(worker.project, bucket, schema),
        _hosts(schema, worker.project.photo_host),
    ]


def _no_supabase(message: str, fix: str) -> list[Finding]:
    skipped = "not checked, since Supabase did not answer"
    return [
        Finding("supabase", "failed", message, fix),
        Finding("database", "skipped", skipped),
        Finding("bucket", "skipped", skipped),
        Finding("hosts", "skipped", skipped),
    ]


async def _ask_schema(queue: Queue) -> dict[str, Any] | GenerationError:
    try:
        return await queue.rpc("generation_schema_version", {}, TIMEOUT_SECONDS)
    except GenerationError as error:
        return error


def _schema(answer: dict[str, Any]) -> Finding:
    version, missing = answer.get("version"), answer.get("functionsMissing")
    if not isinstance(version, int) or version < SCHEMA_VERSION:
        message = f"the database is at {version}, this worker needs {SCHEMA_VERSION}"
        return Finding("database", "failed", message, INSTALL)
    if missing:
        return Finding("database", "failed", f"functions are missing: {', '.join(missing)}", INSTALL)
    newer = f", newer than {SCHEMA_VERSION}, which this worker needs" if version > SCHEMA_VERSION else ""
    return Finding(
        "database", "ok", f"schema version {version}{newer}; has all {len(answer['functions'])} functions"
    )


def _hosts(schema: dict[str, Any], own: str | None) -> Finding:
    """The hosts of `https://` photos; `own` is this project's host, which the first run adds."""
    hosts = schema.get("photoHosts")
    if hosts is None:
        return Finding("hosts", "skipped", "not checked, since the database check failed")
    if "*" in hosts:
        message = "https:// photos may come from any public host"
        fix = "add your hosts: python -m worker hosts add HOST; then python -m worker hosts remove '*'"
        return Finding("hosts", "warning", message, fix)
    names = sorted({*hosts, *([own] if own else [])})
    message = (
        f"https:// photos may come from {', '.join(names)}" if names else "no https:// photo is accepted"
    )
    return Finding("hosts", "ok", f"{message} (to add a host: python -m worker hosts add HOST)")


def _callers(settings: Settings) -> Finding:
    clock = ["X-Worker-Secret"] if settings.worker_secret else []
    if settings.oidc_audience:
        clock.append(f"the OIDC token of {settings.oidc_service_account}")
    random = "(openssl rand -hex 32)"
    if not clock and not settings.operator_secret:
        refused = "all requests from other machines" if settings.development else "all requests"
        message = (
            f"no credential is configured: the HTTP function refuses {refused} (the command line needs none)"
        )
        fix = f"set WORKER_SECRET {random}, or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT; and OPERATOR_SECRET"
        return Finding("callers", "warning", message, fix)
    if not clock:
        message = "no credential for a clock is configured: the HTTP function cannot start runs"
        fix = f"set WORKER_SECRET {random}, or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT"
        return Finding("callers", "warning", message, fix)
    if not settings.operator_secret:
        message = f"runs need {' or '.join(clock)}; without OPERATOR_SECRET the dashboard shows no data"
        return Finding("callers", "warning", message, f"set OPERATOR_SECRET {random}")
    message = f"runs need {' or '.join(clock)}; the dashboard needs X-Operator-Secret"
    return Finding("callers", "ok", message)
