"""Whatever a token claims, the verifier raises only its own errors."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import example, given
from hypothesis import strategies as st

from tests.http.test_auth import ACCOUNT, AUDIENCE, KEY, certificate
from worker.http.auth import REMOVED_SIGNATURE, CertificatesUnreachable, InvalidToken
from worker.http.oidc import GoogleTokens

DEEP = "[" * 1200
NOW = int(time.time())
GOOD = {
    "iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT, "email_verified": True,
    "iat": NOW, "exp": NOW + 3600,
}  # fmt: skip

huge = st.sampled_from([10**400, -(10**400), 10**4000, 1e308, float("inf"), float("-inf"), float("nan")])
plain = st.none() | st.booleans() | st.integers() | st.floats() | huge | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
claims = st.dictionaries(st.sampled_from(sorted(GOOD)), values) | values
headers = st.fixed_dictionaries(
    {}, optional={"alg": st.just("RS256") | values, "kid": st.just("one") | values}
)
texts = st.builds(lambda parts: ".".join(parts), st.lists(st.text(max_size=20), max_size=5)) | st.text()


@dataclass(frozen=True, slots=True)
class Published:
    """The response with Google's certificates."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = json.dumps({"one": certificate(KEY)}).encode()


def fetch(_url: str, **_options: object) -> Published:
    """Answers like Google's endpoint for certificates."""
    return Published()


TRUSTING = GoogleTokens(AUDIENCE, ACCOUNT, fetch, behind_iam=True)
CHECKING = GoogleTokens(AUDIENCE, ACCOUNT, fetch)


def encoded(part: bytes) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def is_good(verifier: GoogleTokens, token: str) -> bool:
    """Whether the verifier accepts a token; any error except these two fails the test."""
    try:
        verifier.verify(token)
    except (InvalidToken, CertificatesUnreachable):
        return False
    return True


def signed(head: dict[str, Any], payload: bytes) -> str:
    """A token with Google's signature."""
    text = f"{encoded(json.dumps(head).encode())}.{encoded(payload)}"
    return f"{text}.{encoded(KEY.sign(text.encode(), PKCS1v15(), SHA256()))}"


@given(texts)
@example("a.b.c")
@example("Zm9v.Zm9v.Zm9v")
@example("\udcff.\udcff.\udcff")
@example(f"e30.{encoded(DEEP.encode())}.e30")
@example(f"e30.{encoded(bytes([255, 254]))}.e30")
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    """The text is refused with and without the signature that IAM leaves."""
    for token in (text, text + REMOVED_SIGNATURE):
        assert not is_good(TRUSTING, token)
        assert not is_good(CHECKING, token)


@given(claims, headers)
@example(GOOD | {"exp": 10**400}, {})
@example(GOOD | {"exp": float("nan")}, {})
@example(GOOD | {"exp": True}, {})
@example(GOOD | {"exp": "9999999999"}, {})
@example(GOOD | {"aud": [AUDIENCE]}, {})
@example(GOOD | {"email": [ACCOUNT]}, {})
def test_only_the_right_claims_are_accepted_behind_iam(payload: object, head: dict[str, Any]) -> None:
    """A token is accepted only if issuer, audience, account and time are right."""
    token = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(payload).encode())}{REMOVED_SIGNATURE}"
    assert not is_good(CHECKING, token)
    if is_good(TRUSTING, token):
        assert isinstance(payload, dict)
        assert {name: payload[name] for name in ("iss", "aud", "email")} == {
            name: GOOD[name] for name in ("iss", "aud", "email")
        }
        assert payload["email_verified"] is True
        assert type(payload["exp"]) in (int, float) and payload["exp"] > NOW - 60


@given(claims, headers)
@example(GOOD, {"alg": "RS256", "kid": "one"})
@example(GOOD | {"exp": 10**400}, {"alg": "RS256", "kid": "one"})
@example(GOOD | {"iat": 10**400}, {"alg": "RS256", "kid": "one"})
@example(GOOD | {"iat": "now"}, {"alg": "RS256", "kid": ["one"]})
@example({**GOOD, "iss": {}}, {"alg": "RS256", "kid": "one"})
@example(GOOD, {"alg": {}, "kid": "one"})
def test_any_signed_claims_are_accepted_or_refused_without_an_error(
    payload: object, head: dict[str, Any]
) -> None:
    """A signature does not make its contents safe."""
    is_good(CHECKING, signed(head, json.dumps(payload).encode()))


def test_the_examples_are_close_to_a_good_token() -> None:
    """The unmodified token is accepted, so each case differs from it only as stated."""
    payload = json.dumps(GOOD).encode()
    assert is_good(CHECKING, signed({"alg": "RS256", "kid": "one"}, payload))
    assert is_good(TRUSTING, f"e30.{encoded(payload)}{REMOVED_SIGNATURE}")
