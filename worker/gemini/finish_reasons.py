"""What a 200 without an image means, by `finishReason` and `promptFeedback.blockReason`; imports no vendor.

Reasons: `FinishReason` and `BlockedReason` of google-genai 3.6.1. An unknown one is worth another try.
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
    "BLOCKLIST": ("refused", "it holds a term from a blocklist"),
    "SPII": ("refused", "it may hold sensitive personal data"),
    "RECITATION": ("refused", "it may copy a protected work"),
    "IMAGE_SAFETY": ("refused", "the picture may violate the safety policies"),
    "IMAGE_PROHIBITED_CONTENT": ("refused", "the picture may show prohibited content"),
    "IMAGE_RECITATION": ("refused", "the picture may copy a protected work"),
    "MODEL_ARMOR": ("refused", "a Model Armor rule blocked it"),
    "STOP": ("retry", "it ended without a picture"),
    "FINISH_REASON_UNSPECIFIED": ("retry", "no reason was given"),
    "NO_IMAGE": ("retry", "it should have made a picture and did not"),
    "IMAGE_OTHER": ("retry", "making the picture stopped for a reason not named"),
    "OTHER": ("retry", "it stopped for a reason not named"),
    "MALFORMED_RESPONSE": ("retry", "the answer came out malformed"),
    "MAX_TOKENS": ("retry", "it ran out of output tokens"),
    "CONTINUATION": ("retry", "it stopped half-way, at the limit of one request"),
    "MALFORMED_FUNCTION_CALL": ("retry", "it tried to call a function"),
    "UNEXPECTED_TOOL_CALL": ("retry", "it tried to call a tool"),
    "TOO_MANY_TOOL_CALLS": ("retry", "it called tools too often"),
    "MISSING_THOUGHT_SIGNATURE": ("retry", "it missed a thought signature"),
    "LANGUAGE": ("refused", "its language is not supported"),
    "ESCALATION": ("refused", "an escalation rule filtered it"),
    "PUP_LIMITED_DISABLED": ("misconfigured", "the account is limited for violating the use policy"),
}

# OTHER is a refusal: Google documents it as "the prompt's language, or other harmful content", so a repeat
# meets the same block.
BLOCK_REASONS: Mapping[str, tuple[Verdict, str]] = {
    "SAFETY": ("refused", "it may violate the safety policies"),
    "OTHER": ("refused", "for its language or for other harmful content"),
    "BLOCKLIST": ("refused", "it holds a term from a blocklist"),
    "PROHIBITED_CONTENT": ("refused", "it asks for prohibited content"),
    "IMAGE_SAFETY": ("refused", "it is unsafe for making pictures"),
    "MODEL_ARMOR": ("refused", "a Model Armor rule blocked it"),
    "JAILBREAK": ("refused", "it looks like an attempt to get round the rules"),
    "BLOCKED_REASON_UNSPECIFIED": ("retry", "no reason was given"),
}

_NO_REASON = ("STOP", "FINISH_REASON_UNSPECIFIED")


def without_image(finish_reason: str | None) -> Refused | Transient | Misconfigured:
    """Return the error for an answer without an image; its code is the reason in lower case or `no_image`."""
    reason = finish_reason or "FINISH_REASON_UNSPECIFIED"
    verdict, why = FINISH_REASONS.get(reason, ("retry", "for a reason this version does not know"))
    known = reason in FINISH_REASONS and reason not in _NO_REASON
    code = reason.lower() if known else "no_image"
    told = {
        "refused": "Gemini refused this image",
        "retry": "Gemini answered without an image",
        "misconfigured": "Gemini does not serve this account",
    }
    return _error(verdict, code, f"{told[verdict]}: {why}{_shown(reason)}.")


def blocked(block_reason: str) -> Refused | Transient | Misconfigured:
    """Return the error for a prompt that was not let in; its code is `blocked_` and the lower-case reason."""
    verdict, why = BLOCK_REASONS.get(block_reason, ("retry", "for a reason this version does not know"))
    known = block_reason in BLOCK_REASONS
    code = block_reason.lower().removeprefix("blocked_reason_") if known else "unknown"
    return _error(verdict, f"blocked_{code}", f"Gemini blocked the prompt: {why}{_shown(block_reason)}.")


def _error(verdict: Verdict, code: str, message: str) -> Refused | Transient | Misconfigured:
    if verdict == "refused":
        return Refused(code, message)
    return Misconfigured(code, message) if verdict == "misconfigured" else Transient(code, message)


def _shown(reason: str) -> str:
    return f" ({reason})" if constant(reason) else ""
