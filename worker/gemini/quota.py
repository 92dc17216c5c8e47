"""Translates a 429: a quota that resets by itself (`RateLimited`), or one that does not (`Misconfigured`).

The quota's id decides, not the delay: `RetryInfo` names seconds even if the daily quota is used up. The text
decides only if no quota is named and `worker.gemini.error_text` knows it. Accepts any JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from worker.errors import Misconfigured, QuotaFacts, RateLimited
from worker.gemini.error_text import known_text
from worker.gemini.rpc_status import Json, RpcStatus, objects, read_status

Period = Literal["minute", "day", "unknown"]

_ID = re.compile(r"[A-Za-z0-9_./-]{1,120}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_DAILY_REASONS = frozenset({"dailyLimitExceeded", "dailyLimitExceededUnreg"})
_MESSAGES = {
    "minute": ("quota_per_minute", "Gemini's quota per minute is used up"),
    "day": ("quota_per_day", "Gemini's quota per day is used up; it resets at midnight Pacific time"),
    "unknown": ("quota_exhausted", "Gemini is out of capacity or quota for this project"),
}

# Waiting does not help: the operator has to pay or raise the cap.
_BILLING = {
    "no_credit": "The prepaid credit of this Gemini project is used up: add credit in Google AI Studio.",
    "spending_cap": "This Gemini project has reached its monthly spending cap: raise the cap in Google AI "
    "Studio, or wait for the next month.",
}


@dataclass(frozen=True, slots=True)
class _Violation:
    """One quota named by a 429; `value` is None if the body omits it.

    `counts_requests` is false for a token quota, which does not limit the number of requests.
    """

    quota_id: str | None
    period: Period
    value: int | None
    is_free_tier: bool
    counts_requests: bool

    @property
    def is_zero(self) -> bool:
        """Whether the quota is zero. The JSON omits zeros; only the free tier has known quotas of zero."""
        return self.value == 0 or (self.value is None and self.is_free_tier)


def classify_429(body: object) -> RateLimited | Misconfigured:
    """Return the error for a 429, from its decoded body.

    If several quotas are named, per day wins over per minute. `limit` is the smallest request limit of the
    deciding period. Shapes: googleapis/python-genai#2044 and #2065,
    RooCodeInc/Roo-Code#3883, gke-labs/gemini-for-kubernetes-development#1215 (`Help` alone lasts until
    midnight); a quota of zero: google-gemini/gemini-cli#8437, continuedev/continue#11558.
    """
    status = read_status(body)
    violations = tuple(_violations(status))
    billing = None if violations else _BILLING.get(known_text(429, status) or "")
    if billing:
        return Misconfigured("billing", billing)
    if _has_no_quota(violations):
        return Misconfigured(
            "no_image_quota",
            "This Gemini project has no quota for images: enable billing, or choose another model"
            f"{_named(violations[0].quota_id, None)}.",
        )
    period = _period(status, violations)
    limit, quota_id = _deciding(violations, period)
    code, text = _MESSAGES[period]
    facts = QuotaFacts(period, status.retry_delay_seconds, limit, quota_id)
    return RateLimited(code, f"{text}{_named(quota_id, limit)}.", facts)


def _violations(status: RpcStatus) -> Iterator[_Violation]:
    """Yield the quotas named by `QuotaFailure`, and by `ErrorInfo`, which uses other field names."""
    for failure in status.of_type("QuotaFailure"):
        for item in objects(failure, "violations"):
            yield _violation(item.get("quotaId"), item.get("quotaMetric"), None, item.get("quotaValue"))
    for info in status.of_type("ErrorInfo"):
        metadata = info.get("metadata")
        if isinstance(metadata, dict) and "quota_limit" in metadata:
            yield _from_metadata(metadata)


def _from_metadata(metadata: Json) -> _Violation:
    quota_id, metric = metadata.get("quota_limit"), metadata.get("quota_metric")
    return _violation(quota_id, metric, metadata.get("quota_unit"), metadata.get("quota_limit_value"))


def _violation(quota_id: object, metric: object, unit: object, value: object) -> _Violation:
    name = quota_id if isinstance(quota_id, str) and _ID.fullmatch(quota_id) else None
    words = " ".join(part for part in (quota_id, metric) if isinstance(part, str)).replace("_", "").lower()
    return _Violation(
        name, _period_of(words, unit), _number(value), "freetier" in words, "token" not in words
    )


def _period_of(words: str, unit: object) -> Period:
    """Read the period from the quota's names, else from its unit (`1/min/{project}`)."""
    rate = unit if isinstance(unit, str) else ""
    if "perday" in words or rate.startswith("1/d"):
        return "day"
    if "perminute" in words or rate.startswith("1/min"):
        return "minute"
    return "unknown"


def _number(value: object) -> int | None:
    """A count that the JSON has as a number, or as text like all 64-bit numbers of Google."""
    text = str(value)
    return int(text) if _NUMBER.fullmatch(text) else None


def _has_no_quota(violations: tuple[_Violation, ...]) -> bool:
    """Whether the project has no quota: a stated zero, or only free-tier quotas with omitted values."""
    stated = any(violation.value == 0 for violation in violations)
    return stated or (bool(violations) and all(violation.is_zero for violation in violations))


def _period(status: RpcStatus, violations: tuple[_Violation, ...]) -> Period:
    periods = {violation.period for violation in violations}
    is_help_alone = bool(status.details) and len(status.of_type("Help")) == len(status.details)
    if "day" in periods or is_help_alone or _DAILY_REASONS.intersection(status.reasons):
        return "day"
    return "minute" if "minute" in periods else "unknown"


def _deciding(violations: tuple[_Violation, ...], period: Period) -> tuple[int | None, str | None]:
    """Return limit and id of the period's lowest quota; if none has a limit, the first id."""
    named = [violation for violation in violations if violation.period == period]
    counted = [(v.value, v.quota_id) for v in named if v.value is not None and v.counts_requests]
    if counted and period != "unknown":
        return min(counted, key=lambda pair: pair[0])
    return None, next((violation.quota_id for violation in named if violation.quota_id), None)


def _named(quota_id: str | None, limit: int | None) -> str:
    parts = [quota_id, f"limit {limit}" if limit is not None else None]
    known = ", ".join(part for part in parts if part)
    return f" ({known})" if known else ""
