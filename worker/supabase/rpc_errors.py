"""Translates Supabase's error answers: project errors by HTTP status, other errors by PostgREST's code.

A gateway's answer is about the project or its key, regardless of the service; PostgREST's is about the
function or the bearer token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from worker.errors import (
    BearerRefused,
    GenerationError,
    Misconfigured,
    NotExecuted,
    ProjectRefused,
    QueueRefused,
    QueueUnavailable,
)

SERVICE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
INSTALL = "run sql/install.sql in the Supabase SQL editor, or psql -v ON_ERROR_STOP=1 -f sql/install.sql"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem of the whole project, and what the operator has to do."""

    code: str
    problem: str
    fix: str

    def error(self, kind: type[ProjectRefused] = ProjectRefused) -> ProjectRefused:
        """The error with problem and fix in its message."""
        return kind(self.code, self.problem, self.fix)


PAUSED = Trouble("project_paused", "the Supabase project is paused (540)", "restore it in the dashboard")
NO_API = Trouble(
    "api_missing",
    "no Supabase service answers at this URL (404)",
    "check SUPABASE_URL, and in the dashboard that the Data API is on",
)
SCHEMA = Trouble(
    "schema_not_exposed",
    "the API does not expose the schema public",
    "expose the schema public in the API settings (dashboard, Project Settings, Data API)",
)
NO_JWT_SECRET = Trouble(
    "api_misconfigured", "PostgREST has no JWT secret to check tokens", "set PGRST_JWT_SECRET"
)

_BY_CODE = {"PGRST106": SCHEMA, "PGRST300": NO_JWT_SECRET}

REFUSAL_STATUSES = frozenset({401, 402, 403, 404, 540})
"""Statuses that `project_error` checks."""

_OWN_CODE = re.compile(r"PGRST\w{3}|[0-9A-Z]{5}")
_VIOLATION = re.compile(r"\b(?:exceed|overdue)[a-z_]*_[a-z_]+\b")

_LEGACY = re.compile(r"legacy api keys", re.IGNORECASE)

# PGRST303 covers every invalid JWT claim; only the message says which one. (PostgREST, Auth.hs)
_CLOCK = re.compile(r"jwt (issued at future|not yet valid)", re.IGNORECASE)
_TRANSIENT = ("08", "40", "53", "55", "57", "58")
"""Transient SQLSTATE classes: connection, rollback, resources, locks, cancellation or shutdown, system."""


def key_trouble(key_name: str, problem: str) -> Trouble:
    """The key in the variable `key_name` is not valid for this project."""
    kind = "secret" if key_name == SERVICE_KEY else "publishable"
    fix = f"set {key_name} to the project's {kind} key (dashboard, Project Settings, API Keys)"
    return Trouble("key_refused", problem, fix)


def restricted(body: bytes) -> Trouble:
    """The project is blocked until its quota or bill is settled; the body names the violations."""
    found = sorted(set(_VIOLATION.findall(body.decode("utf-8", "replace"))))
    why = f" ({', '.join(found[:5])})" if found else ""
    fix = "check usage and billing in the dashboard; upgrade the plan or pay"
    return Trouble("project_restricted", f"the Supabase project is restricted (402){why}", fix)


def project_error(status: int, body: bytes, key_name: str) -> Misconfigured | None:
    """The error if any service's answer is about the project or its key; None if it is about the call."""
    if status == 402:
        return restricted(body).error()
    if status == 540:
        return PAUSED.error()
    fields = _object(body)
    code = str(fields.get("code"))
    if status == 403 and code == "42501":
        return Misconfigured(
            "rights_missing", f"a role has no right to call a database function ({code}): {INSTALL}"
        )
    if "statusCode" in fields or _OWN_CODE.fullmatch(code) or (status == 404 and "code" in fields):
        return None  # an answer of Storage or PostgREST, not of the gateway
    return _gateway_error(status, str(fields.get("message")), key_name)


def _gateway_error(status: int, message: str, key_name: str) -> Misconfigured | None:
    if status == 404:
        return NO_API.error()
    if status == 403:
        fix = f"check SUPABASE_URL, {key_name} and the project's network restrictions"
        return ProjectRefused("gateway_refused", "a gateway in front of Supabase refused the call (403)", fix)
    if status == 401:
        legacy = ": the project's legacy keys are disabled" if _LEGACY.search(message) else ""
        return key_trouble(key_name, f"Supabase refused the key (401){legacy}").error()
    return None


def call_error(
    code: str | int | None, message: str | None, details: object, hint: str | None, function: str
) -> GenerationError:
    """Translate PostgREST's error; `code` is an SQLSTATE, a PGRST code, or a non-JSON answer's status."""
    text, message = str(code), message or "no message"
    if re.fullmatch(r"PT\d{3}", text):
        refused = QueueRefused(str(details or "refused"), message, int(text[2:]), hint)
        return schema_too_old(message) if refused.code == "schema_too_old" else refused
    if text in ("PGRST202", "PGRST203", "42883"):
        return Misconfigured(
            "schema_missing",
            f"the database has no function {function} with this worker's parameters: {INSTALL}",
        )
    if text in _BY_CODE:
        return _BY_CODE[text].error()
    if text.startswith("PGRST3") or text == "42501":
        return _bearer_error(text, message, function)
    if text.startswith(_TRANSIENT) or not text[:1].isdigit() or len(text) == 3:
        return QueueUnavailable("unavailable", f"{function}: Supabase answered {text}")
    # Class 22 is invalid data, which the caller has to correct.
    return QueueRefused("database_error", f"{function}: {message}", 400 if text[:2] == "22" else 500, hint)


def schema_too_old(versions: str) -> Misconfigured:
    """The database lacks migrations that this worker needs; `versions` has both versions."""
    return Misconfigured("schema_too_old", f"{versions}: {INSTALL}")


def _bearer_error(code: str, message: str, function: str) -> GenerationError:
    if _CLOCK.match(message):
        return NotExecuted("token_too_early", f"{function}: a server clock of Supabase is behind ({code})")
    return key_trouble(SERVICE_KEY, f"Supabase refused the key or its rights ({code})").error(BearerRefused)


def _object(body: bytes) -> Mapping[str, object]:
    try:
        read = json.loads(body)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
