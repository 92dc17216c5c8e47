"""Looks at everything a run needs, without cost and without changing anything; each finding has its mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from worker.errors import GenerationError, Misconfigured, ModelRetired, QueueUnavailable, RateLimited
from worker.model import DOLLARS_PER_IMAGE, SUCCESSORS, price_note
from worker.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from worker.app import Worker
    from worker.gemini import Gemini
    from worker.queue import Queue
    from worker.storage import PhotoStore

State = Literal["ok", "warning", "failed", "skipped"]

SCHEMA_VERSION = 1
"""The version of `sql/` that this worker is written for."""

FUNCTIONS = frozenset({
    "cancel_generation_batch", "claim_generation_jobs", "enqueue_generation_batch", "finish_generation_run",
    "generation_queue_stats", "generation_schema_version", "get_generation_batch", "peek_generation_jobs",
    "record_failed_image", "record_generated_photo", "release_stale_generation_jobs",
    "retry_failed_generation_jobs", "set_generation_model_successor", "settle_generation_jobs",
})  # fmt: skip
"""The database functions that the worker and its command line call."""

TIMEOUT_SECONDS = 10.0
INSTALL = "apply sql/install.sql: with psql -f, or paste it into the Supabase SQL editor"
KEY = "set SUPABASE_SERVICE_ROLE_KEY to the project's secret key (dashboard, Project Settings, API Keys)"
MENDS = {
    "schema_missing": INSTALL,
    "key_refused": KEY,
    "storage_refused": KEY,
    "bucket_missing": INSTALL,
    "bucket_public": "update storage.buckets set public = false where id = 'generated-photos'",
}
"""By the code of an error."""

UNREACHABLE = "check SUPABASE_URL, and in the dashboard that the project is not paused"
GEMINI_KEY = "make a key at https://aistudio.google.com/apikey, set it as GEMINI_API_KEY and enable billing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it; `mend` is None where nothing is to be done."""

    name: str
    state: State
    message: str
    mend: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def settings_findings(invalid: InvalidSettings) -> list[Finding]:
    """One finding for each problem of the settings."""
    mend = "set it in the environment or in .env; the README's table explains each"
    return [Finding("settings", "failed", problem, mend) for problem in invalid.problems]


async def check(worker: Worker) -> list[Finding]:
    """Every finding, in the order in which they should be mended."""
    settings = worker.settings
    findings = [Finding("settings", "ok", "complete, and they fit together")]
    findings += await _database(worker.queue)
    if findings[1].state == "failed":
        findings.append(Finding("bucket", "skipped", "not looked at while Supabase does not answer"))
    else:
        findings.append(await _bucket(worker.store))
    return [*findings, await _gemini(worker.gemini, settings), _callers(settings)]


def passed(findings: Sequence[Finding]) -> bool:
    """Whether the worker can work; warnings do not keep it from that."""
    return not any(finding.state == "failed" for finding in findings)


async def _database(queue: Queue) -> list[Finding]:
    """Supabase, and the functions in its database: one call tells both."""
    try:
        answer = await queue.operate("generation_schema_version", {}, TIMEOUT_SECONDS)
    except QueueUnavailable as error:
        skipped = Finding("database", "skipped", "not looked at while Supabase does not answer")
        return [Finding("supabase", "failed", error.message, UNREACHABLE), skipped]
    except GenerationError as error:
        if error.code == "key_refused":
            skipped = Finding("database", "skipped", "not looked at while Supabase refuses the key")
            return [Finding("supabase", "failed", error.message, KEY), skipped]
        failed = Finding("database", "failed", error.message, MENDS.get(error.code, INSTALL))
        return [Finding("supabase", "ok", "answers"), failed]
    return [Finding("supabase", "ok", "answers and accepts the key"), _schema(answer)]


def _schema(answer: dict[str, Any]) -> Finding:
    version, missing = answer.get("version"), sorted(FUNCTIONS - set(answer.get("functions") or ()))
    if type(version) is int and version > SCHEMA_VERSION:
        said = f"its schema has version {version}, newer than the {SCHEMA_VERSION} of this worker"
        return Finding("database", "failed", said, "deploy the worker that belongs to this schema")
    if version != SCHEMA_VERSION:
        said = f"its schema has version {version}, this worker is written for {SCHEMA_VERSION}"
        return Finding("database", "failed", said, INSTALL)
    if missing:
        return Finding("database", "failed", f"functions are missing: {', '.join(missing)}", INSTALL)
    return Finding("database", "ok", f"schema version {version}, all {len(FUNCTIONS)} functions are there")


async def _bucket(store: PhotoStore) -> Finding:
    try:
        await store.check(TIMEOUT_SECONDS)
    except GenerationError as error:
        return Finding("bucket", "failed", error.message, MENDS.get(error.code, UNREACHABLE))
    return Finding("bucket", "ok", "generated-photos is there and private")


async def _gemini(gemini: Gemini, settings: Settings) -> Finding:
    model = settings.gemini_model_name
    try:
        await gemini.check(model, TIMEOUT_SECONDS)
    except ModelRetired as error:
        return await _retired(gemini, settings, error)
    except RateLimited as error:
        return Finding("gemini", "warning", error.message, "wait: key and model are good")
    except GenerationError as error:
        again = GEMINI_KEY if isinstance(error, Misconfigured) else "run the check again in a minute"
        return Finding("gemini", "failed", error.message, again)
    price = f", ${DOLLARS_PER_IMAGE[model]:.3f} an image" if model in DOLLARS_PER_IMAGE else ""
    return Finding("gemini", "ok", f"accepts the key and has the model {model}{price}")


async def _retired(gemini: Gemini, settings: Settings, error: ModelRetired) -> Finding:
    """The model is gone: what the worker is going to do about that, and what it will cost."""
    model, fallback = settings.gemini_model_name, settings.gemini_model_fallback
    successor = fallback or SUCCESSORS.get(model)
    if fallback is None:
        why = "GEMINI_MODEL_FALLBACK is off" if settings.gemini_model_is_default else "you named it yourself"
        said = f"{error.message} Runs stop as misconfigured, since {why}."
        if successor is None:
            return Finding("gemini", "failed", said, "set GEMINI_MODEL_NAME to a model that makes images")
        mend = f"set GEMINI_MODEL_NAME={successor}; {price_note(model, successor)}"
        return Finding("gemini", "failed", said, mend)
    try:
        await gemini.check(fallback, TIMEOUT_SECONDS)
    except GenerationError as of_fallback:
        said = f"{error.message} The worker would change over to {fallback}, but: {of_fallback.message}"
        mend = "set GEMINI_MODEL_FALLBACK or GEMINI_MODEL_NAME to a model that makes images"
        return Finding("gemini", "failed", said, mend)
    said = f"{error.message} The worker changes over to {fallback} by itself: {price_note(model, fallback)}."
    mend = f"to agree, set GEMINI_MODEL_NAME={fallback}; to refuse, set GEMINI_MODEL_FALLBACK=off"
    return Finding("gemini", "warning", said, mend)


def _callers(settings: Settings) -> Finding:
    accepted = ["X-Worker-Secret"] if settings.worker_secret else []
    if settings.oidc_audience:
        accepted.append(f"the OIDC token of {settings.oidc_service_account}")
    if accepted:
        return Finding("callers", "ok", f"the HTTP function accepts {' and '.join(accepted)}")
    said = "no credential is configured: the HTTP function refuses every caller (the command line needs none)"
    mend = "set WORKER_SECRET (openssl rand -hex 32), or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT"
    return Finding("callers", "warning", said, mend)
