"""The worker's HTTP function. ROUTES has its paths, with the methods and callers that each one allows.

Checks path, method, caller and fields before it calls the queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from worker import __version__
from worker.errors import QueueRefused
from worker.http.auth import Caller, Guard
from worker.http.dashboard.page import dashboard
from worker.http.response import answer, guarded, read_body, text_answer
from worker.http.validation import (
    MIN_BUDGET_SECONDS,
    MIN_JOBS,
    RequestRefused,
    parse_action,
    parse_id,
    parse_run,
    parse_sweep,
)
from worker.run.request import Action, RunRequest

MAX_BODY_BYTES = 64 * 1024


class Backend(Protocol):
    """What the HTTP function calls: runs, sweeps, numbers and the operator's actions."""

    async def run(self, request: RunRequest) -> Mapping[str, Any]:
        """Do one run and return its summary; `stopReason` says why the run ended."""
        ...

    async def peek(self, max_jobs: int | None) -> Mapping[str, Any]:
        """The jobs that a run would claim now, without claiming them."""
        ...

    async def stats(self) -> Mapping[str, Any]:
        """The queue in numbers."""
        ...

    async def sweep(self, max_jobs: int | None) -> Mapping[str, Any]:
        """Remove orphaned objects (stored, but without a row), and return the counts."""
        ...

    async def overview(self) -> Mapping[str, Any]:
        """What the dashboard shows."""
        ...

    async def details(self, batch_id: str) -> Mapping[str, Any]:
        """What the dashboard shows of one batch."""
        ...

    async def act(self, action: Action) -> Mapping[str, Any]:
        """Do the operator's action and return the database's answer."""
        ...


AfterRun = Callable[[Mapping[str, Any]], Awaitable[None]]
Handler = Callable[["QueueFunction", Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """The handler of a path, its methods and the callers it allows; with no caller, everybody."""

    handler: Handler
    methods: tuple[str, ...]
    callers: Caller


@dataclass(frozen=True, slots=True)
class QueueFunction:
    """`process_generation_queue`: a worker behind a guard. `max_budget_seconds` is the invocation timeout.

    `min_budget_seconds` and `min_jobs` are the least that a run may be limited to.
    `photo_origin` is the origin that the dashboard loads photos from: Supabase's URL.
    `after_run` receives each run's summary before the response is sent; it must be quick and never raise.
    """

    worker: Backend
    guard: Guard
    max_budget_seconds: float
    photo_origin: str = ""
    after_run: AfterRun | None = None
    min_budget_seconds: float = MIN_BUDGET_SECONDS
    min_jobs: int = MIN_JOBS

    async def respond(self, request: Request) -> Response:
        """Find the route, check method and caller, and call its handler."""
        route = ROUTES.get(request.scope["path"])
        if route is None:
            raise RequestRefused(404, "not_found", "there is no such path", f"paths are {', '.join(ROUTES)}")
        if request.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise RequestRefused(405, "method_not_allowed", f"use {allowed} here", headers={"Allow": allowed})
        if route.callers:
            client_host = request.client.host if request.client else None
            await self.guard.admit(request.headers, client_host, route.callers)
        return await route.handler(self, request)


@contextmanager
def _our_own_call() -> Iterator[None]:
    """Answers a refusal of the database with a 500: the request was valid, so a 4xx would be wrong."""
    try:
        yield
    except QueueRefused as exc:
        raise RequestRefused(500, exc.code, exc.message, exc.hint) from exc


async def _run(function: QueueFunction, request: Request) -> Response:
    body = await read_body(request, MAX_BODY_BYTES)
    content_type = request.headers.get("content-type", "")
    ordered = parse_run(
        body, content_type, function.max_budget_seconds, function.min_budget_seconds, function.min_jobs
    )
    with _our_own_call():
        if ordered.dry_run:
            return answer(200, await function.worker.peek(ordered.max_jobs))
        summary = await function.worker.run(ordered)
    if function.after_run:
        await function.after_run(summary)
    return answer(500 if summary.get("stopReason") == "misconfigured" else 200, summary)


async def _sweep(function: QueueFunction, request: Request) -> Response:
    body = await read_body(request, MAX_BODY_BYTES)
    max_jobs = parse_sweep(body, request.headers.get("content-type", ""))
    with _our_own_call():
        return answer(200, await function.worker.sweep(max_jobs))


async def _status(function: QueueFunction, _request: Request) -> Response:
    with _our_own_call():
        return answer(200, await function.worker.stats())


async def _metrics(function: QueueFunction, _request: Request) -> Response:
    from worker.ops import metrics  # imported here, so that a cold start for a run does not load it

    with _our_own_call():
        return text_answer(metrics.metrics_text(await function.worker.stats()), metrics.CONTENT_TYPE)


async def _overview(function: QueueFunction, _request: Request) -> Response:
    with _our_own_call():
        return answer(200, await function.worker.overview())


@contextmanager
def _callers_choice() -> Iterator[None]:
    """Passes a refusal of the database on to the caller, whose input caused it (such as an unknown batch)."""
    try:
        yield
    except QueueRefused as exc:
        raise RequestRefused(exc.status, exc.code, exc.message, exc.hint) from exc


async def _details(function: QueueFunction, request: Request) -> Response:
    batch_id = parse_id(request.query_params.getlist("id"))
    with _callers_choice():
        return answer(200, await function.worker.details(batch_id))


async def _act(function: QueueFunction, request: Request) -> Response:
    body = await read_body(request, MAX_BODY_BYTES)
    action = parse_action(body, request.headers.get("content-type", ""))
    with _callers_choice():
        return answer(200, await function.worker.act(action))


async def _dashboard(function: QueueFunction, _request: Request) -> Response:
    # Open to everybody, since a browser cannot send our header when it opens a URL. The page has no data; it
    # loads them with the secret that it asks for.
    return dashboard(function.photo_origin, bool(function.guard.operator_secret))


async def _health(_function: QueueFunction, _request: Request) -> Response:
    # Open to everybody, so it makes no query and shows nothing but the version.
    return answer(200, {"ok": True, "version": __version__})


EVERYBODY = Caller(0)
CLOCK, OPERATOR = Caller.CLOCK, Caller.OPERATOR

# Only the operator may see or change orders. The clock's dry run shows only counts and the ids of jobs and
# batches.
ROUTES: Mapping[str, Route] = {
    "/": Route(_run, ("POST",), CLOCK),
    "/sweep": Route(_sweep, ("POST",), CLOCK),
    "/status": Route(_status, ("GET",), CLOCK | OPERATOR),
    "/metrics": Route(_metrics, ("GET",), CLOCK | OPERATOR),
    "/overview": Route(_overview, ("GET",), OPERATOR),
    "/batch": Route(_details, ("GET",), OPERATOR),
    "/actions": Route(_act, ("POST",), OPERATOR),
    "/dashboard": Route(_dashboard, ("GET", "HEAD"), EVERYBODY),
    "/healthz": Route(_health, ("GET", "HEAD"), EVERYBODY),
    # On run.app, Google's front end does not forward some paths that end in "z" (Cloud Run, known issues).
    "/health": Route(_health, ("GET", "HEAD"), EVERYBODY),
}


async def process_queue(request: Request, open_function: Callable[[], QueueFunction]) -> Response:
    """Answer one request. Calls `open_function` inside `guarded`, since it may raise too."""

    async def produce() -> Response:
        return await open_function().respond(request)

    return await guarded(request, produce)
