"""Verifies Google's ID tokens: signature, issuer, audience and account. Caches Google's certificates.

Imports google-auth only at the first token, so that an instance that is called with a secret starts faster.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.http.auth import REMOVED_SIGNATURE, CertificatesUnreachable, InvalidToken, SignatureRemoved

TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Three parts of URL-safe base64. Python's decoder ignores other characters, so IAM could have read another
token than we do."""

NOT_GOOGLES = "the bearer is not an ID token signed by Google"
ISSUERS = ("accounts.google.com", "https://accounts.google.com")
CLOCK_SKEW_SECONDS = 10
FETCH_SECONDS = 5.0
FAILURE_SECONDS = 10.0
"""A failed fetch is cached this long, since each new one could block a thread for FETCH_SECONDS."""

MAX_CACHE_SECONDS = 24 * 3600.0
"""Google publishes a key longer than this before it signs with it; its max-age is about 6 hours."""


class Certificates(Protocol):
    """A response of the certificate endpoint, as google-auth expects it."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def data(self) -> bytes: ...


Fetch = Callable[..., Certificates]


def fetch_now(url: str, **options: Any) -> Certificates:
    """Fetch over a new `requests` session. Raises google-auth's TransportError."""
    from google.auth.transport.requests import Request

    answer: Certificates = Request()(url, **options)
    return answer


class CachedFetch:
    """A `google.auth.transport.Request` that caches each response for its max-age.

    A token with an unknown key id does not cause a fetch, or forged tokens could cause any number of them.
    """

    def __init__(self, fetch: Fetch = fetch_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Certificates | CertificatesUnreachable]] = {}

    def __call__(self, url: str, method: str = "GET", **_options: Any) -> Certificates:
        """The certificates at `url`. Concurrent callers share one fetch and its failure.

        Raises CertificatesUnreachable, also if the response contains none (such as a proxy's error page).
        """
        with self._lock:
            until, kept = self._kept.get(url, (0.0, None))
            if kept is None or self._monotonic() >= until:
                kept = self._fetched(url, method)
        if isinstance(kept, CertificatesUnreachable):
            raise CertificatesUnreachable(str(kept))
        return kept

    def _fetched(self, url: str, method: str) -> Certificates | CertificatesUnreachable:
        """Fetch, and cache the response or the failure."""
        from google.auth.exceptions import TransportError

        asked_at = self._monotonic()
        answer: Certificates | CertificatesUnreachable
        try:
            answer = self._fetch(url, method=method, timeout=FETCH_SECONDS)
        except TransportError as exc:
            answer = CertificatesUnreachable(type(exc).__name__)
        else:
            if not _holds_certificates(answer):
                answer = CertificatesUnreachable(f"status {answer.status} without certificates")
        if isinstance(answer, CertificatesUnreachable):
            until = self._monotonic() + FAILURE_SECONDS
        else:
            until = asked_at + _fresh_seconds(answer.headers)
        self._kept[url] = (until, answer)
        return answer


def _holds_certificates(answer: Certificates) -> bool:
    if answer.status != 200:
        return False
    try:
        found = json.loads(answer.data)
    except ValueError:
        return False
    return isinstance(found, dict) and all(isinstance(pem, str) for pem in found.values())


def _fresh_seconds(headers: Mapping[str, str]) -> float:
    control = headers.get("Cache-Control", "").lower()
    age = headers.get("Age", "0")
    found = re.search(r"\bmax-age=(\d{1,9})\b", control)
    if found is None or "no-store" in control or "no-cache" in control:
        return 0.0
    return min(float(found[1]) - (float(age) if age.isdecimal() else 0.0), MAX_CACHE_SECONDS)


@dataclass(frozen=True, slots=True)
class GoogleTokens:
    """Accepts a token for exactly `audience`, of exactly `service_account`, with `email_verified`.

    `behind_iam` states that Cloud Run's IAM checks the token of every request. IAM then removes the signature
    (Cloud Run, "Token signature is redacted"), and the remaining claims are trusted.
    """

    audience: str
    service_account: str
    fetch: Fetch = field(default_factory=CachedFetch)
    behind_iam: bool = False
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.audience or not self.service_account:
            # google-auth accepts any audience if it is given None.
            raise ValueError("audience and service account are both required")

    def verify(self, token: str) -> None:
        """Return if the token is valid. Raises only InvalidToken and CertificatesUnreachable."""
        if not TOKEN.fullmatch(token):
            raise InvalidToken(NOT_GOOGLES)
        if not token.endswith(REMOVED_SIGNATURE):
            claims = self._checked_by_us(token)
        elif self.behind_iam:
            claims = self._checked_by_iam(token)
        else:
            raise SignatureRemoved("the token's signature has been removed")
        if claims.get("email") != self.service_account or claims.get("email_verified") is not True:
            raise InvalidToken("the token's account is not OIDC_SERVICE_ACCOUNT")

    def _checked_by_iam(self, token: str) -> Mapping[str, Any]:
        claims = _claims(token)
        ends = claims.get("exp")
        if isinstance(ends, bool) or not isinstance(ends, int | float):
            raise InvalidToken(NOT_GOOGLES)
        if claims.get("iss") not in ISSUERS or claims.get("aud") != self.audience:
            raise InvalidToken("the token's audience is not OIDC_AUDIENCE, or its issuer is not Google")
        if not ends > self.now() - CLOCK_SKEW_SECONDS:
            raise InvalidToken("the token has expired")
        return claims

    def _checked_by_us(self, token: str) -> Mapping[str, Any]:
        from google.auth.exceptions import InvalidValue
        from google.oauth2 import id_token

        verify: Callable[..., Mapping[str, Any]] = id_token.verify_oauth2_token
        try:
            return verify(token, self.fetch, audience=self.audience, clock_skew_in_seconds=CLOCK_SKEW_SECONDS)
        except CertificatesUnreachable:
            raise
        except InvalidValue as exc:
            raise InvalidToken(self._why(token)) from exc
        except Exception as exc:  # the token is untrusted input, which may make a parser raise anything
            raise InvalidToken(NOT_GOOGLES) from exc

    def _why(self, token: str) -> str:
        """The likely reason why a well-formed token is invalid; names settings, but no values."""
        if _claims(token).get("aud") != self.audience:
            return "the token's audience is not OIDC_AUDIENCE"
        return "the token has expired, is not valid yet, or is not signed by Google"


def _claims(token: str) -> Mapping[str, Any]:
    """The token's claims, unverified. Raises InvalidToken if they are not a JSON object."""
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError) as exc:
        raise InvalidToken(NOT_GOOGLES) from exc
    if not isinstance(claims, dict):
        raise InvalidToken(NOT_GOOGLES)
    return claims
