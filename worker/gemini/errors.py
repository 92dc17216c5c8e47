"""Translates HTTP errors of the Gemini API by status code and `google.rpc` details, without the SDK."""

from __future__ import annotations

import re
from dataclasses import replace

from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoUnprocessed,
    RateLimited,
    Transient,
)
from worker.gemini.error_text import known_text
from worker.gemini.quota import classify_429
from worker.gemini.rpc_status import RpcStatus, constant, read_status

_SECONDS = re.compile(r"[0-9]{1,9}")

# Reasons of google.api.ErrorReason for a 400 that is not the order's fault, in addition to every API_KEY_….
_ACCOUNT_REASONS = frozenset(
    {"BILLING_DISABLED", "SERVICE_DISABLED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED"}
)


def rejection(status_code: int, body: object, retry_after: str | None, model: str) -> GenerationError:
    """Return the error for an answer other than 200.

    `body` is any decoded JSON, `retry_after` the raw header (only the form in seconds is read; a date would
    need a wall clock). Statuses: ai.google.dev "Troubleshooting".
    """
    status = read_status(body)
    if status_code == 429 and not _is_overload(status):
        return _quota(body, _header_seconds(retry_after))
    if status_code == 400:
        return _bad_request(status)
    if status_code == 404:
        return _not_found(status, model)
    if status_code == 413:
        return BadInput(
            "request_too_large",
            "The photos together exceed Gemini's size limit (HTTP 413); use fewer or smaller photos.",
        )
    if status_code in (401, 402, 403, 407):
        return _denied(status_code, status)
    return _transient(status_code, status, _header_seconds(retry_after))


def _quota(body: object, header_seconds: float | None) -> GenerationError:
    error = classify_429(body)
    if isinstance(error, RateLimited) and error.facts.retry_after_seconds is None:
        error.facts = replace(error.facts, retry_after_seconds=header_seconds)
    return error


def _is_overload(status: RpcStatus) -> bool:
    """Whether Google is out of capacity (google-gemini/gemini-cli#26633), rather than our quota used up."""
    return "MODEL_CAPACITY_EXHAUSTED" in status.reasons and not status.of_type("QuotaFailure")


def _bad_request(status: RpcStatus) -> GenerationError:
    key_reason = _reason(status, "API_KEY_")
    if key_reason:
        return Misconfigured(key_reason.lower(), f"Gemini does not accept the API key ({key_reason}).")
    account_reason = next((reason for reason in status.reasons if reason in _ACCOUNT_REASONS), None)
    if account_reason or status.status == "FAILED_PRECONDITION":
        shown = account_reason or "FAILED_PRECONDITION"
        text = (
            f"Gemini is not available for this project ({shown}): check billing and the supported locations."
        )
        return Misconfigured(shown.lower(), text)
    if known_text(400, status) == "input_image":
        return PhotoUnprocessed(
            "photo_unprocessed",
            "Gemini could not process a photo of this order: use another photo, or save it as JPEG or PNG.",
        )
    where = f": {', '.join(status.fields[:3])}" if status.fields else ""
    shown = status.status or "HTTP 400"
    return BadInput("invalid_argument", f"Gemini rejected this order as invalid ({shown}{where}).")


def _not_found(status: RpcStatus, model: str) -> Misconfigured:
    """Only Google's own NOT_FOUND retires a model, not a proxy's 404: its successor may cost more."""
    if status.status == "NOT_FOUND":
        return ModelRetired("model_not_found", f"Gemini has no model {model} (NOT_FOUND).", model)
    return Misconfigured(
        "not_found", "The Gemini URL answered 404, but not from Google: check GOOGLE_GEMINI_BASE_URL."
    )


def _denied(status_code: int, status: RpcStatus) -> Misconfigured:
    code = (status.status or f"http_{status_code}").lower()
    shown = _reason(status, "") or status.status or f"HTTP {status_code}"
    return Misconfigured(
        code, f"Gemini denied access: check the API key, its restrictions and billing ({shown})."
    )


def _transient(status_code: int, status: RpcStatus, header_seconds: float | None) -> Transient:
    """Every other status is transient (408, 409, 499, 5xx); the longer of the two stated delays wins."""
    delays = [delay for delay in (status.retry_delay_seconds, header_seconds) if delay is not None]
    name = "MODEL_CAPACITY_EXHAUSTED" if _is_overload(status) else status.status
    code = (name or f"http_{status_code}").lower()
    shown = f"HTTP {status_code}{f' {name}' if name else ''}"
    return Transient(code, f"Gemini is temporarily unavailable ({shown}).", max(delays, default=None))


def _reason(status: RpcStatus, prefix: str) -> str | None:
    return next((r for r in status.reasons if constant(r) and r.startswith(prefix)), None)


def _header_seconds(value: str | None) -> float | None:
    return float(value) if value is not None and _SECONDS.fullmatch(value) else None
