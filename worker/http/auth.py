"""Who may reach which path: the clock, by its secret or the one service account that Google vouches for, and
the operator, by another secret. The clock starts runs; the operator sees and changes customers' things.

Where no credential is configured nobody is served, save a developer on this machine who asked for it
(WORKER_DEVELOPMENT).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from worker import log
from worker.http.validation import RequestRefused

SECRET_HEADER = "X-Worker-Secret"  # noqa: S105 - a header's name; never Authorization, which IAM needs
OPERATOR_HEADER = "X-Operator-Secret"
MAX_TOKEN_LENGTH = 4096
"""Google's ID tokens have about 1 000 characters."""

# Cloud Run's IAM looks at the first of these that a request has, and at no other (Cloud Run, "Authenticating
# service-to-service"): what stands in the other one is not checked by anybody.
TOKEN_HEADERS = ("x-serverless-authorization", "authorization")

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


class Caller(Flag):
    """Who may reach a path; no member: everybody."""

    CLOCK = auto()
    OPERATOR = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Admits or refuses callers. With `development` and no credential at all, this machine is served."""

    worker_secret: str | None = field(default=None, repr=False)
    operator_secret: str | None = field(default=None, repr=False)
    verifier: TokenVerifier | None = None
    development: bool = False

    @property
    def configured(self) -> Caller:
        """The callers for whom there is a credential that they could show."""
        clock = Caller.CLOCK if self.worker_secret or self.verifier is not None else Caller(0)
        return clock | (Caller.OPERATOR if self.operator_secret else Caller(0))

    async def admit(self, headers: Headers, client_host: str | None, allowed: Caller) -> None:
        """Return if one of the `allowed` asks; else RequestRefused: 401, 403, or 503 if it cannot be judged.

        `client_host` is the address of the connection.
        """
        if not self.configured and self.development and is_local_developer(headers, client_host):
            return
        if not allowed & self.configured:
            raise _not_local() if self.development and not self.configured else _unconfigured(allowed)
        shown = self._by_secret(headers)
        if shown & allowed:
            return
        bearer = _bearer(headers)
        # On an operator's path a token only decides what the refusal says, and a wrong secret says more.
        judged = Caller.CLOCK in allowed or not (shown or OPERATOR_HEADER in headers)
        if judged and self.verifier is not None and bearer is not None:
            await self._check_token(self.verifier, bearer, allowed)
            shown |= Caller.CLOCK
        if shown & allowed:
            return
        raise self._wrong_kind(allowed) if shown else self._unauthorized(headers, allowed)

    def _secrets(self) -> tuple[tuple[Caller, str, str, str], ...]:
        """Whose, its header, its setting and its value, for each secret that is configured."""
        both = (
            (Caller.CLOCK, SECRET_HEADER, "WORKER_SECRET", self.worker_secret),
            (Caller.OPERATOR, OPERATOR_HEADER, "OPERATOR_SECRET", self.operator_secret),
        )
        return tuple((caller, header, name, secret) for caller, header, name, secret in both if secret)

    def _by_secret(self, headers: Headers) -> Caller:
        shown = Caller(0)
        for caller, header, _, secret in self._secrets():
            # A server decodes header bytes as Latin-1: undone here, so that a secret may be any UTF-8.
            given = headers.get(header, "").encode("latin-1", "replace")
            if hmac.compare_digest(given, secret.encode("utf-8")):
                shown |= caller
        return shown

    async def _check_token(self, verifier: TokenVerifier, token: str, allowed: Caller) -> None:
        if len(token) > MAX_TOKEN_LENGTH:
            raise self._refuse("invalid_token", "the bearer is too long for a Google ID token", allowed)
        try:
            await asyncio.to_thread(verifier.verify, token)
        except SignatureRemoved as exc:
            raise _signature_removed() from exc
        except InvalidToken as exc:
            raise self._refuse("invalid_token", str(exc), allowed) from exc
        except CertificatesUnreachable as exc:
            log.event("certificates_unreachable", level="warning", reason=str(exc))
            raise RequestRefused(
                503,
                "certificates_unreachable",
                "Google's certificates could not be fetched, so the token cannot be checked",
                f"try again, or {self._ways(allowed)}",
                {"Retry-After": "10"},
            ) from exc

    def _unauthorized(self, headers: Headers, allowed: Caller) -> RequestRefused:
        for caller, header, name, _ in self._secrets():
            if caller in allowed and header in headers:
                return self._refuse("wrong_secret", f"{header} does not match the setting {name}", allowed)
        message = "the request carries no credential that is accepted here"
        return self._refuse("no_credentials", message, allowed)

    def _wrong_kind(self, allowed: Caller) -> RequestRefused:
        """The credential is good, but for other paths."""
        if allowed == Caller.OPERATOR:
            message = "this path shows or changes what customers ordered: the clock may not reach it"
            return RequestRefused(403, "operator_only", message, self._ways(allowed))
        message = "only the clock may start runs and sweeps: the operator's secret does not"
        return RequestRefused(403, "clock_only", message, self._ways(allowed))

    def _refuse(self, code: str, message: str, allowed: Caller) -> RequestRefused:
        by_token = self.verifier is not None and Caller.CLOCK in allowed
        headers = {"WWW-Authenticate": "Bearer"} if by_token else {}
        return RequestRefused(401, code, message, self._ways(allowed), headers)

    def _ways(self, allowed: Caller) -> str:
        """What a caller may send here."""
        ways = [
            f"{name} in the header {header}" for who, header, name, _ in self._secrets() if who in allowed
        ]
        if self.verifier is not None and Caller.CLOCK in allowed:
            ways.append("a Google ID token in the header Authorization: Bearer")
        return f"send {' or '.join(ways)}"


def is_local_developer(headers: Headers, client_host: str | None) -> bool:
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


def _bearer(headers: Headers) -> str | None:
    """The token that Cloud Run's IAM would have checked, if there is exactly one."""
    name = next((name for name in TOKEN_HEADERS if name in headers), "")
    given = headers.getlist(name)
    scheme, _, token = given[0].strip().partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unconfigured(allowed: Caller) -> RequestRefused:
    if allowed == Caller.OPERATOR:
        return RequestRefused(
            403,
            "operator_secret_missing",
            "OPERATOR_SECRET is not set, so nobody may see or change here what customers ordered",
            "set OPERATOR_SECRET (openssl rand -hex 32; not WORKER_SECRET's text), and restart the worker",
        )
    return RequestRefused(
        403,
        "no_credentials_configured",
        "the worker serves nobody as long as it has no credential to check",
        "set WORKER_SECRET, or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT; "
        "on a developer's own machine WORKER_DEVELOPMENT=1 does without",
    )


def _not_local() -> RequestRefused:
    return RequestRefused(
        403,
        "no_credentials_configured",
        "WORKER_DEVELOPMENT=1 serves only this machine: requests to localhost, "
        "through no proxy and from no page of another site",
        "call it as http://localhost, or set WORKER_SECRET and OPERATOR_SECRET",
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
