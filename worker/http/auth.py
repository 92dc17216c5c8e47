"""Checks who may call which path. The clock (Cloud Scheduler or pg_cron) starts runs; it sends WORKER_SECRET
or the Google ID token of one service account. The operator sees and changes orders; it sends OPERATOR_SECRET.

If no credential is configured, every request is refused; with WORKER_DEVELOPMENT=1, those from this machine
are accepted.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from worker import log
from worker.http.validation import RequestRefused

SECRET_HEADER = "X-Worker-Secret"  # noqa: S105 - the name of a header; IAM needs Authorization for itself
OPERATOR_HEADER = "X-Operator-Secret"
MAX_TOKEN_LENGTH = 4096
"""Google's ID tokens have about 1 000 characters."""

# Cloud Run's IAM checks only the first of these headers that a request has (Cloud Run, "Authenticating
# service-to-service"), so the token in the other one is unchecked.
TOKEN_HEADERS = ("x-serverless-authorization", "authorization")

# Headers that a proxy adds. On a loopback connection they mean that the caller is on another machine.
FORWARDING_HEADERS = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
)

# Cloud Run's IAM check keeps a token's header and claims and replaces its signature with this text (Cloud Run
# troubleshooting, "Token signature is redacted").
REMOVED_SIGNATURE = ".SIGNATURE_REMOVED_BY_GOOGLE"


_TOKEN_THREADS = ThreadPoolExecutor(2, "token")
"""Their own threads, so that forged tokens, which may wait for Google's certificates, block nothing else."""


class InvalidToken(Exception):
    """The token is not valid; the message says why and does not quote the token."""


class SignatureRemoved(InvalidToken):
    """Cloud Run's IAM check has removed the token's signature."""


class CertificatesUnreachable(Exception):
    """Google's certificates could not be fetched, so no token can be verified now."""


class TokenVerifier(Protocol):
    """Verifies a Google ID token. Blocks, so call it in a thread."""

    def verify(self, token: str) -> None:
        """Return if the token is valid. Raises InvalidToken and CertificatesUnreachable."""
        ...


