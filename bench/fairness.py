"""What one user's orders with photos that never come cost another: the wall time beside them, against alone.

The attacker orders first, a hundred jobs with fourteen photos each, every one at a silent host of its own.
The victim then orders ten jobs of four images, at the gate's rate of 60 a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from argparse import ArgumentParser, Namespace

from bench.hostile_hosts import MUTE, PHOTOS, SILENT_DNS, HostileHosts, hostile_hosts
from bench.scale import Scale
from bench.site import Site
from local.stack.errors import StackError
from worker import log
from worker.app import Worker
from worker.download import PhotoDownload
from worker.photos import MAX_PHOTO_BYTES
from worker.request import RunRequest
from worker.settings import Settings

PURPOSE = "a user's wall time beside another's photos that never come; about three minutes"
VICTIM, ATTACKER = "victim", "attacker"
RATE = 60
IMAGES, ATTACKING_JOBS = 40, 100
KINDS = ("never", MUTE, SILENT_DNS)
"""Ways to be silent: after the request, before TLS, and already when the name is looked up."""

LATENCY_SECONDS = 2.0
"""Of every image: where it varies, as elsewhere, the last one's chance is most of the ratio."""

PATIENCE_SECONDS = 600.0


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--brief", action="store_true", help="half the images")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """The victim alone, then beside each attack; the last line is JSON with the worst ratio."""
    images = IMAGES // 2 if options.brief else IMAGES
    kinds = KINDS[:1] if options.brief else KINDS
    with Site(Scale(60.0), (VICTIM,)) as site, hostile_hosts() as hosts:
        print(site.hardware(), flush=True)
        site.stack.psql("insert into generation.photo_hosts (host) values ('*') on conflict do nothing")
        alone = _seconds(site, hosts, images, None)
        print(f"alone: {images} images in {alone:.1f} s", flush=True)
        ratios = {}
        for kind in kinds:
            seconds = _seconds(site, hosts, images, kind)
            ratios[kind] = seconds / alone
            told = f"{ATTACKING_JOBS} jobs whose {PHOTOS} photos are at hosts of the kind {kind}"
            print(f"beside {told}: {seconds:.1f} s, {ratios[kind]:.2f} ×", flush=True)
    print(json.dumps({"worst_ratio": round(max(ratios.values()), 3)}), flush=True)


def _seconds(site: Site, hosts: HostileHosts, images: int, kind: str | None) -> float:
    """From the victim's order to its last image; one worker does one run after the other."""
    site.begin(quota=1_000_000, gate_rate=RATE)
    site.simulator.configure({"latency": LATENCY_SECONDS})
    if kind:
        for number in range(ATTACKING_JOBS):
            example, *training = hosts.urls(kind, name=f"{number}-")
            site.enqueue(ATTACKER, [{"url": example, "prompt": f"number {number}"}], training, 1)
    (batch,) = site.order(VICTIM, images)
    asyncio.run(_work_until(site, hosts, batch))
    (row,) = site.rows(f"""
      select extract(epoch from "completedAt" - "createdAt") as seconds, status
      from public.photo_generation_batches where id = '{batch}'""")
    if row["status"] != "completed":
        raise StackError(f"The victim's batch is {row['status']}.", "It should be completed.")
    return float(row["seconds"])


async def _work_until(site: Site, hosts: HostileHosts, batch: str) -> None:
    environment = site.environment() | {"LOG_LEVEL": "CRITICAL"}
    log.set_up(environment)
    os.environ["GOOGLE_GEMINI_BASE_URL"] = environment["GOOGLE_GEMINI_BASE_URL"]  # the SDK reads it by itself
    settings = Settings.from_env(environment, "worker-bench")
    web = PhotoDownload(max_bytes=MAX_PHOTO_BYTES, network=hosts.network)
    worker = Worker(settings, web)

    async def run() -> None:
        while True:
            summary = await worker.run(RunRequest())
            if summary["stopReason"] == "queue_empty":
                await asyncio.sleep(1)

    running = asyncio.create_task(run())
    query = f"""select "completedAt" from public.photo_generation_batches where id = '{batch}'"""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (await asyncio.to_thread(site.rows, query))[0]["completedAt"] is None:
        if running.done() or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    running.cancel()
    await asyncio.wait([running])
    await worker.close()
