"""The bodies of HTTP 429, in every shape that Google's API has been seen to send them.

Sources: Gemini API "Rate limits"; googleapis/python-genai#2044 and #2065, RooCodeInc/Roo-Code#3883,
google-gemini/gemini-cli#8437, #25179 and #26633, gke-labs/gemini-for-kubernetes-development#1215,
dyad-sh/dyad#3626.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Period = Literal["minute", "day"]
Json = dict[str, Any]
TYPE = "type.googleapis.com/google.rpc."
METRIC = "generativelanguage.googleapis.com/generate_content_"
HELP: Json = {
    "@type": f"{TYPE}Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}
PLAN = (
    "You exceeded your current quota, please check your plan and billing details. "
    "For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. "
)


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The facts of a 429: quota, period, value, and the delay in seconds."""

    model: str
    period: Period = "minute"
    limit: int = 10
    retry_seconds: float = 47.0


def _envelope(message: str, details: list[Json] | None = None) -> Json:
    error: Json = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}
    return {"error": error | ({"details": details} if details else {})}


def _violation(facts: Exhausted, period: Period, value: int | None, free: bool = False) -> Json:
    name = "Minute" if period == "minute" else "Day"
    violation: Json = {
        "quotaMetric": f"{METRIC}{'free_tier' if free else 'paid_tier'}_requests",
        "quotaId": f"GenerateRequestsPer{name}PerProjectPerModel{'-FreeTier' if free else ''}",
        "quotaDimensions": {"location": "global", "model": facts.model},
    }
    return violation | ({} if value is None else {"quotaValue": str(value)})


def _failure(*violations: Json) -> Json:
    return {"@type": f"{TYPE}QuotaFailure", "violations": list(violations)}


def _seconds(delay: float) -> str:
    """A protobuf Duration in JSON: `47s`, or with up to nine decimals."""
    return f"{delay:.9f}".rstrip("0").rstrip(".") + "s"


def _retry(delay: float) -> Json:
    return {"@type": f"{TYPE}RetryInfo", "retryDelay": _seconds(delay)}


def _message(facts: Exhausted, metric: str = "paid_tier_requests") -> str:
    lines = [
        f"{PLAN}",
        f"* Quota exceeded for metric: {METRIC}{metric}, limit: {facts.limit}, model: {facts.model}",
    ]
    return "\n".join([*lines, f"Please retry in {_seconds(facts.retry_seconds)}."])


def _full(facts: Exhausted) -> Json:
    violation = _violation(facts, facts.period, facts.limit)
    return _envelope(_message(facts), [HELP, _failure(violation), _retry(facts.retry_seconds)])


def _several(facts: Exhausted) -> Json:
    tokens = {
        "quotaMetric": f"{METRIC}free_tier_input_token_count",
        "quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
        "quotaDimensions": {"location": "global", "model": facts.model},
        "quotaValue": "1000000",
    }
    day = _violation(facts, "day", facts.limit * 20, free=True)
    minute = _violation(facts, "minute", facts.limit, free=True)
    failure = _failure(day, minute, tokens) if facts.period == "day" else _failure(minute, tokens)
    return _envelope(_message(facts, "free_tier_requests"), [HELP, failure, _retry(facts.retry_seconds)])


def _no_value(facts: Exhausted) -> Json:
    violation = _violation(facts, facts.period, None)
    return _envelope(_message(facts), [_failure(violation), HELP, _retry(facts.retry_seconds)])


def _fractional(facts: Exhausted) -> Json:
    violation = _violation(facts, facts.period, facts.limit)
    return _envelope(_message(facts), [_failure(violation), HELP, _retry(int(facts.retry_seconds) + 0.5)])


def _no_retry_info(facts: Exhausted) -> Json:
    return _envelope(_message(facts), [_failure(_violation(facts, facts.period, facts.limit)), HELP])


def _help_only(_: Exhausted) -> Json:
    return _envelope(PLAN.strip(), [HELP])


def _bare(_: Exhausted) -> Json:
    return _envelope("Resource has been exhausted (e.g. check quota).")


def _vertex(_: Exhausted) -> Json:
    message = (
        "Resource exhausted. Please try again later. Please refer to "
        "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
    )
    reasons = [{"message": message, "domain": "global", "reason": "rateLimitExceeded"}]
    return {"error": {"code": 429, "message": message, "errors": reasons, "status": "RESOURCE_EXHAUSTED"}}


def _list(facts: Exhausted) -> list[Json]:
    return [_full(facts)]


def _error_info(facts: Exhausted) -> Json:
    name = "Minute" if facts.period == "minute" else "Day"
    metadata = {
        "service": "generativelanguage.googleapis.com",
        "consumer": "projects/100000000001",
        "quota_metric": "generativelanguage.googleapis.com/generate_content_requests",
        "quota_limit": f"GenerateContentRequestsPer{name}PerProjectPerRegion",
        "quota_limit_value": str(facts.limit),
        "quota_location": "us-central1",
    }
    info = {
        "@type": f"{TYPE}ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": metadata,
    }
    return _envelope(
        "Quota exceeded for quota metric 'Generate Content API requests per minute' and limit "
        f"'{metadata['quota_limit']}' of service 'generativelanguage.googleapis.com'.",
        [info, HELP],
    )


def _zero(facts: Exhausted) -> Json:
    """A project without billing: the JSON omits the zero, so only the text has it."""
    none = Exhausted(facts.model, facts.period, 0, facts.retry_seconds)
    failure = _failure(_violation(none, "day", None, free=True), _violation(none, "minute", None, free=True))
    return _envelope(_message(none, "free_tier_requests"), [HELP, failure, _retry(none.retry_seconds)])


def _no_credit(_: Exhausted) -> Json:
    """No quota at all: the project's prepaid credit is used up."""
    return _envelope(
        "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects "
        "to manage your project and billing."
    )


def _spending_cap(_: Exhausted) -> Json:
    """Not a quota, but the monthly spending cap of the project."""
    return _envelope(
        "Your project has exceeded its monthly spending cap. Please go to AI Studio at "
        "https://ai.studio/spend to manage your project spend cap."
    )


def _capacity(facts: Exhausted) -> Json:
    """No quota at all: Google is overloaded."""
    text = f"No capacity available for model {facts.model} on the server"
    body = _envelope(
        text,
        [
            {
                "@type": f"{TYPE}ErrorInfo",
                "reason": "MODEL_CAPACITY_EXHAUSTED",
                "domain": "cloudcode-pa.googleapis.com",
                "metadata": {"model": facts.model},
            }
        ],
    )
    body["error"]["errors"] = [{"message": text, "domain": "global", "reason": "rateLimitExceeded"}]
    return body


SHAPES: dict[str, Callable[[Exhausted], Json | list[Json]]] = {
    "full": _full,
    "several": _several,
    "no_value": _no_value,
    "fractional": _fractional,
    "no_retry_info": _no_retry_info,
    "help_only": _help_only,
    "bare": _bare,
    "vertex": _vertex,
    "list": _list,
    "error_info": _error_info,
    "zero": _zero,
    "no_credit": _no_credit,
    "spending_cap": _spending_cap,
    "capacity": _capacity,
}
NO_QUOTA = frozenset({"zero", "no_credit", "spending_cap", "capacity"})
"""Shapes that name no quota which comes back."""


def body(shape: str, facts: Exhausted) -> Json | list[Json]:
    """Return the decoded JSON of a 429; `shape` is a key of SHAPES."""
    return SHAPES[shape](facts)
