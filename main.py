"""The HTTP functions for functions-framework: process_generation_queue and generate_images.

The server imports this module before it forks its workers, so the import opens no connection and cannot fail.
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

from worker import log
from worker.common import signals
from worker.common.isolation import hide_memory
from worker.http.auth import Guard
from worker.http.connection import BoundedConnection
from worker.http.oidc import GoogleTokens
from worker.http.orders import OrderFunction, take_order
from worker.http.process import QueueFunction, process_queue
from worker.http.validation import MIN_BUDGET_SECONDS, MIN_JOBS, RequestRefused
from worker.ops.scale_out import ScaleOut

if TYPE_CHECKING:
    from worker.app import Application
    from worker.settings import Settings

# Without WebSockets, since uvicorn 0.54 with websockets 15 never answers a POST that asks for an upgrade.
UvicornWorker.CONFIG_KWARGS["ws"] = "none"
UvicornWorker.CONFIG_KWARGS["http"] = BoundedConnection

hide_memory()  # here, because the server's first process has the environment too


@functions_framework.aio.http
async def process_generation_queue(request: Request) -> Response:
    """Do one run and return its summary; other paths are in `worker.http.process`."""
    return await process_queue(request, lambda: _open().queue)


@functions_framework.aio.http
async def generate_images(request: Request) -> Response:
    """Enqueue an order for the user of the request's Supabase token."""
    return await take_order(request, _orders)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is kept between requests: the application, and the guard with its cached certificates."""

    application: Application
    queue: QueueFunction


_opened: _Opened | None = None


def _open() -> _Opened:
    """Open the application at the first request of this process, and again for a new event loop."""
    global _opened  # functions-framework has no other place for state between requests
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
                max(MIN_BUDGET_SECONDS, settings.two_requests_budget_seconds),
                max(MIN_JOBS, settings.jobs_at_a_time),
            ),
        )
        signals.chain(application.worker.stop)
    return _opened


def _application() -> Application:
    from worker.app import application

    with _settings_read():
        return application()


def _orders() -> OrderFunction:
    from worker.http.orders_app import order_function

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
            "the worker's settings are incomplete or inconsistent",
            "see the log, which lists each problem",
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
