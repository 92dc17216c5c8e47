"""A Gemini simulator and the real google-genai client for the tests of the simulator."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import types
from PIL import Image

from local.simulator.gemini import Simulator
from local.simulator.ledger import Ledger

MODEL = "gemini-2.5-flash-image"
Generate = Callable[..., Coroutine[Any, Any, types.GenerateContentResponse]]

# Loading the certificates that plain HTTP never uses would take most of the tests' time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HandClock:
    """A clock that only a test moves; in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def photo(left: str = "black", right: str = "white") -> bytes:
    """A photo whose halves differ."""
    image = Image.new("RGB", (300, 200), left)
    image.paste(right, (150, 0, 300, 200))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def images(answer: types.GenerateContentResponse) -> list[bytes]:
    """The images of an answer."""
    blobs = [part.inline_data for part in answer.parts or []]
    return [blob.data for blob in blobs if blob is not None and blob.data is not None]


async def settled(gemini: Simulator, condition: Callable[[Ledger], object]) -> None:
    """Wait until the ledger fulfils the condition: a client that has gone cannot see it change."""
    assert await asyncio.to_thread(gemini.ledger.wait, condition), gemini.ledger.summary()


def sdk(wire: httpx.AsyncClient, url: str, timeout_seconds: float = 10.0, **options: Any) -> genai.Client:
    """A real client; its timeout is in milliseconds."""
    http = types.HttpOptions(
        base_url=url,
        timeout=round(timeout_seconds * 1000),
        httpx_async_client=wire,
        httpx_client=httpx.Client(verify=NO_TLS),
        client_args={"verify": NO_TLS},
        async_client_args={"verify": NO_TLS},
        **options,
    )
    return genai.Client(api_key="key-of-a-test", http_options=http)


@pytest.fixture(scope="module")
def hand_clock() -> HandClock:
    """Times the simulator's quotas and ledger."""
    return HandClock()


@pytest.fixture(scope="module")
def server(hand_clock: HandClock) -> Iterator[Simulator]:
    """One simulator for a module, without latency and with small pictures."""
    with Simulator(clock=hand_clock, latency=0.0, scale=0.1) as simulator:
        yield simulator


@pytest.fixture
def gemini(server: Simulator, hand_clock: HandClock) -> Simulator:
    """The simulator as it was at first."""
    hand_clock.seconds = 0.0
    server.reset()
    return server


@pytest.fixture
async def wire() -> AsyncIterator[httpx.AsyncClient]:
    """The connections of the test's client."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        yield client


@pytest.fixture
def generate(gemini: Simulator, wire: httpx.AsyncClient) -> Generate:
    """Order one image: `await generate("prompt")`."""
    usual = sdk(wire, gemini.url)

    async def order(
        prompt: str = "a portrait",
        ratio: str = "1:1",
        model: str = MODEL,
        photos: tuple[bytes, ...] = (photo(),),
        client: genai.Client = usual,
        mime_type: str = "image/png",
    ) -> types.GenerateContentResponse:
        parts = [types.Part.from_bytes(data=data, mime_type=mime_type) for data in photos]
        return await client.aio.models.generate_content(
            model=model,
            contents=types.Content(parts=[*parts, types.Part.from_text(text=prompt)], role="user"),
            config=types.GenerateContentConfig(
                response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio=ratio)
            ),
        )

    return order
