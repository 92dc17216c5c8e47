"""The Gemini adapter in front of a raw HTTP server, whose answers a test decides on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from tests.support.gemini_wire import KEY
from tests.support.simulated import gemini, generate, hand_clock, server, wire
from tests.support.wire import Wire, listening
from worker.gemini.client import Gemini

__all__ = ["gemini", "generate", "hand_clock", "server", "wire"]


@pytest.fixture
async def raw_google(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """A server that cuts every connection until it has an `answer`, where the SDK looks for Gemini."""
    async with listening() as wire:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", wire.url)
        yield wire


@pytest.fixture
async def adapter(raw_google: Wire) -> AsyncIterator[Gemini]:
    """The adapter in front of that server."""
    gemini = Gemini(KEY, time.monotonic)
    yield gemini
    await gemini.close()
