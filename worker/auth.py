"""Who may start the worker: the holder of its secret, or the one service account that Google vouches for.

Either suffices. With neither configured nobody is served, save a developer on this very machine.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from worker import log
from worker.request import RequestRefused

SECRET_HEADER = "X-Worker-Secret"  # noqa: S105 - a header's name; never Authorization, which IAM needs
MAX_TOKEN_LENGTH = 4096
"""Google's ID tokens have about 1 000 characters."""

# Whatever a proxy adds to tell where a request came from. One of them on a loopback connection means
# that the caller sits elsewhere.
FORWARDING_HEADERS = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
)

# What Cloud Run's IAM check leaves of a token: header and claims, and this in the signature's place
# (Cloud Run troubleshooting, "Token signature is redacted").
REMOVED_SIGNATURE = ".SIGNATURE_REMOVED_BY_GOOGLE"


class InvalidToken(Exception):
    """The token proves nothing; the message says why, without quoting it."""


class SignatureRemoved(InvalidToken):
    """Cloud Run's IAM check has taken the signature off the token."""


class CertificatesUnreachable(Exception):
    """Google's certificates cannot be had, so no token can be judged now."""


class TokenVerifier(Protocol):
    """Judges a Google ID token. Blocks, so it runs in a thread."""

    def verify(self, token: str) -> None:
        """Return if the token is good. Raises InvalidToken and CertificatesUnreachable."""
        ...


@dataclass(frozen=True, slots=True)
class Guard:
    """Admits or refuses callers. `hosted` = on Cloud Run or another cluster, where loopback is a sidecar."""

    secret: str | None = field(repr=False)
    verifier: TokenVerifier | None
    hosted: bool

    @property
    def is_configured(self) -> bool:
        """Whether there is a credential that callers could show."""
        return bool(self.secret) or self.verifier is not None

    async def admit(self, headers: Mapping[str, str], client_host: str | None) -> None:
        """Return if the caller may go on; else RequestRefused: 401, 403, or 503 if it cannot be judged.

        `headers` looks names up in any case; `client_host` is the address of the connection.
        """
        if not self.is_configured:
            if self.hosted or not is_local_developer(headers, client_host):
                raise _unconfigured()
            return
        if self._knows_secret(headers):
            return
        bearer = _bearer(headers)
        if self.verifier is not None and bearer is not None:
            await self._check_token(self.verifier, bearer)
            return
        raise self._unauthorized(headers)

    def _knows_secret(self, headers: Mapping[str, str]) -> bool:
        given = headers.get(SECRET_HEADER)
        if not self.secret or given is None:
            return False
        # A server decodes header bytes as Latin-1: undone here, so that a secret may be any UTF-8.
        return hmac.compare_digest(given.encode("latin-1", "replace"), self.secret.encode("utf-8"))

    async def _check_token(self, verifier: TokenVerifier, token: str) -> None:
        if len(token) > MAX_TOKEN_LENGTH:
            raise self._refuse("invalid_token", "the bearer is too long for a Google ID token")
        try:
            await asyncio.to_thread(verifier.verify, token)
        except SignatureRemoved as exc:
            raise _signature_removed() from exc
        except InvalidToken as exc:
            raise self._refuse("invalid_token", str(exc)) from exc
        except CertificatesUnreachable as exc:
            log.event("certificates_unreachable", level="warning", reason=str(exc))
            raise RequestRefused(
                503,
                "certificates_unreachable",
                "Google's certificates could not be fetched, so the token cannot be checked",
                f"try again, or send {SECRET_HEADER}",
                {"Retry-After": "10"},
            ) from exc

    def _unauthorized(self, headers: Mapping[str, str]) -> RequestRefused:
        if self.secret and SECRET_HEADER in headers:
            return self._refuse("wrong_secret", f"{SECRET_HEADER} does not match the setting WORKER_SECRET")
        return self._refuse("no_credentials", "the request carries no credential that is accepted here")

    def _refuse(self, code: str, message: str) -> RequestRefused:
        ways = []
        if self.secret:
            ways.append(f"the worker's secret in the header {SECRET_HEADER}")
        if self.verifier is not None:
            ways.append("a Google ID token in the header Authorization: Bearer")
        headers = {"WWW-Authenticate": "Bearer"} if self.verifier is not None else {}
        return RequestRefused(401, code, message, f"send {' or '.join(ways)}", headers)


def is_local_developer(headers: Mapping[str, str], client_host: str | None) -> bool:
    """True if the request was made on this machine, by no proxy, and by no page of another site.

    Host and Origin are looked at because a browser on this machine sends what any page tells it to,
    also to a name of the page's own that resolves to 127.0.0.1 (DNS rebinding).
    """
    if any(name in headers for name in FORWARDING_HEADERS):
        return False
    origin = headers.get("origin")
    if origin is not None and not _is_loopback(_host_of(origin)):
        return False
    return _is_loopback(client_host) and _is_loopback(_host_of(f"//{headers.get('host', '')}"))


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unconfigured() -> RequestRefused:
    return RequestRefused(
        403,
        "no_credentials_configured",
        "the worker serves nobody as long as it has no credential to check",
        "set WORKER_SECRET, or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT",
    )


def _signature_removed() -> RequestRefused:
    # Accepting such a token rests on the service being closed by IAM, which we cannot see from here: once it
    # is opened, anybody could write one. So somebody has to say that it is.
    return RequestRefused(
        401,
        "token_signature_removed",
        "Cloud Run's IAM check has taken the signature off the token, so it proves nothing any more",
        "if only this service account may invoke the service, set OIDC_CHECKED_BY=cloud-run; "
        f"or let the caller send WORKER_SECRET in {SECRET_HEADER}, beside the token that IAM wants",
        {"WWW-Authenticate": "Bearer"},
    )
