"""What one user's orders cost another: the wall time beside them, against alone.

The attacker orders first: photos that never come, each at a silent host of its own; or the most images, with
small photos or the largest. The victim orders ten jobs of four images once a run works on the attacker's.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

from bench.hostile_hosts import MUTE, PHOTOS, SILENT_DNS, HostileHosts, hostile_hosts
from bench.scale import Scale
from bench.site import Site, photo
from local.stack.errors import StackError
from worker import log
from worker.app import Worker
from worker.photos.download import PhotoDownload
from worker.photos.fetch import MAX_PHOTO_BYTES
from worker.run.memory import CALL_BYTES, PHOTO_BYTES
from worker.run.request import RunRequest
from worker.settings import Settings

PURPOSE = "a user's wall time beside another's orders; about five minutes"
VICTIM, ATTACKER = "victim", "attacker"
IMAGES = 40
SLOW_RATE, FAST_RATE = 60, 6000
"""Starts a minute: where the gate is the bound, and where the worker is."""

SILENT_JOBS, MANY_JOBS, MANY_IMAGES = 100, 20, 10
SCALED = 1000
"""How many times smaller photos and the memory for them are: their bytes would keep the machine busy."""

LATENCY_SECONDS = 2.0
"""Of every image: where it varies, as elsewhere, the last one's chance is most of the ratio."""

PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Attack:
    """What the attacker orders, and at which rate of the gate."""

    told: str
    rate: int
    order: Callable[[Site, HostileHosts], None]


def _silent(kind: str) -> Attack:
    def order(site: Site, hosts: HostileHosts) -> None:
        for number in range(SILENT_JOBS):
            example, *training = hosts.urls(kind, name=f"{number}-")
            site.enqueue(ATTACKER, [{"url": example, "prompt": f"number {number}"}], training, 1)

    told = f"{SILENT_JOBS} jobs whose {PHOTOS} photos are at hosts of the kind {kind}"
    return Attack(told, SLOW_RATE, order)


def _many(told: str, photos: int, size: int) -> Attack:
    def order(site: Site, _hosts: HostileHosts) -> None:
        data = photo().ljust(size, b"\0")
        first, *training = [site.upload(ATTACKER, f"{number}.jpg", data) for number in range(photos)]
        examples = [{"url": first, "prompt": f"number {number}"} for number in range(MANY_JOBS)]
        site.enqueue(ATTACKER, examples, training, MANY_IMAGES)

    return Attack(f"{MANY_JOBS} jobs of {MANY_IMAGES} images with {told}", FAST_RATE, order)


ATTACKS = {
    "large": _many("60 MB of photos", 9, 6_600_000 // SCALED),
    "small": _many("two small photos", 2, 0),
    "never": _silent("never"),
    MUTE: _silent(MUTE),
    SILENT_DNS: _silent(SILENT_DNS),
}
"""Silent are hosts after the request, before TLS, and already when their name is looked up."""

BRIEF = ("large", "never")


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--brief", action="store_true", help="half the images, two attacks")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """The victim alone, then beside each attack; the last line is JSON with the ratios."""
    images = IMAGES // 2 if options.brief else IMAGES
    names = BRIEF if options.brief else tuple(ATTACKS)
    alone: dict[int, float] = {}
    ratios = {}
    with Site(Scale(60.0), (VICTIM,)) as site, hostile_hosts() as hosts, ExitStack() as patches:
        print(site.hardware(), flush=True)
        site.stack.psql("insert into generation.photo_hosts (host) values ('*') on conflict do nothing")
        for what, size in (
            ("app.CALL_BYTES", CALL_BYTES),
            ("app.PHOTO_BYTES", PHOTO_BYTES),
            ("photo_memory.MAX_PHOTO_BYTES", MAX_PHOTO_BYTES),
        ):
            patches.enter_context(patch(f"worker.{what}", size // SCALED))
        for name in names:
            attack = ATTACKS[name]
            if attack.rate not in alone:
                alone[attack.rate] = _seconds(site, hosts, images, attack.rate, None)
                print(
                    f"alone, {attack.rate} a minute: {images} images in {alone[attack.rate]:.1f} s",
                    flush=True,
                )
            seconds = _seconds(site, hosts, images, attack.rate, attack)
            ratios[name] = round(seconds / alone[attack.rate], 3)
            print(f"beside {attack.told}: {seconds:.1f} s, {ratios[name]:.2f} ×", flush=True)
    print(json.dumps({"ratios": ratios, "worst_ratio": max(ratios.values())}), flush=True)


def _seconds(site: Site, hosts: HostileHosts, images: int, rate: int, attack: Attack | None) -> float:
    """From the victim's order to its last image; one worker does one run after the other."""
    site.begin(quota=1_000_000, gate_rate=rate)
    site.simulator.configure({"latency": LATENCY_SECONDS})
    if attack:
        attack.order(site, hosts)
    batch = asyncio.run(_work(site, hosts, images, bool(attack)))
    (row,) = site.rows(f"""
      select extract(epoch from "completedAt" - "createdAt") as seconds, status
      from public.photo_generation_batches where id = '{batch}'""")
    if row["status"] != "completed":
        raise StackError(f"The victim's batch is {row['status']}.", "It should be completed.")
    return float(row["seconds"])


async def _work(site: Site, hosts: HostileHosts, images: int, attacked: bool) -> str:
    """The victim's batch, ordered once a run works on the attacker's orders, when it has ended."""
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
    if attacked:
        await _until(site, running, "select from public.photo_generation_queue where status = 'processing'")
    (batch,) = await asyncio.to_thread(site.order, VICTIM, images)
    ended = (
        f"""select from public.photo_generation_batches where id = '{batch}' and "completedAt" is not null"""
    )
    await _until(site, running, ended)
    running.cancel()
    await asyncio.wait([running])
    await worker.close()
    return batch


async def _until(site: Site, running: asyncio.Task[None], query: str) -> None:
    """Wait until a query finds something, as long as the worker runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not running.done() and time.monotonic() < deadline:
        if await asyncio.to_thread(site.rows, query):
            return
        await asyncio.sleep(0.5)
