"""HTTP responses: JSON, never cached, with errors in one format.

Both HTTP functions respond through `guarded`, which turns exceptions into error responses without details.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from worker import log
from worker.errors import Misconfigured, QueueUnavailable
from worker.http.trace import trace_of
from worker.http.validation import RequestRefused

SECURITY_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
RETRY_AFTER_SECONDS = 10
BODY_SECONDS = 15.0
MAX_TEXT_LENGTH = 500
"""Longest message or hint; one of the database may quote many fields of an order."""


def answer(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, ending with a line break; escaped to ASCII, so that every string can be encoded."""
    return Response(
        json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n",
        status_code=status,
        media_type="application/json",
        headers={**SECURITY_HEADERS, **(headers or {})},
    )


def text_answer(text: bytes, media_type: str) -> Response:
    """A response that is not JSON, with the same security headers."""
    return Response(text, headers={**SECURITY_HEADERS, "Content-Type": media_type})


def error_answer(refused: RequestRefused, extra: Mapping[str, Any]) -> Response:
    """`{"error": {"code", "message", "hint"?}}`, after the fields of `extra`."""
    error = {"code": refused.code, "message": _shortened(refused.message)}
    if refused.hint:
        error["hint"] = _shortened(refused.hint)
    return answer(refused.status, {**extra, "error": error}, refused.headers)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[: MAX_TEXT_LENGTH - 1]}…"


async def guarded(
    request: Request, produce: Callable[[], Awaitable[Response]], extra: Mapping[str, Any] | None = None
) -> Response:
    """Call a handler and turn every exception into an error response; `extra` is part of each one."""
    with log.bound(**trace_of(request.headers)):
        try:
            return await produce()
        except RequestRefused as exc:
            refused = exc
        except QueueUnavailable as exc:
            log.event("queue_unavailable", level="warning", code=exc.code, reason=exc.message)
            refused = _unavailable(exc)
        except Misconfigured as exc:
            log.event("misconfigured", level="error", code=exc.code, reason=exc.message)
            refused = RequestRefused(500, exc.code, exc.message)
        except ClientDisconnect:
            refused = RequestRefused(
                400, "client_disconnected", "the connection closed before the body ended"
            )
        except Exception:  # noqa: BLE001 - the request's boundary
            path = request.scope["path"][:200]
            log.event("request_failed", level="error", exc_info=True, method=request.method, path=path)
            refused = RequestRefused(500, "internal", "unexpected error; see the traceback in the log")
        return error_answer(refused, extra or {})


def _unavailable(exc: QueueUnavailable) -> RequestRefused:
    return RequestRefused(
        503,
        exc.code,
        exc.message,
        "Supabase did not answer; try again, nothing is lost",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body; 413 beyond `max_bytes`. Counts the bytes, since Content-Length may be wrong."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError as exc:
        raise RequestRefused(408, "body_timeout", f"the body took longer than {BODY_SECONDS:g} s") from exc
    return bytes(body)


def _too_large(max_bytes: int) -> RequestRefused:
    # The rest of the body is not read, so the connection cannot be reused.
    return RequestRefused(
        413,
        "body_too_large",
        f"the body is larger than {max_bytes} bytes",
        "send less, or split it into several requests",
        {"Connection": "close"},
    )
