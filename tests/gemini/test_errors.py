"""The meaning of each HTTP error of the Gemini API, by status code and details."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.simulator.exhausted import Exhausted, Json, body
from local.simulator.reply import UNREADABLE
from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoUnprocessed,
    RateLimited,
    Transient,
)
from worker.gemini.errors import rejection

RPC = "type.googleapis.com/google.rpc."


def error(status: str, *details: Json) -> Json:
    return {"error": {"code": 0, "message": "the prompt", "status": status, "details": list(details)}}


def reason(name: str) -> Json:
    return {"@type": f"{RPC}ErrorInfo", "reason": name, "domain": "googleapis.com"}


FIELD = {
    "@type": f"{RPC}BadRequest",
    "fieldViolations": [{"field": "contents[0].parts[2]", "description": "x"}],
}
RETRY = {"@type": f"{RPC}RetryInfo", "retryDelay": "9s"}
NOTHING: Json = {}

MEANINGS: list[tuple[int, Json, type[GenerationError], str]] = [
    (400, error("INVALID_ARGUMENT", reason("API_KEY_INVALID")), Misconfigured, "api_key_invalid"),
    (
        400,
        error("INVALID_ARGUMENT", reason("API_KEY_IP_ADDRESS_BLOCKED")),
        Misconfigured,
        "api_key_ip_address_blocked",
    ),
    (400, error("INVALID_ARGUMENT", reason("BILLING_DISABLED")), Misconfigured, "billing_disabled"),
    (400, error("FAILED_PRECONDITION"), Misconfigured, "failed_precondition"),
    (400, error("INVALID_ARGUMENT", FIELD), BadInput, "invalid_argument"),
    (400, error("OUT_OF_RANGE"), BadInput, "invalid_argument"),
    (400, NOTHING, BadInput, "invalid_argument"),
    (401, error("UNAUTHENTICATED"), Misconfigured, "unauthenticated"),
    (402, NOTHING, Misconfigured, "http_402"),
    (403, error("PERMISSION_DENIED", reason("SERVICE_DISABLED")), Misconfigured, "permission_denied"),
    (403, NOTHING, Misconfigured, "http_403"),
    (404, error("NOT_FOUND"), ModelRetired, "model_not_found"),
    (404, {"message": "<html>", "status": "Not Found"}, Misconfigured, "not_found"),
    (408, NOTHING, Transient, "http_408"),
    (409, error("ABORTED"), Transient, "aborted"),
    (413, NOTHING, BadInput, "request_too_large"),
    (499, error("CANCELLED"), Transient, "cancelled"),
    (500, error("INTERNAL"), Transient, "internal"),
    (502, {"message": "<html>", "status": "Bad Gateway"}, Transient, "http_502"),
    (503, error("UNAVAILABLE"), Transient, "unavailable"),
    (504, error("DEADLINE_EXCEEDED"), Transient, "deadline_exceeded"),
    (
        429,
        error("RESOURCE_EXHAUSTED", reason("MODEL_CAPACITY_EXHAUSTED")),
        Transient,
        "model_capacity_exhausted",
    ),
    (503, error("UNAVAILABLE", reason("MODEL_CAPACITY_EXHAUSTED")), Transient, "model_capacity_exhausted"),
    (302, NOTHING, Transient, "http_302"),
    (418, NOTHING, Transient, "http_418"),
]


@pytest.mark.parametrize(("status_code", "decoded", "kind", "code"), MEANINGS)
def test_a_status_becomes_what_the_caller_does(
    status_code: int, decoded: Json, kind: type[GenerationError], code: str
) -> None:
    """HTTP code, canonical status and detail types decide, and no text of the answer is passed on."""
    found = rejection(status_code, decoded, None, "m")
    assert type(found) is kind
    assert found.code == code
    assert "the prompt" not in str(found)
    assert "html" not in str(found)


def test_bad_input_names_the_field() -> None:
    """The path of the field that Google complains about helps whoever reads the reason."""
    assert "contents[0].parts[2]" in rejection(400, error("INVALID_ARGUMENT", FIELD), None, "m").message


def test_an_overload_beside_a_quota_is_the_quota() -> None:
    """A quota that is named counts, so that the gate learns it."""
    named = {
        "@type": f"{RPC}QuotaFailure",
        "violations": [{"quotaId": "RequestsPerMinute", "quotaValue": "9"}],
    }
    decoded = error("RESOURCE_EXHAUSTED", reason("MODEL_CAPACITY_EXHAUSTED"), named)
    assert isinstance(rejection(429, decoded, None, "m"), RateLimited)


def test_an_overloads_delay_is_heard() -> None:
    """A 429 for Google's own capacity names its delay as a 503 does."""
    decoded = error("RESOURCE_EXHAUSTED", reason("MODEL_CAPACITY_EXHAUSTED"), RETRY)
    found = rejection(429, decoded, "3", "m")
    assert isinstance(found, Transient)
    assert found.retry_after_seconds == 9.0


