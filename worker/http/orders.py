"""The app's enqueue endpoint: forwards the order and the user's token to the database, and handles CORS.

The database checks the order and the token; this module does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from worker import log
from worker.errors import Misconfigured, QueueRefused
from worker.http.response import SECURITY_HEADERS, answer, guarded, read_body
from worker.http.validation import RequestRefused, parse_object
from worker.supabase.database_time import http_date

MAX_BODY_BYTES = 1024 * 1024
MAX_KEY_LENGTH = 200
PREFLIGHT_SECONDS = 3600
ALLOWED_HEADERS = "authorization, content-type, idempotency-key, apikey, x-client-info"

# The shape of a JWT: three parts, the first a JSON object (base64 of '{"' begins with "ey").
# A bearer token that begins with "sb_" must be refused: Supabase's gateway would use the role of this
# function's own `apikey` instead, and the caller would act as that role.
TOKEN = re.compile(r"ey[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
MAX_TOKEN_LENGTH = 8192
"""Supabase's tokens have about 1 000 characters. A gateway's error for a longer one looks like an outage."""
BEARER = re.compile(r"bearer +(.+)", re.IGNORECASE)


class Enqueuer(Protocol):
    """Enqueues an order for the user whom the token names."""

    async def enqueue(
        self, request: Mapping[str, Any], idempotency_key: str | None, access_token: str
    ) -> Mapping[str, Any]:
        """Return `batchId` and `jobsEnqueued`. Raises QueueRefused, QueueUnavailable and Misconfigured."""
        ...


@dataclass(frozen=True, slots=True)
class OrderFunction:
    """`generate_images`: accepts orders from pages of `allowed_origins` (`*` = any)."""

    worker: Enqueuer
    allowed_origins: tuple[str, ...] = ("*",)

    async def respond(self, request: Request) -> Response:
        """Answer a preflight or enqueue one order; 202 as soon as the batch is stored."""
        if request.scope["path"] != "/":
            raise RequestRefused(404, "not_found", "there is no such path", "send orders with POST to /")
        if request.method == "OPTIONS":
            return self._preflight(request)
        if request.method != "POST":
            raise RequestRefused(
                405, "method_not_allowed", "use POST here", headers={"Allow": "POST, OPTIONS"}
            )
        token = _access_token(request)
        key = _idempotency_key(request)
        body = await read_body(request, MAX_BODY_BYTES)
        order = parse_object(body, request.headers.get("content-type", ""))
        try:
            batch = await self.worker.enqueue(order, key, token)
        except QueueRefused as exc:
            raise _as_the_database_says(exc) from exc
        except Misconfigured as exc:
            # The app's users must not read about the project's configuration, so only the log has the reason.
            log.event("misconfigured", level="error", code=exc.code, reason=exc.message)
            raise RequestRefused(
                500, exc.code, "orders cannot be accepted at the moment", "the server's log says what to fix"
            ) from exc
        return _accepted(batch)

    def _preflight(self, request: Request) -> Response:
        if not _allows(self.allowed_origins, request.headers.get("origin", "")):
            raise RequestRefused(
                403, "origin_not_allowed", "this origin is not allowed", "add it to CORS_ALLOWED_ORIGINS"
            )
        return Response(
            status_code=204,
            headers={
                **SECURITY_HEADERS,
                "Access-Control-Allow-Methods": "POST, OPTIONS",
                "Access-Control-Allow-Headers": ALLOWED_HEADERS,
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
            },
        )


async def take_order(request: Request, open_function: Callable[[], OrderFunction]) -> Response:
    """Answer one request. Errors have CORS headers too, since a page cannot read a response without them."""
    origins: tuple[str, ...] = ("*",)

    async def produce() -> Response:
        nonlocal origins
        function = open_function()
        origins = function.allowed_origins
        return await function.respond(request)

    response = await guarded(request, produce, {"success": False})
    return _cross_origin(response, origins, request.headers.get("origin", ""))


def _accepted(batch: Mapping[str, Any]) -> Response:
    count = batch["jobsEnqueued"]
    message = f"{count} job{'' if count == 1 else 's'} enqueued"
    if batch.get("created") is False:
        message = "this order was enqueued before; batchId is its batch"
    return answer(
        202, {"success": True, "batchId": batch["batchId"], "jobsEnqueued": count, "message": message}
    )


def _access_token(request: Request) -> str:
    header = request.headers.get("authorization", "")
    bearer = BEARER.fullmatch(header.strip())
    if bearer is None:
        raise _not_signed_in("the header Authorization: Bearer <access token> is missing")
    if len(bearer[1]) > MAX_TOKEN_LENGTH or TOKEN.fullmatch(bearer[1]) is None:
        raise _not_signed_in("the bearer is not an access token")
    return bearer[1]


def _not_signed_in(message: str) -> RequestRefused:
    return RequestRefused(
        401,
        "not_signed_in",
        message,
        "sign in with Supabase and send the session's access_token",
        {"WWW-Authenticate": "Bearer"},
    )


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    key = keys[0].strip()
    if len(keys) > 1 or not 1 <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise RequestRefused(
            400,
            "invalid_idempotency_key",
            f"Idempotency-Key must be one value of 1 to {MAX_KEY_LENGTH} printable ASCII characters",
            "send a new UUID with each order, and the same UUID when you send that order again",
        )
    return key


def _as_the_database_says(exc: QueueRefused) -> RequestRefused:
    status = exc.status if 400 <= exc.status <= 599 else 500
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if room_again := http_date(exc.hint):
        headers["Retry-After"] = room_again
    return RequestRefused(status, exc.code, exc.message, exc.hint, headers)


def _allows(origins: tuple[str, ...], origin: str) -> bool:
    return "*" in origins or origin in origins


def _cross_origin(response: Response, origins: tuple[str, ...], origin: str) -> Response:
    if "*" in origins:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        response.headers["Vary"] = "Origin"
        if origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    return response
