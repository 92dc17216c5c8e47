"""One process of DBOS that makes images from its queue; only `bench.quotas.dbos_queue` starts it.

The queue has DBOS's own means: a limiter for the quota, a partition for each user, retries of its steps. The
calls are the worker's own adapter over google-genai, as for the other peers.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

from dbos import DBOS

from bench.harness.site import photo
from local.demo.environment import simulated_gemini
from worker.gemini.client import Gemini, GenerationRequest
from worker.gemini.models import DEFAULT_MODEL
from worker.jobs import Photo

QUEUE, WORKFLOW = "photos", "make_photo"
AT_ONCE = 10
CALL_SECONDS = 60.0
TRIES = 10


def main() -> None:
    """Works until it is told to end. The argument is JSON: database, executor, limit, period, factor."""
    told: dict[str, Any] = json.loads(sys.argv[1])
    DBOS(
        config={
            "name": "bench",
            "system_database_url": told["database"],
            "executor_id": told["executor"],
            "application_version": "1",
            "log_level": "WARNING",
        }
    )
    _define(told["factor"])
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        limiter={"limit": told["limit"], "period": told["period"]},
        worker_concurrency=AT_ONCE,
        partition_worker_concurrency=AT_ONCE // 2,
        polling_interval_sec=told["factor"],
    )
    signal.sigwait({signal.SIGTERM})
    DBOS.destroy()


def _define(factor: float) -> None:
    """The workflow of an image, and its step, whose first retry comes after a second × the factor."""
    gemini = Gemini(simulated_gemini("http://127.0.0.1")["GEMINI_API_KEY"], time.monotonic)
    gemini.prepare()
    picture = Photo.of(photo(), "image/jpeg")

    async def request(user: str) -> None:
        asked = GenerationRequest(DEFAULT_MODEL, f"A portrait of {user}", (picture, picture), "1:1")
        await gemini.generate(asked, CALL_SECONDS)

    step = DBOS.step(retries_allowed=True, interval_seconds=factor, max_attempts=TRIES)(request)

    async def make_photo(user: str) -> None:
        await step(user)

    DBOS.workflow(name=WORKFLOW)(make_photo)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
