"""The same orders without a queue: all images are requested once and at once, as by a request handler.

The demo compares the queue with it; the calls are the worker's own, so only the queue makes the difference.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from local.demo.environment import simulated_gemini
from local.demo.orders import Order, images
from worker.errors import GenerationError, RateLimited, Refused
from worker.gemini.client import Gemini, GenerationRequest
from worker.gemini.models import DEFAULT_MODEL
from worker.gemini.prompt import build_prompt
from worker.jobs import Job, Photo

AT_A_TIME = 10
CALL_SECONDS = 60.0
Ending = Literal["photos", "rate_limited", "refused", "source_gone", "failed"]


@dataclass(frozen=True, slots=True)
class Direct:
    """The results, in images; `failed` are those that met an overload or another error."""

    ordered: int
    photos: int
    rate_limited: int
    refused: int
    source_gone: int
    failed: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """With names as in a run's summary."""
        return {
            "ordered": self.ordered,
            "photos": self.photos,
            "rateLimited": self.rate_limited,
            "refused": self.refused,
            "sourceGone": self.source_gone,
            "failed": self.failed,
            "durationSeconds": round(self.seconds, 3),
        }


async def send_directly(orders: Sequence[Order], photos: Mapping[str, bytes], url: str) -> Direct:
    """Ask the Gemini at `url` for every image of the orders, AT_A_TIME at once; an error is final."""
    places = asyncio.Semaphore(AT_A_TIME)
    with _sdk_pointed_at(url) as key:
        gemini = Gemini(key, time.monotonic)
        try:
            await gemini.check(DEFAULT_MODEL)  # the SDK's import is not a part of the comparison
            began = time.monotonic()
            endings = Counter(
                await asyncio.gather(
                    *(
                        _ask(gemini, job, photos, places)
                        for order in orders
                        for job in order.jobs()
                        for _ in job.missing
                    )
                )
            )
        finally:
            await gemini.close()
    return Direct(
        ordered=images(orders),
        photos=endings["photos"],
        rate_limited=endings["rate_limited"],
        refused=endings["refused"],
        source_gone=endings["source_gone"],
        failed=endings["failed"],
        seconds=time.monotonic() - began,
    )


@contextmanager
def _sdk_pointed_at(url: str) -> Iterator[str]:
    """Point google-genai, which reads its address from the environment, at the simulator; yields the key."""
    environment = simulated_gemini(url)
    os.environ["GOOGLE_GEMINI_BASE_URL"] = environment["GOOGLE_GEMINI_BASE_URL"]
    try:
        yield environment["GEMINI_API_KEY"]
    finally:
        del os.environ["GOOGLE_GEMINI_BASE_URL"]


async def _ask(gemini: Gemini, job: Job, photos: Mapping[str, bytes], places: asyncio.Semaphore) -> Ending:
    async with places:
        try:
            sources = tuple(Photo.of(photos[name], "image/jpeg") for name in job.photo_references)
        except KeyError:
            return "source_gone"
        request = GenerationRequest(DEFAULT_MODEL, build_prompt(job), sources, job.aspect_ratio)
        try:
            await gemini.generate(request, CALL_SECONDS)
        except RateLimited:
            return "rate_limited"
        except Refused:
            return "refused"
        except GenerationError:
            return "failed"
        return "photos"
