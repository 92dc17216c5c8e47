"""Other ways to handle a quota, under the same quota at the same time, each with its own model.

The calls are the worker's own adapter over google-genai, so that only the pacing makes the difference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import backoff

from bench.harness.site import COUNTING, WORKERS, Site, photo
from bench.quotas.rates import USER
from local.demo.environment import simulated_gemini
from worker.errors import RateLimited
from worker.gemini.client import Gemini, GenerationRequest
from worker.gemini.models import DEFAULT_MODEL
from worker.jobs import Photo

AT_ONCE = 10
"""Concurrent images of one worker, and of the strategy that has as many."""

CALL_SECONDS = 60.0
DELAY_SECONDS = 1.0
"""Pause between two images of the old worker, in a real deployment."""

BACKOFF_CAP_SECONDS = 60.0
BACKOFF, CROWD, SEQUENTIAL = DEFAULT_MODEL, "gemini-3.1-flash-image", "gemini-3-pro-image"
"""Each strategy has a model, and so a quota, of its own."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A strategy's use of the quota, without the first window, and its share of 429s."""

    name: str
    used: float
    share_429: float


def peers(site: Site, windows: int) -> dict[str, Peer]:
    """Run all strategies at the same time for this many windows after the first."""
    site.begin(site.scale.rate, site.scale.rate)
    os.environ.update(simulated_gemini(site.simulator.url))
    seconds = site.scale.window_seconds * (windows + 1)
    asyncio.run(_work(seconds, site.scale.factor))
    names = {
        "backoff": (BACKOFF, f"backoff, {AT_ONCE} at once"),
        "crowd": (CROWD, f"backoff, {WORKERS} × {AT_ONCE} at once"),
        "counted": (COUNTING, f"backoff, {AT_ONCE} at once, 429s counting as well"),
        "sequential": (SEQUENTIAL, "one at a time, fixed delay"),
    }
    return {key: _peer(site, model, name, windows) for key, (model, name) in names.items()}


def _peer(site: Site, model: str, name: str, windows: int) -> Peer:
    starts, window = site.starts(model), site.scale.window_seconds
    begin = starts.first + window
    used = starts.used(site.scale.rate, window, begin, begin + windows * window)
    return Peer(name, used, starts.share_429)


async def _work(seconds: float, factor: float) -> None:
    gemini = Gemini(simulated_gemini("http://127.0.0.1")["GEMINI_API_KEY"], time.monotonic)
    picture = Photo.of(photo(), "image/jpeg")

    def asks(model: str) -> Callable[[], Awaitable[object]]:
        request = GenerationRequest(model, f"A portrait of {USER}", (picture, picture), "1:1")
        return lambda: gemini.generate(request, CALL_SECONDS)

    tasks = [
        *(asyncio.create_task(_backing_off(asks(BACKOFF), factor)) for _ in range(AT_ONCE)),
        *(asyncio.create_task(_backing_off(asks(CROWD), factor)) for _ in range(AT_ONCE * WORKERS)),
        *(asyncio.create_task(_backing_off(asks(COUNTING), factor)) for _ in range(AT_ONCE)),
        asyncio.create_task(_one_at_a_time(asks(SEQUENTIAL), DELAY_SECONDS * factor)),
    ]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await gemini.close()


async def _backing_off(ask: Callable[[], Awaitable[object]], factor: float) -> None:
    """Make image after image; a 429 is retried after 0 to 1, 2, 4 … 60 s, times the factor."""

    async def once() -> None:
        await ask()

    patient = backoff.on_exception(
        backoff.expo,
        RateLimited,
        factor=factor,
        max_value=BACKOFF_CAP_SECONDS * factor,
        jitter=backoff.full_jitter,
        logger=None,
    )(once)
    while True:
        await patient()


async def _one_at_a_time(ask: Callable[[], Awaitable[object]], delay_seconds: float) -> None:
    """Make image after image with a fixed pause; a 429 is not retried."""
    while True:
        with contextlib.suppress(RateLimited):
            await ask()
        await asyncio.sleep(delay_seconds)
