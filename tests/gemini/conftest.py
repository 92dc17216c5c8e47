"""The Gemini adapter in front of a raw HTTP server, whose answers a test decides on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from tests.support.gemini_wire import KEY
from tests.support.wire import Wire, listening
from worker.gemini.client import Gemini


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """A server that cuts every connection until it has an `answer`, where the SDK looks for Gemini."""
    async with listening() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        yield server


@pytest.fixture
async def gemini(wire: Wire) -> AsyncIterator[Gemini]:
    """The adapter in front of the server."""
    adapter = Gemini(KEY, time.monotonic)
    yield adapter
    await adapter.close()