class Caller(Flag):
    """Who may call a path; without a member, everybody may."""

    CLOCK = auto()
    OPERATOR = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Admits or refuses callers. With `development` and no configured credential, admits this machine."""

    worker_secret: str | None = field(default=None, repr=False)
    operator_secret: str | None = field(default=None, repr=False)
    verifier: TokenVerifier | None = None
    development: bool = False

    @property
    def configured(self) -> Caller:
        """The callers that have a configured credential."""
        clock = Caller.CLOCK if self.worker_secret or self.verifier is not None else Caller(0)
        return clock | (Caller.OPERATOR if self.operator_secret else Caller(0))

    async def admit(self, headers: Headers, client_host: str | None, allowed: Caller) -> None:
        """Return if the caller is one of `allowed`. `client_host` is the address of the connection.

        Raises RequestRefused: 401, 403, or 503 if the token could not be verified.
        """
        if not self.configured and self.development and is_local_developer(headers, client_host):
            return
        if not allowed & self.configured:
            raise _not_local() if self.development and not self.configured else _unconfigured(allowed)
        shown = self._by_secret(headers)
        if shown & allowed:
            return
        bearer = _bearer(headers)
        # On an operator's path the token only affects the error message, and a wrong secret matters more.
        judged = Caller.CLOCK in allowed or not (shown or OPERATOR_HEADER in headers)
        if judged and self.verifier is not None and bearer is not None:
            await self._check_token(self.verifier, bearer, allowed)
            shown |= Caller.CLOCK
        if shown & allowed:
            return
        raise self._wrong_kind(allowed) if shown else self._unauthorized(headers, allowed)

    def _secrets(self) -> tuple[tuple[Caller, str, str, str], ...]:
        """For each configured secret: its caller, header, setting and value."""
        both = (
            (Caller.CLOCK, SECRET_HEADER, "WORKER_SECRET", self.worker_secret),
            (Caller.OPERATOR, OPERATOR_HEADER, "OPERATOR_SECRET", self.operator_secret),
        )
        return tuple((caller, header, name, secret) for caller, header, name, secret in both if secret)

    def _by_secret(self, headers: Headers) -> Caller:
        shown = Caller(0)
        for caller, header, _, secret in self._secrets():
            # The server decodes headers as Latin-1. Encode them back, so that a secret may contain any UTF-8.
            given = headers.get(header, "").encode("latin-1", "replace")
            if hmac.compare_digest(given, secret.encode("utf-8")):
                shown |= caller
        return shown

    async def _check_token(self, verifier: TokenVerifier, token: str, allowed: Caller) -> None:
        if len(token) > MAX_TOKEN_LENGTH:
            raise self._refuse("invalid_token", "the bearer is too long for a Google ID token", allowed)
        try:
            await asyncio.get_running_loop().run_in_executor(_TOKEN_THREADS, verifier.verify, token)
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
        message = "the request has no credential that this path accepts"
        return self._refuse("no_credentials", message, allowed)

    def _wrong_kind(self, allowed: Caller) -> RequestRefused:
        """The credential is valid, but not on this path."""
        if allowed == Caller.OPERATOR:
            message = "only the operator may see or change orders; the credential sent is the clock's"
            return RequestRefused(403, "operator_only", message, self._ways(allowed))
        message = "only the clock may start runs and sweeps; the credential sent is the operator's"
        return RequestRefused(403, "clock_only", message, self._ways(allowed))

    def _refuse(self, code: str, message: str, allowed: Caller) -> RequestRefused:
        by_token = self.verifier is not None and Caller.CLOCK in allowed
        headers = {"WWW-Authenticate": "Bearer"} if by_token else {}
        return RequestRefused(401, code, message, self._ways(allowed), headers)

    def _ways(self, allowed: Caller) -> str:
        """The credentials that a caller may send."""
        ways = [
            f"{name} in the header {header}" for who, header, name, _ in self._secrets() if who in allowed
        ]
        if self.verifier is not None and Caller.CLOCK in allowed:
            ways.append("a Google ID token in the header Authorization: Bearer")
        return f"send {' or '.join(ways)}"


def is_local_developer(headers: Headers, client_host: str | None) -> bool:
    """True if the request comes from this machine, not through a proxy and not from another site's page.

    Host and Origin are checked because any page can make a browser on this machine send requests, also to
    the page's own domain, which may resolve to 127.0.0.1 (DNS rebinding).
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
    """The token in the header that Cloud Run's IAM checks, if the header occurs once."""
    name = next((name for name in TOKEN_HEADERS if name in headers), "")
    given = headers.getlist(name)
    scheme, _, token = given[0].strip().partition(" ") if len(given) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unconfigured(allowed: Caller) -> RequestRefused:
    if allowed == Caller.OPERATOR:
        return RequestRefused(
            403,
            "operator_secret_missing",
            "OPERATOR_SECRET is not set, so nobody may see or change orders here",
            "set OPERATOR_SECRET (openssl rand -hex 32; not WORKER_SECRET's value), and restart the worker",
        )
    return RequestRefused(
        403,
        "no_credentials_configured",
        "no credential is configured, so the worker refuses every request",
        "set WORKER_SECRET, or OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT; "
        "on your own machine, WORKER_DEVELOPMENT=1 allows requests without one",
    )


def _not_local() -> RequestRefused:
    return RequestRefused(
        403,
        "no_credentials_configured",
        "WORKER_DEVELOPMENT=1 allows only requests from this machine to localhost, "
        "not through a proxy and not from another site's page",
        "call http://localhost, or set WORKER_SECRET and OPERATOR_SECRET",
    )


def _signature_removed() -> RequestRefused:
    # Such a token is trustworthy only if IAM checks every request to the service. The worker cannot see that,
    # and without the check anybody could write such a token, so the operator has to confirm it by a setting.
    return RequestRefused(
        401,
        "token_signature_removed",
        "Cloud Run's IAM check has removed the token's signature, so the worker cannot verify the token",
        "if only this service account may invoke the service, set OIDC_CHECKED_BY=cloud-run; "
        f"or have the caller also send WORKER_SECRET in {SECRET_HEADER}, besides the token for IAM",
        {"WWW-Authenticate": "Bearer"},
    )
