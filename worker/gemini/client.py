"""The Gemini adapter: one request for one image with google-genai; the only file that handles its exceptions.

It never retries, waits, or follows a continuation; the caller does the rate limiting and retries.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from worker.errors import GenerationError, Misconfigured, Transient
from worker.gemini.answer import MODEL_NAME, read_answer
from worker.gemini.errors import rejection
from worker.gemini.sdk import Connection, check_key, connect
from worker.jobs import GeneratedImage, Photo
from worker.log.secret import Secret

if TYPE_CHECKING:
    from google.genai import types
    from google.genai.models import AsyncModels

T = TypeVar("T")

# What the SDK raises for a 200 with unexpected JSON (observed with 3.6.1).
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one image. Photos are sent in this order; the aspect ratio is Gemini's (`9:16`)."""

    model: str
    prompt: str = field(repr=False)
    photos: tuple[Photo, ...]
    aspect_ratio: str


class Gemini:
    """Requests images from Gemini. `prepare` or the first call imports the SDK (0.4 s, outside the timeout).

    The SDK reads `GOOGLE_GEMINI_BASE_URL`; no other variable changes key or backend. `monotonic` returns
    seconds. One instance belongs to one event loop.
    """

    def __init__(self, api_key: str, monotonic: Callable[[], float]) -> None:
        self._api_key = Secret(api_key.strip())
        self._monotonic = monotonic
        self._connection: Connection | None = None

    def prepare(self) -> None:
        """Import the SDK and build the client, so that the first call does not wait. Raises Misconfigured."""
        self._connected()

    async def generate(self, request: GenerationRequest, timeout_seconds: float) -> GeneratedImage:
        """Request one image (`worker.gemini.answer` selects it from the answer).

        Raises Refused, BadInput, Transient, RateLimited, Misconfigured or ModelRetired within
        `timeout_seconds`. Each call is one HTTP request, and is billed if Gemini makes an image.
        """
        self._connected()
        started = self._monotonic()
        answer = await self._ask(
            request.model, timeout_seconds, lambda models: _request(models, request, timeout_seconds)
        )
        elapsed_ms = round((self._monotonic() - started) * 1000)
        return read_answer(answer, request.model, elapsed_ms)

    async def check(self, model: str, timeout_seconds: float = 10.0) -> None:
        """Check key and model without cost (`models.get`); raises the errors of `generate`."""
        await self._ask(model, timeout_seconds, lambda models: _look_up(models, model, timeout_seconds))

    async def listed_models(self, timeout_seconds: float) -> frozenset[str]:
        """The models that Google lists (`models.list`), without cost; none if it does not answer."""
        try:
            return await self._ask("any", timeout_seconds, lambda models: _list(models, timeout_seconds))
        except GenerationError:
            return frozenset()

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(
        self, model: str, timeout_seconds: float, call: Callable[[AsyncModels], Awaitable[T]]
    ) -> T:
        """Make one call and translate vendor exceptions."""
        if not MODEL_NAME.fullmatch(model):
            raise Misconfigured(
                "model_name", "The model name has invalid characters: check GEMINI_MODEL_NAME."
            )
        if timeout_seconds <= 0:
            raise Transient("timeout", "No time was left for a request to Gemini.")
        models = self._connected().client.aio.models
        try:
            async with asyncio.timeout(timeout_seconds):
                return await call(models)
        except vendor_errors() as exc:
            failure = translate(exc, model)
        # Raised outside the except block, without the vendor's exception as context: that holds the request
        # with its key and photos, and its text quotes the answer's body.
        raise failure

    def _connected(self) -> Connection:
        """Return the connection, built once."""
        if self._connection is None:
            key = self._api_key.reveal()
            check_key(key)
            try:
                self._connection = connect(key)
            except (ValueError, ImportError, OSError) as exc:
                text = f"The Gemini client cannot be created from this environment ({type(exc).__name__})."
                raise Misconfigured("gemini_client", text) from None
        return self._connection


