"""The Gemini API's endpoints: generateContent, models.get and models.list.

A call passes key, model, quota and the check of its body, in this order; only then a rule may answer it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local.simulator import answers, reply
from local.simulator.behaviour import Stage
from local.simulator.client import Client
from local.simulator.exhausted import Exhausted
from local.simulator.faults import MAKING, Answer
from local.simulator.ledger import Ledger, Outcome, fingerprint
from local.simulator.order import InvalidOrder, Order, read
from local.simulator.photos import InvalidPhoto, Received, UnreadablePhoto
from local.simulator.pictures import Painter
from local.simulator.reply import Reply


@dataclass(frozen=True, slots=True)
class _Call:
    """One pending call: its number in the ledger, its order, and the event that releases it if held."""

    sequence: int
    model: str
    order: Order
    held: asyncio.Event


class Service:
    """Serves the API's routes by the stage's behaviour and writes the ledger."""

    def __init__(
        self, stage: Stage, ledger: Ledger, received: Received, pool: Executor, clock: Callable[[], float]
    ) -> None:
        self._stage = stage
        self._ledger = ledger
        self._pool = pool
        self._clock = clock
        self._painter = Painter()
        self._held = asyncio.Event()
        self._received = received

    def routes(self) -> list[Route]:
        """The routes, for v1 and v1beta alike."""
        return [
            Route("/{version}/models", self.list_models, methods=["GET"]),
            Route("/{version}/models/{model}", self.get_model, methods=["GET"]),
            Route("/{version}/models/{model}:generateContent", _Endpoint(self), methods=["POST"]),
        ]

    def release(self) -> None:
        """Release every call held back so far; must run in the server's event loop."""
        held, self._held = self._held, asyncio.Event()
        held.set()

    def _key_refused(self, key: str) -> Reply | None:
        if not key:
            return reply.failure(403, answers.key_missing(), "PERMISSION_DENIED")
        if key in self._stage.behaviour.invalid_keys:
            return reply.failure(400, answers.key_invalid(), "API_KEY_INVALID")
        return None

    def _model_refused(self, model: str, version: str, method: str) -> Reply | None:
        behaviour = self._stage.behaviour
        if method == "generateContent" and model in behaviour.closed:
            return reply.failure(404, answers.model_closed(model), "NOT_FOUND")
        if model in behaviour.models and model not in behaviour.retired:
            return None
        return reply.failure(404, answers.model_missing(model, version, method), "NOT_FOUND")

    async def get_model(self, request: Request) -> Response:
        """Answer models.get: the cheap check of key and model."""
        model, version = request.path_params["model"], request.path_params["version"]
        refused = self._key_refused(request.headers.get("x-goog-api-key", ""))
        refused = refused or self._model_refused(model, version, "getModel")
        if refused:
            return JSONResponse(refused.body, refused.status)
        return JSONResponse(answers.model_facts(model))

    async def list_models(self, request: Request) -> Response:
        """Answer models.list on one page."""
        if refused := self._key_refused(request.headers.get("x-goog-api-key", "")):
            return JSONResponse(refused.body, refused.status)
        behaviour = self._stage.behaviour
        names = sorted(behaviour.models - behaviour.retired)
        return JSONResponse({"models": [answers.model_facts(name) for name in names]})

    async def generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer generateContent; the call counts from the time when its whole body has arrived."""
        request = Request(scope, receive)
        body = await request.body()
        arrived = self._clock()
        refused = self._refused(request, arrived)
        async with Client(scope, receive, send) as client:
            order, shas, invalid = await self._in_pool(self._read, body)
            call = self._open(request, arrived, order, shas, len(body))
            refused = refused or invalid
            if refused is not None:
                await self._send(client, call, refused)
                return
            self._ledger.update(call.sequence, admitted=True)
            await self._perform(client, call)

    async def _in_pool(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def _open(
        self, request: Request, arrived: float, order: Order, shas: tuple[str, ...], bytes_in: int
    ) -> _Call:
        model, held = request.path_params["model"], self._held
        sequence = self._ledger.open(
            started=arrived,
            model=model,
            key=fingerprint(request.headers.get("x-goog-api-key", "")),
            prompt_sha=hashlib.sha256(order.prompt.encode()).hexdigest()[:16],
            prompt_start=order.prompt[:60],
            photos=order.photos,
            photo_shas=shas,
            bytes_in=bytes_in,
            aspect_ratio=order.aspect_ratio,
        )
        return _Call(sequence, model, order, held)

    def _read(self, body: bytes) -> tuple[Order, tuple[str, ...], Reply | None]:
        """The order and its photos' SHA-256, or the 400 that it gets."""
        order = Order("", (), "", wants_image=True)
        try:
            order = read(body)
            return order, self._received.take(order.blobs), None
        except (InvalidOrder, InvalidPhoto) as exc:
            return order, (), reply.invalid(str(exc))
        except UnreadablePhoto:
            return order, (), reply.invalid(reply.UNREADABLE)

    def _refused(self, request: Request, arrived: float) -> Reply | None:
        model, version = request.path_params["model"], request.path_params["version"]
        refused = self._key_refused(request.headers.get("x-goog-api-key", ""))
        refused = refused or self._model_refused(model, version, "generateContent")
        if refused is None and (excess := self._stage.arrive(model, arrived)):
            facts = Exhausted(model, excess.period, excess.limit, excess.retry_seconds)
            return reply.over_quota(excess.shape, facts)
        return refused

    async def _perform(self, client: Client, call: _Call) -> None:
        """Let the latency pass, make what is to be made on the way, and answer."""
        answer, seconds = self._stage.next_answer(call.order.prompt, call.model)
        now = asyncio.get_running_loop().time
        end = now() + seconds
        there = await client.stays(asyncio.sleep(seconds * self._stage.behaviour.latency.made_after))
        if there and answer.hold:
            there = await client.stays(call.held.wait())
        if not there:
            self._close(call, "cut", answer.kind)
            return
        made: Reply = await self._in_pool(self._make, call, answer)
        if await client.stays(asyncio.sleep(max(0.0, end - now()))):
            await self._finish(client, call, answer, made)
        else:
            self._close(call, "cut", made.detail)

    async def _finish(self, client: Client, call: _Call, answer: Answer, made: Reply) -> None:
        if answer.kind == "hang":
            await client.stays(asyncio.Event().wait())
            self._close(call, "cut", "hang")
        elif answer.kind in ("reset", "close"):
            self._close(call, "reset", answer.kind)
            await client.leave(reset=answer.kind == "reset")
        elif answer.kind == "drip":
            await self._drip(client, call, made, answer.seconds)
        else:
            await self._send(client, call, made)

    def _make(self, call: _Call, answer: Answer) -> Reply:
        """Make the reply, in a thread of the pool."""
        if answer.kind not in MAKING:
            return reply.without_image(answer, call.model, call.order)
        if not call.order.wants_image:
            return reply.without_image(Answer("text"), call.model, call.order)
        try:
            return self._with_images(call, answer)
        except UnreadablePhoto:
            return reply.invalid(reply.UNREADABLE)

    def _with_images(self, call: _Call, answer: Answer) -> Reply:
        behaviour, order = self._stage.behaviour, call.order
        look = (order.aspect_ratio, behaviour.scale, behaviour.mime_type)
        painted = [
            self._painter.paint(order.photo, order.prompt, self._ledger.next_number(order.prompt), *look)
            for _ in range(answer.drafts + answer.images_made)
        ]
        drafts, made = painted[: answer.drafts], painted[answer.drafts :]
        shas = tuple(hashlib.sha256(image).hexdigest()[:16] for image in made)
        self._ledger.update(call.sequence, images=len(made), image_shas=shas)
        if answer.kind == "truncated":
            made = [image[: len(image) // 2] for image in made]
        texts = [answers.encode(image) for image in made]
        if answer.kind == "malformed":
            texts = ["*" + text[2:] for text in texts]
        encoded = [(answers.encode(image), answer.flagged != "none") for image in drafts]
        encoded += [(text, answer.flagged == "all") for text in texts]
        version = behaviour.versions.get(call.model, call.model)
        facts = (version, order.prompt, order.photos, behaviour.mime_type)
        body = answers.images(*facts, encoded, answer.finish, answer.drafts)
        outcome: Outcome = "malformed" if answer.kind in ("malformed", "truncated") else "image"
        return Reply(200, outcome, answer.kind, body)

    def _close(self, call: _Call, outcome: Outcome, detail: str) -> None:
        self._ledger.update(call.sequence, ended=self._clock(), outcome=outcome, detail=detail)

    async def _send(self, client: Client, call: _Call, made: Reply) -> None:
        content = made.content()
        await client.start(made.status, made.media_type, len(content))
        self._close(call, made.outcome, made.detail)
        await client.send(content)

    async def _drip(self, client: Client, call: _Call, made: Reply, seconds: float, pieces: int = 20) -> None:
        content = made.content()
        step = len(content) // pieces + 1
        await client.start(made.status, made.media_type, len(content))
        for start in range(0, len(content), step):
            if not await client.stays(asyncio.sleep(seconds / pieces)):
                self._close(call, "cut", "drip")
                return
            if start + step >= len(content):
                self._close(call, made.outcome, made.detail)
            await client.send(content[start : start + step], more=start + step < len(content))


class _Endpoint:
    """Makes `generate` a plain ASGI application for Starlette's router."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._service.generate(scope, receive, send)
