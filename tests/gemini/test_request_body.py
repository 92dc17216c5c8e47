"""Photos in requests to Gemini: the bytes are the SDK's, and sending them blocks nobody."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import httpx
import pytest

from tests.support.wire import listening, reply
from worker.errors import GenerationError
from worker.gemini.client import Gemini, GenerationRequest
from worker.gemini.request_body import PIECE_BYTES, PhotoBody, fill_in, placeholders
from worker.jobs import Photo

URL = "https://gemini.example.com"


def body(photos: list[bytes]) -> bytes:
    """A request as the SDK encodes it."""
    data = [base64.urlsafe_b64encode(photo).decode() for photo in photos]
    return json.dumps({"prompt": "é", "parts": data, "end": True}).encode()


@pytest.mark.parametrize(
    "photos",
    [
        [b"\xfb\xef\xbe"],
        [b"a", b"ab", b"abc", b"abcd"],
        [b"twice", b"twice"],
        [bytes(range(256)) * (PIECE_BYTES // 256 + more) for more in (-1, 0, 1, 2000)],
    ],
    ids=["signs", "ends", "the same", "lengths"],
)
async def test_the_pieces_are_what_the_sdk_would_send(photos: list[bytes]) -> None:
    """Byte for byte, with a content length, and in pieces between which other tasks run."""
    with placeholders([Photo.of(photo, "image/png").encoded for photo in photos]) as stand_ins:
        request = httpx.Request("POST", URL, content=body(stand_ins))
        await fill_in(request)
    assert isinstance(request.stream, PhotoBody)
    pieces = [piece async for piece in request.stream]
    assert b"".join(pieces) == body(photos)
    assert request.headers["Content-Length"] == str(len(body(photos)))
    assert max(map(len, pieces)) <= PIECE_BYTES


async def test_a_request_without_photos_is_left_alone() -> None:
    request = httpx.Request("POST", URL, content=b"{}")
    await fill_in(request)
    assert [piece async for piece in request.stream] == [b"{}"]  # type: ignore[union-attr]


async def test_a_placeholder_is_never_sent() -> None:
    """Should another version of the SDK encode bytes in another way, or send them twice, nothing is sent."""
    with placeholders([b"photo"]) as stand_ins:
        for content in (stand_ins[0].hex().encode(), body(stand_ins * 2)):
            with pytest.raises(ValueError, match="SDK"):
                await fill_in(httpx.Request("POST", URL, content=content))


async def test_large_photos_do_not_hold_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one customer's 49 MB are sent, everybody else's work has its turns."""
    request = GenerationRequest(
        "gemini-3-pro-image", "x", (Photo.of(bytes(7_000_000), "image/png"),) * 7, "1:1"
    )
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async with listening() as wire:
        wire.answer = reply("400 Bad Request", {})
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", wire.url)
        gemini = Gemini("key", time.monotonic)
        gemini.prepare()
        watching = asyncio.create_task(others())
        await asyncio.sleep(0)
        with pytest.raises(GenerationError):
            await gemini.generate(request, 60.0)
        watching.cancel()
        await gemini.close()
    assert len(wire.asked[0].body) > 7 * 7_000_000 / 3 * 4
    assert longest < 0.2


@pytest.mark.parametrize("length", range(5))
def test_a_photo_knows_its_size_without_decoding(length: int) -> None:
    data = bytes(range(251, 251 + length))
    photo = Photo.of(data, "image/png")
    assert (photo.size, photo.data) == (length, data)
    assert b"+" not in photo.encoded and b"/" not in photo.encoded
