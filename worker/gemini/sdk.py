"""Builds the google-genai client with our key, for the Gemini API, without its own retries."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from worker.common.http_client import certificates, http_client
from worker.errors import Misconfigured

if TYPE_CHECKING:
    import httpx
    from google import genai


@dataclass(frozen=True, slots=True)
class Connection:
    """The SDK's client and the HTTP clients passed to it, which the SDK does not close."""

    client: genai.Client
    http: httpx.AsyncClient
    unused: httpx.Client

    async def close(self) -> None:
        """Close all connections."""
        self.unused.close()
        await self.http.aclose()


def check_key(api_key: str) -> None:
    """Refuse a key that is not valid in a header, because h11's error message would quote the key."""
    if not api_key:
        raise Misconfigured("api_key_missing", "GEMINI_API_KEY is not set.")
    if (
        not (api_key.isascii() and api_key.isprintable())
        or " " in api_key
        or api_key.startswith("auth_tokens/")
    ):
        raise Misconfigured("api_key_malformed", "GEMINI_API_KEY is not a valid API key: copy it again.")


def connect(api_key: str) -> Connection:
    """Build the client for a checked key. Raises Misconfigured, ValueError, ImportError or OSError.

    `vertexai=False` and the key are explicit, so that no environment variable changes them. Our httpx client
    keeps the SDK from using aiohttp, which retries failed calls; the unused synchronous client, and the TLS
    context for unused websockets, save 30 ms each of loading certificates. (`_api_client.py` of google-genai
    3.6.1)
    """
    _load_sdk()
    import httpx
    from google import genai
    from google.genai import types

    from worker.gemini.request_body import fill_in

    trusted = certificates()
    http, unused = (
        http_client(trusted, event_hooks={"request": [fill_in]}),
        httpx.Client(verify=trusted, trust_env=False),
    )
    options = types.HttpOptions(
        httpx_client=unused,
        httpx_async_client=http,
        async_client_args={"ssl": trusted},
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    client = genai.Client(api_key=api_key, vertexai=False, http_options=options)
    return Connection(client, http, unused)


@cache
def _load_sdk() -> None:
    """Import the SDK, and exclude all loaded objects from garbage collection; once per process.

    The SDK loads 80 000 objects and leaves no garbage. Collecting during the import took a fifth of its time,
    and each full collection later would scan the objects and block the event loop for 60 ms.
    """
    gc.disable()
    try:
        import google.genai.types  # noqa: F401 - loaded for its effect
    finally:
        gc.enable()
    gc.freeze()
