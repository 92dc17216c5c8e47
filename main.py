"""The HTTP functions, as functions-framework finds them: process_generation_queue and generate_images.

The server imports this module before it forks its workers, so importing it opens nothing and cannot fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from worker import log, signals
from worker.http.auth import Guard
from worker.http.connection import BoundedConnection
from worker.http.oidc import GoogleTokens
from worker.http.orders import OrderFunction, take_order
from worker.http.process import QueueFunction, process_queue
from worker.http.validation import RequestRefused
from worker.ops.scale_out import ScaleOut

if TYPE_CHECKING:
    from worker.app import Application
    from worker.settings import Settings

# Nobody here wants a WebSocket, and a POST that asks to become one would never be answered (uvicorn 0.54 with
# websockets 15): without them it is answered like any other.
UvicornWorker.CONFIG_KWARGS["ws"] = "none"
UvicornWorker.CONFIG_KWARGS["http"] = BoundedConnection


@functions_framework.aio.http
async def process_generation_queue(request: Request) -> Response:
    """Work the queue off for one invocation and answer with the run's summary."""
    return await process_queue(request, lambda: _open().queue)


@functions_framework.aio.http
async def generate_images(request: Request) -> Response:
    """Enqueue an order for the person whose Supabase token comes with it."""
    return await take_order(request, _orders)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What outlives a request: the application, and the guard with its certificates."""

    application: Application
    queue: QueueFunction


_opened: _Opened | None = None


def _open() -> _Opened:
    """Open the application at the first request of this process, and again if it has changed (a new loop)."""
    global _opened  # the server gives a function no place of its own to keep things in
    application = _application()
    if _opened is None or _opened.application is not application:
        settings = application.settings
        _opened = _Opened(
            application,
            QueueFunction(
                application.worker,
                _guard(settings),
                settings.invocation_timeout_seconds,
                settings.supabase_url,
                ScaleOut(settings, application.worker.queue).after if settings.drain_job else None,
            ),
        )
        signals.chain(application.worker.stop)
    return _opened


def _application() -> Application:
    from worker.app import application

    with _settings_read():
        return application()


def _orders() -> OrderFunction:
    from worker.orders_app import order_function

    with _settings_read():
        return order_function()


@contextmanager
def _settings_read() -> Iterator[None]:
    from worker.settings import InvalidSettings

    try:
        yield
    except InvalidSettings as exc:
        log.event("settings_invalid", level="error", problems=list(exc.problems))
        raise RequestRefused(
            500,
            "misconfigured",
            "the worker's settings are not complete or do not fit together",
            "the log names each of them",
        ) from exc


def _guard(settings: Settings) -> Guard:
    verifier = None
    if settings.oidc_audience and settings.oidc_service_account:
        verifier = GoogleTokens(
            settings.oidc_audience, settings.oidc_service_account, behind_iam=settings.oidc_behind_iam
        )
    return Guard(
        worker_secret=settings.worker_secret.reveal() or None,
        operator_secret=settings.operator_secret.reveal() or None,
        verifier=verifier,
        development=settings.development,
    )
