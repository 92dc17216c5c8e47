"""Parses and validates request bodies. Each error names the field and says how to fix it.

Pure: needs no server and no framework. Errors quote names of fields, never the caller's values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from worker.run.request import MAX_JOBS, Action, RunRequest

MIN_BUDGET_SECONDS = 150.0
"""Least time that a run may be given over HTTP, more if two requests to Gemini may take longer. With less, a
caller who repeats the request could keep jobs from ending, or make them fail."""

MIN_JOBS = 10
"""Least jobs that a run may be limited to over HTTP, more if a run has more at a time. With fewer, a
caller who repeats the request could occupy all places for runs with little work."""

JSON_TYPES = ("", "application/json", "application/octet-stream")
"""Content types accepted as JSON: none, JSON, and Cloud Scheduler's default."""

MAX_VALUES = 10_000
"""Most names and values in a body; the largest order has under 1 000. Parsing a MiB of `[],` blocks the
server's only thread for 0.2 s, and forwarding it takes as long again."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class RequestRefused(Exception):
    """The request gets an error response with the HTTP `status`; `hint` says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = dict(headers or {})


ACTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "retry-failed": ("retry_failed_generation_jobs", ("batchId",)),
    "cancel": ("cancel_generation_batch", ("batchId",)),
    "release-stale": ("release_stale_generation_jobs", ()),
    "pause": ("pause_generation", ("reason",)),
    "resume": ("resume_generation", ()),
}
"""Each action, named like its command: its database function and its fields."""

PARAMETERS = {"batchId": "p_batch_id", "reason": "p_reason"}
REQUIRED = {"cancel": "batchId"}
MAX_TEXT = 200


def parse_action(body: bytes, content_type: str) -> Action:
    """Parse the body of an action: its name and its fields."""
    fields = parse_object(body, content_type)
    name = fields.pop("action", None)
    if not isinstance(name, str) or name not in ACTIONS:
        raise _invalid("action is missing or unknown", f"use one of {', '.join(ACTIONS)}")
    function, allowed = ACTIONS[name]
    for field in fields:
        if field not in allowed:
            hint = f"{name} has {'only the field ' + ' and '.join(allowed) if allowed else 'no fields'}"
            raise _invalid(f"unknown field {field[:60]!r}", hint)
    for field, value in fields.items():
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
            raise _invalid(f"{field} must be a string of 1 to {MAX_TEXT} characters", "or leave it out")
    if name in REQUIRED and REQUIRED[name] not in fields:
        raise _invalid(f"{name} needs {REQUIRED[name]}", f"send the field {REQUIRED[name]}")
    return Action(function, {PARAMETERS[field]: value for field, value in fields.items()})


def parse_id(given: Sequence[str]) -> str:
    """The value of the query parameter `id`, which must occur once."""
    if len(given) != 1 or not 1 <= len(given[0]) <= MAX_TEXT or "\0" in given[0]:
        raise _invalid(f"id must occur once, with 1 to {MAX_TEXT} characters", "add a batch's id: ?id=…")
    return given[0]


def parse_run(
    body: bytes,
    content_type: str,
    max_budget_seconds: float,
    min_budget_seconds: float = MIN_BUDGET_SECONDS,
    min_jobs: int = MIN_JOBS,
) -> RunRequest:
    """Parse the optional body of a run; an empty body means the defaults, whatever its content type."""
    if not body.strip():
        return RunRequest()
    fields = parse_object(body, content_type)
    for name in fields:
        if name not in ("maxJobs", "budgetSeconds", "dryRun"):
            raise _invalid(f"unknown field {name[:60]!r}", "allowed are maxJobs, budgetSeconds and dryRun")
    dry_run = _dry_run(fields)
    return RunRequest(
        max_jobs=_max_jobs(fields, 1 if dry_run else min_jobs),
        budget_seconds=_budget_seconds(fields, min_budget_seconds, max_budget_seconds),
        dry_run=dry_run,
    )


def parse_sweep(body: bytes, content_type: str) -> int | None:
    """Parse the optional body of a sweep, {"maxJobs": …}; None means the default."""
    if not body.strip():
        return None
    fields = parse_object(body, content_type)
    for name in fields:
        if name != "maxJobs":
            raise _invalid(f"unknown field {name[:60]!r}", "only maxJobs is allowed")
    return _max_jobs(fields)


def _max_jobs(fields: Mapping[str, Any], least: int = 1) -> int | None:
    if "maxJobs" not in fields:
        return None
    value = fields["maxJobs"]
    # JSON does not distinguish 5.0 from 5. `type`, because isinstance accepts a bool as an int.
    if type(value) not in (int, float) or not least <= value <= MAX_JOBS or value != int(value):
        raise _invalid(f"maxJobs must be a whole number from {least} to {MAX_JOBS}", "or leave the field out")
    return int(value)


def _budget_seconds(fields: Mapping[str, Any], least: float, most: float) -> float | None:
    if "budgetSeconds" not in fields:
        return None
    value = fields["budgetSeconds"]
    least = min(least, most)
    if type(value) not in (int, float) or not least <= value <= most:
        raise _invalid(
            f"budgetSeconds must be a number from {least:g} to {most:g}",
            "the upper bound is the invocation timeout; leave the field out for the default",
        )
    return float(value)


def _dry_run(fields: Mapping[str, Any]) -> bool:
    value = fields.get("dryRun", False)
    if type(value) is not bool:
        raise _invalid("dryRun must be true or false", "or leave the field out")
    return value


def parse_object(body: bytes, content_type: str) -> dict[str, Any]:
    """Parse a JSON object; RequestRefused if Postgres could not store it as `jsonb`."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in JSON_TYPES and not kind.endswith("+json"):
        raise RequestRefused(
            415, "unsupported_media_type", "the body must be JSON", "send Content-Type: application/json"
        )
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_not_a_number, object_pairs_hook=_without_repetition
        )
    except UnicodeDecodeError as exc:
        raise _bad_json("the body is not UTF-8") from exc
    except json.JSONDecodeError as exc:
        raise _bad_json(f"{exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    except _Repeated as exc:
        raise _bad_json("a field occurs twice in one object") from exc
    except ValueError as exc:  # a NaN, or an integer of more digits than Python will read
        raise _bad_json("a number in the body cannot be read") from exc
    except RecursionError as exc:  # a body of 64 KiB of "[" is enough
        raise _bad_json("the body is nested too deeply") from exc
    if not isinstance(value, dict):
        raise _invalid("the body must be a JSON object", "see docs/openapi for its fields")
    _check_storable(value)
    return value


def _check_storable(root: Any) -> None:
    """Refuse NUL, unpaired surrogates and infinity, which `jsonb` cannot store, and too many values."""
    waiting = [root]
    seen = 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise _bad_json(f"the body has more than {MAX_VALUES} names and values")
        if isinstance(value, dict):
            waiting.extend(value.keys())
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _bad_json("a number in the body is too large")
        elif isinstance(value, str) and _UNSTORABLE.search(value):
            raise _bad_json("a string in the body contains NUL or an unpaired surrogate")


class _Repeated(ValueError):
    """A field occurs twice. Parsers differ in which one they use, so we could check one and use the other."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _Repeated
    return fields


def _not_a_number(_constant: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _bad_json(message: str) -> RequestRefused:
    return RequestRefused(400, "invalid_json", message, "send one JSON object in UTF-8")


def _invalid(message: str, hint: str) -> RequestRefused:
    return RequestRefused(400, "invalid_request", message, hint)
