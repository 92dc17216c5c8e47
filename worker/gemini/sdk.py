"""Builds the google-genai client the way we need it: our key, the Gemini API, no retries of its own."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from worker.errors import Misconfigured
from worker.http_client import certificates, http_client

if TYPE_CHECKING:
    import httpx
    from google import genai


@dataclass(frozen=True, slots=True)
class Connection:
    """The SDK's client and the HTTP clients it was given, which it leaves for us to close."""

    client: genai.Client
    http: httpx.AsyncClient
    unused: httpx.Client

    async def close(self) -> None:
        """Close all connections."""
        self.unused.close()
        await self.http.aclose()


def check_key(api_key: str) -> None:
    """Refuse a key that cannot travel in a header: h11's complaint about it would quote the key."""
    if not api_key:
        raise Misconfigured("api_key_missing", "No Gemini API key is set.")
    if (
        not (api_key.isascii() and api_key.isprintable())
        or " " in api_key
        or api_key.startswith("auth_tokens/")
    ):
        raise Misconfigured(
            "api_key_malformed", "The Gemini API key is not an API key: check GEMINI_API_KEY."
        )


def connect(api_key: str) -> Connection:
    """Build the client; needs a checked key. Raises Misconfigured, ValueError, ImportError or OSError.

    `vertexai=False` and the key are stated, so that no variable can change them. An httpx client of our own
    keeps the SDK off aiohttp, which repeats failed calls by itself; the synchronous one only saves the SDK
    30 ms for certificates of its own. (`_api_client.py` of google-genai 3.6.1)
    """
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
        httpx_client=unused, httpx_async_client=http, retry_options=types.HttpRetryOptions(attempts=1)
    )
    client = genai.Client(api_key=api_key, vertexai=False, http_options=options)
    _keep_for_good()
    return Connection(client, http, unused)


@cache
def _keep_for_good() -> None:
    """Take what is loaded out of the garbage collector's sight, once.

    The SDK brings 80 000 objects. Each full collection looked at them all and kept the event loop for 60 ms.
    """
    gc.collect()
    gc.freeze()
