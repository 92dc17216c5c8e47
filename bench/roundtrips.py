"""How many requests a run makes to Supabase, by purpose; each takes time and a share of the API."""

from __future__ import annotations

import asyncio
import json
import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass, field

import httpx

from bench.harness.scale import Scale
from bench.harness.site import IMAGES_PER_JOB, Site
from worker.app import Worker
from worker.gemini.models import DEFAULT_MODEL
from worker.run.request import RunRequest
from worker.settings import Settings

PURPOSE = "requests to Supabase, of an idle run and of one that makes photos; about ten seconds"
USER = "customer"
ONCE = ("finish_generation_run", "storage: GET generated-photos")
"""Requests that a run with photos makes once, besides an idle run's; the bucket's, once per process."""

JOBS = 10


@dataclass(slots=True)
class Trips:
    """The requests of one run by purpose."""

    counted: Counter[str] = field(default_factory=Counter)

    async def note(self, request: httpx.Request) -> None:
        """Count a request."""
        parts = [part for part in request.url.path.split("/") if part != "authenticated"]
        kind = parts[-1] if "rpc" in parts else f"storage: {request.method} {parts[4]}"
        self.counted[kind] += 1


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--brief", action="store_true", help="the same: it takes ten seconds")
    parser.set_defaults(measure=measure)


def measure(_options: Namespace) -> None:
    """Do an idle run and one of ten jobs, and print their requests; the last line is JSON with the counts.

    `per_image` leaves out the requests that a run makes once; `per_image_all` includes them.
    """
    scale = Scale(6.0)
    with Site(scale, (USER,)) as site:
        print(site.hardware(), flush=True)
        site.begin(quota=1_000_000, gate_rate=100_000)
        site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=100_000, p_burst=1000)
        os.environ.update(site.environment())
        idle = asyncio.run(_run())
        site.order(USER, JOBS * IMAGES_PER_JOB)
        busy = asyncio.run(_run())
    images = JOBS * IMAGES_PER_JOB
    grown = busy - idle - Counter(ONCE)
    _tell("idle run", idle, Counter())
    _tell(f"run of {JOBS} jobs, {images} images", busy, grown)
    total, of_images = busy.total(), grown.total()
    print(json.dumps({"idle": idle.total(), "busy": total, "per_image": round(of_images / images, 2),
        "per_image_all": round(total / images, 2)}), flush=True)  # fmt: skip


async def _run() -> Counter[str]:
    """The requests of one run."""
    trips = Trips()
    worker = Worker(Settings.from_env(os.environ, "bench"))
    worker.project.http.event_hooks["request"].append(trips.note)
    try:
        await worker.run(RunRequest())
    finally:
        await worker.close()
    return trips.counted


def _tell(what: str, counted: Counter[str], grown: Counter[str]) -> None:
    """Print the requests by kind, and how many of each there are per image."""
    print(f"{what}: {counted.total()}, {grown.total()} of them for the images")
    for kind, number in counted.most_common():
        print(f"  {number:>4} {grown[kind]:>4}  {kind}")