def translate(exc: Exception, model: str) -> GenerationError:
    """Translate a vendor's exception, by its class, code and details only."""
    from google.genai import errors

    name = type(exc).__name__
    if isinstance(exc, errors.APIError):
        return rejection(exc.code, exc.details, _retry_after(exc.response), model)
    if isinstance(exc, (TimeoutError, *_http_classes("TimeoutException"))):
        return Transient("timeout", f"Gemini did not answer in time ({name}).")
    if isinstance(exc, _http_classes("UnsupportedProtocol", "InvalidURL")):
        return Misconfigured("base_url", "GOOGLE_GEMINI_BASE_URL is not a valid URL: correct or remove it.")
    if isinstance(exc, (*_http_classes("DecodingError"), *_UNREADABLE)):
        return Transient("malformed_answer", f"Gemini's answer could not be read ({name}).")
    return Transient("connection", f"The connection to Gemini failed ({name}{_cause(exc)}).")


def vendor_errors() -> tuple[type[Exception], ...]:
    """Return all exceptions a call can raise: those of the SDK, httpx, httpx2 and the system."""
    from google.genai import errors

    http = _http_classes("HTTPError", "InvalidURL", "StreamError", "CookieConflict")
    return (errors.APIError, OSError, *http, *_UNREADABLE)


def _http_classes(*names: str) -> tuple[type[Exception], ...]:
    """Return these classes of httpx (our client) and of its fork httpx2 (the SDK's default), if loaded."""
    modules = [sys.modules[module] for module in ("httpx", "httpx2") if module in sys.modules]
    return tuple(getattr(module, name) for module in modules for name in names)


def _retry_after(response: object) -> str | None:
    value = getattr(response, "headers", {}).get("retry-after")
    return value if isinstance(value, str) else None


def _cause(exc: BaseException | None) -> str:
    """Name the system error that caused a transport error, without its text."""
    while exc is not None:
        if isinstance(exc, socket.gaierror):
            return ": host name not found"
        if isinstance(exc, ssl.SSLCertVerificationError):
            return ": certificate not accepted"
        if isinstance(exc, OSError) and exc.errno is not None and exc.errno in errno.errorcode:
            return f": {errno.errorcode[exc.errno]}"
        exc = exc.__cause__ or exc.__context__
    return ""


async def _request(
    models: AsyncModels, request: GenerationRequest, timeout_seconds: float
) -> types.GenerateContentResponse:
    """Send one `generateContent` request, with its photos as they are already encoded."""
    from google.genai import types

    from worker.gemini.request_body import placeholders

    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        image_config=types.ImageConfig(aspect_ratio=request.aspect_ratio),
        automatic_continuation=False,  # on by default; sends more billed requests without a slot
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        http_options=types.HttpOptions(timeout=_milliseconds(timeout_seconds)),
    )
    with placeholders([photo.encoded for photo in request.photos]) as stand_ins:
        blobs = (
            types.Blob(data=data, mime_type=photo.mime_type)
            for data, photo in zip(stand_ins, request.photos, strict=True)
        )
        parts = [types.Part(text=request.prompt), *(types.Part(inline_data=blob) for blob in blobs)]
        contents = [types.Content(role="user", parts=parts)]
        return await models.generate_content(model=request.model, contents=contents, config=config)


async def _look_up(models: AsyncModels, model: str, timeout_seconds: float) -> types.Model:
    from google.genai import types

    options = types.HttpOptions(timeout=_milliseconds(timeout_seconds))
    return await models.get(model=model, config=types.GetModelConfig(http_options=options))


async def _list(models: AsyncModels, timeout_seconds: float) -> frozenset[str]:
    from google.genai import types

    options = types.HttpOptions(timeout=_milliseconds(timeout_seconds))
    pages = await models.list(config=types.ListModelsConfig(page_size=1000, http_options=options))
    return frozenset([(model.name or "").removeprefix("models/") async for model in pages])


def _milliseconds(seconds: float) -> int:
    """Convert for `HttpOptions.timeout`, where 0 means no timeout."""
    return max(1, math.ceil(seconds * 1000))
