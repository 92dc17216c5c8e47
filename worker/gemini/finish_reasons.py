"""Translates a 200 without an image by `finishReason` and `promptFeedback.blockReason`, without the SDK.

Reasons: `FinishReason` and `BlockedReason` of google-genai 3.6.1. An unknown one is retried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from worker.errors import Misconfigured, Refused, Transient
from worker.gemini.rpc_status import constant

Verdict = Literal["refused", "retry", "misconfigured"]

FINISH_REASONS: Mapping[str, tuple[Verdict, str]] = {
    "SAFETY": ("refused", "it may violate the safety policies"),
    "PROHIBITED_CONTENT": ("refused", "it may show prohibited content"),
    "BLOCKLIST": ("refused", "it contains a blocked term"),
    "SPII": ("refused", "it may contain sensitive personal data"),
    "RECITATION": ("refused", "it may copy a protected work"),
    "IMAGE_SAFETY": ("refused", "the image may violate the safety policies"),
    "IMAGE_PROHIBITED_CONTENT": ("refused", "the image may show prohibited content"),
    "IMAGE_RECITATION": ("refused", "the image may copy a protected work"),
    "MODEL_ARMOR": ("refused", "a Model Armor rule blocked it"),
    "STOP": ("retry", "it ended without an image"),
    "FINISH_REASON_UNSPECIFIED": ("retry", "no reason was given"),
    "NO_IMAGE": ("retry", "it should have made an image but did not"),
    "IMAGE_OTHER": ("retry", "the image failed for an unspecified reason"),
    "OTHER": ("retry", "it stopped for an unspecified reason"),
    "MALFORMED_RESPONSE": ("retry", "the answer was malformed"),
    "MAX_TOKENS": ("retry", "it ran out of output tokens"),
    "CONTINUATION": ("retry", "it stopped at the limit of one request"),
    "MALFORMED_FUNCTION_CALL": ("retry", "it tried to call a function"),
    "UNEXPECTED_TOOL_CALL": ("retry", "it tried to call a tool"),
    "TOO_MANY_TOOL_CALLS": ("retry", "it made too many tool calls"),
    "MISSING_THOUGHT_SIGNATURE": ("retry", "a thought signature was missing"),
    "LANGUAGE": ("refused", "its language is not supported"),
    "ESCALATION": ("refused", "an escalation rule filtered it"),
    "PUP_LIMITED_DISABLED": ("misconfigured", "the account is restricted for violating the use policy"),
}

# OTHER is a refusal: Google documents it as "the prompt's language, or other harmful content", so a retry
# would be blocked again.
BLOCK_REASONS: Mapping[str, tuple[Verdict, str]] = {
    "SAFETY": ("refused", "it may violate the safety policies"),
    "OTHER": ("refused", "its language is not supported or it has harmful content"),
    "BLOCKLIST": ("refused", "it contains a blocked term"),
    "PROHIBITED_CONTENT": ("refused", "it asks for prohibited content"),
    "IMAGE_SAFETY": ("refused", "it is unsafe for image generation"),
    "MODEL_ARMOR": ("refused", "a Model Armor rule blocked it"),
    "JAILBREAK": ("refused", "it looks like an attempt to bypass the rules"),
    "BLOCKED_REASON_UNSPECIFIED": ("retry", "no reason was given"),
}

_NO_REASON = ("STOP", "FINISH_REASON_UNSPECIFIED")


def without_image(finish_reason: str | None) -> Refused | Transient | Misconfigured:
    """Return the error for an answer without an image; its code is the reason in lower case or `no_image`."""
    reason = finish_reason or "FINISH_REASON_UNSPECIFIED"
    verdict, why = FINISH_REASONS.get(reason, ("retry", "unknown reason"))
    known = reason in FINISH_REASONS and reason not in _NO_REASON
    code = reason.lower() if known else "no_image"
    summary = {
        "refused": "Gemini refused this image",
        "retry": "Gemini answered without an image",
        "misconfigured": "Gemini is not available for this account",
    }
    return _error(verdict, code, f"{summary[verdict]}: {why}{_shown(reason)}.")


def blocked(block_reason: str) -> Refused | Transient | Misconfigured:
    """Return the error for a blocked prompt; its code is `blocked_` and the reason in lower case."""
    verdict, why = BLOCK_REASONS.get(block_reason, ("retry", "unknown reason"))
    known = block_reason in BLOCK_REASONS
    code = block_reason.lower().removeprefix("blocked_reason_") if known else "unknown"
    return _error(verdict, f"blocked_{code}", f"Gemini blocked the prompt: {why}{_shown(block_reason)}.")


def _error(verdict: Verdict, code: str, message: str) -> Refused | Transient | Misconfigured:
    if verdict == "refused":
        return Refused(code, message)
    return Misconfigured(code, message) if verdict == "misconfigured" else Transient(code, message)


def _shown(reason: str) -> str:
    return f" ({reason})" if constant(reason) else ""
