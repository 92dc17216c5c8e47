"""Google's ID tokens: signature, issuer, audience and account, certificates fetched once per max-age.

Imports google-auth only when the first token comes: an instance that is called by secret never pays for it.
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
"""Three parts of URL-safe base64. Python's decoder skips all else, so IAM may have read another text."""

NOT_GOOGLES = "the bearer is no ID token that Google has signed"
ISSUERS = ("accounts.google.com", "https://accounts.google.com")
CLOCK_SKEW_SECONDS = 10
FETCH_SECONDS = 5.0
FAILURE_SECONDS = 10.0
"""So long a failed fetch answers for the next ones, which would keep a thread for FETCH_SECONDS each."""

MAX_CACHE_SECONDS = 24 * 3600.0
"""Google announces keys longer than this before it signs with them; its max-age is about 6 hours."""


class Certificates(Protocol):
    """An answer of the certificate endpoint, as google-auth reads it."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def data(self) -> bytes: ...


Fetch = Callable[..., Certificates]


def fetch_now(url: str, **options: Any) -> Certificates:
    """Fetch over a fresh `requests` session; raises google-auth's TransportError."""
    from google.auth.transport.requests import Request

    answer: Certificates = Request()(url, **options)
    return answer


class CachedFetch:
    """A `google.auth.transport.Request` that asks again only after the answer's max-age (seconds, monotonic).

    An unknown key id does not make it ask earlier: whoever sends forged tokens would decide how often.
    """

    def __init__(self, fetch: Fetch = fetch_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Certificates | CertificatesUnreachable]] = {}

    def __call__(self, url: str, method: str = "GET", **_options: Any) -> Certificates:
        """The certificates at `url`; callers at the same time share one fetch, and its failure.

        Raises CertificatesUnreachable, also for an answer that holds none, such as a proxy's page.
        """
        with self._lock:
            until, kept = self._kept.get(url, (0.0, None))
            if kept is None or self._monotonic() >= until:
                kept = self._fetched(url, method)
        if isinstance(kept, CertificatesUnreachable):
            raise CertificatesUnreachable(str(kept))
        return kept

    def _fetched(self, url: str, method: str) -> Certificates | CertificatesUnreachable:
        """Fetch, and keep what came of it."""
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
    """Good is a token for exactly `audience`, of exactly `service_account`, and `email_verified`.

    `behind_iam` says that Cloud Run lets nobody through whose token it has not checked itself: it then takes
    the signature off (Cloud Run, "Token signature is redacted"), and what is left is believed.
    """

    audience: str
    service_account: str
    fetch: Fetch = field(default_factory=CachedFetch)
    behind_iam: bool = False
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.audience or not self.service_account:
            raise ValueError(
                "audience and service account must both be given: google-auth takes None for any"
            )

    def verify(self, token: str) -> None:
        """Return if the token is good. Raises InvalidToken and CertificatesUnreachable, and nothing else."""
        if not TOKEN.fullmatch(token):
            raise InvalidToken(NOT_GOOGLES)
        if not token.endswith(REMOVED_SIGNATURE):
            claims = self._checked_by_us(token)
        elif self.behind_iam:
            claims = self._checked_by_iam(token)
        else:
            raise SignatureRemoved("the token's signature has been removed")
        if claims.get("email") != self.service_account or claims.get("email_verified") is not True:
            raise InvalidToken("the token is not of the account named by OIDC_SERVICE_ACCOUNT")

    def _checked_by_iam(self, token: str) -> Mapping[str, Any]:
        claims = _claims(token)
        ends = claims.get("exp")
        if isinstance(ends, bool) or not isinstance(ends, int | float):
            raise InvalidToken(NOT_GOOGLES)
        if claims.get("iss") not in ISSUERS or claims.get("aud") != self.audience:
            raise InvalidToken("the token's audience is not OIDC_AUDIENCE, or it is not Google's")
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
        except Exception as exc:  # a stranger chose the token, so it may make a parser raise anything
            raise InvalidToken(NOT_GOOGLES) from exc

    def _why(self, token: str) -> str:
        """The likeliest mistake of a well-formed token; tells names of settings, no values."""
        if _claims(token).get("aud") != self.audience:
            return "the token's audience is not OIDC_AUDIENCE"
        return "the token has expired, is not valid yet, or is signed in a way that Google does not use"


def _claims(token: str) -> Mapping[str, Any]:
    """What a token claims, unchecked. Raises InvalidToken if it is no JSON object."""
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError) as exc:
        raise InvalidToken(NOT_GOOGLES) from exc
    if not isinstance(claims, dict):
        raise InvalidToken(NOT_GOOGLES)
    return claims