def test_a_photo_that_gemini_cannot_process_is_worth_another_try() -> None:
    """Google asks for a retry; a second failure is the photo's fault."""
    decoded = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": UNREADABLE}}
    found = rejection(400, decoded, None, "m")
    assert isinstance(found, PhotoUnprocessed)
    assert "photo" in found.as_bad_input().message
    assert "Unable" not in str(found)


def test_a_country_that_gemini_does_not_serve_is_misconfigured() -> None:
    """The order is not the cause: every request fails until the operator acts."""
    text = "Image generation is not available in your country"
    decoded = {"error": {"code": 400, "status": "FAILED_PRECONDITION", "message": text}}
    found = rejection(400, decoded, None, "m")
    assert type(found) is Misconfigured
    assert "locations" in found.message


def test_only_google_retires_a_model() -> None:
    """A 404 that is not Google's own stops the run, but changes no model: the successor costs more."""
    strangers: list[object] = [NOTHING, [], "x", None, {"error": "x"}, {"error": {"status": "OTHER"}}]
    for decoded in strangers:
        assert type(rejection(404, decoded, None, "m")) is Misconfigured
    retired = rejection(404, error("NOT_FOUND"), None, "gemini-2.5-flash-image")
    assert isinstance(retired, ModelRetired)
    assert retired.model == "gemini-2.5-flash-image"


@pytest.mark.parametrize(
    ("decoded", "header", "seconds"),
    [
        (error("UNAVAILABLE", RETRY), None, 9.0),
        (error("UNAVAILABLE"), "30", 30.0),
        (error("UNAVAILABLE", RETRY), "30", 30.0),
        (error("UNAVAILABLE", RETRY), "3", 9.0),
        (NOTHING, "Fri, 31 Dec 1999 23:59:59 GMT", None),
        (NOTHING, "-1", None),
        (NOTHING, None, None),
    ],
)
def test_the_servers_delay_is_a_lower_bound(decoded: Json, header: str | None, seconds: float | None) -> None:
    """`RetryInfo` and Retry-After both count; the longer one wins."""
    found = rejection(503, decoded, header, "m")
    assert isinstance(found, Transient)
    assert found.retry_after_seconds == seconds


def test_a_429_takes_the_header_only_where_the_body_is_silent() -> None:
    """`RetryInfo` is more precise than the header."""
    silent = rejection(429, body("bare", Exhausted("m")), "12", "m")
    assert isinstance(silent, RateLimited)
    assert silent.facts.retry_after_seconds == 12.0
    telling = rejection(429, body("full", Exhausted("m")), "12", "m")
    assert isinstance(telling, RateLimited)
    assert telling.facts.retry_after_seconds == 47.0


@given(
    st.integers(100, 599),
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "status", "details", "errors", "reason", "@type"]), inner
            )
        ),
        max_leaves=12,
    ),
    st.none() | st.text(),
)
def test_any_answer_gives_an_error(status_code: int, decoded: object, header: str | None) -> None:
    """No status, body or header makes the translation itself fail."""
    assert isinstance(rejection(status_code, decoded, header, "m"), GenerationError)
