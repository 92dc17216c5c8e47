"""How much one user's orders delay another user's: wall time beside them ÷ wall time alone.

The attacker orders first: photos that never arrive, each on its own silent host; or the most images, with
small photos or the largest; or one or six jobs of ten images at a gate of one start a second, with one worker
or three. The victim then orders ten jobs of four images, or a single job in the last case, as soon as each
worker has jobs of the attacker, or all of them are claimed.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest.mock import patch

from bench.harness.scale import Scale
from bench.harness.site import Site, photo
from bench.hostile_hosts import MUTE, PHOTOS, SILENT_DNS, HostileHosts, hostile_hosts
from local.stack.errors import StackError
from worker import log
from worker.app import Worker
from worker.photos.download import PhotoDownload
from worker.photos.memory import PHOTO_BYTES
from worker.photos.prepare import MAX_PREPARED_BYTES
from worker.run.request import RunRequest
from worker.settings import Settings

PURPOSE = "a user's wall time beside another's orders; about seven minutes"
VICTIM, ATTACKER = "victim", "attacker"
IMAGES, FEW_IMAGES = 40, 4
SLOW_RATE, FAST_RATE = 60, 6000
"""Starts per minute: when the gate is the limit, and when the worker is."""

SILENT_JOBS, MANY_JOBS, MANY_IMAGES = 100, 20, 10
TIMES = 3
"""How often a victim with few images is measured; the median counts."""

SCALED = 1000
"""How many times smaller photos and their memory are than in reality, to save processor time."""

LATENCY_SECONDS = 2.0
"""Latency of every image; a random one of the last image would dominate the ratio."""

PATIENCE_SECONDS = 600.0

CLAIMED = """
    select from (
      select count(distinct "lockedBy") filter (where status = 'processing') as busy,
        count(*) filter (where status = 'pending') as unclaimed
      from public.photo_generation_queue
    ) as q
    where busy >= {workers} or unclaimed = 0"""
"""Each worker has jobs, or there is nothing left to claim."""


@dataclass(frozen=True, slots=True)
class Attack:
    """The attacker's orders, the gate's rate, the victim's images, and the number of workers."""

    told: str
    rate: int
    order: Callable[[Site, HostileHosts], None]
    images: int = IMAGES
    workers: int = 1


def _silent(kind: str) -> Attack:
    def order(site: Site, hosts: HostileHosts) -> None:
        for number in range(SILENT_JOBS):
            example, *training = hosts.urls(kind, name=f"{number}-")
            site.enqueue(ATTACKER, [{"url": example, "prompt": f"number {number}"}], training, 1)

    told = f"{SILENT_JOBS} jobs whose {PHOTOS} photos are at hosts of the kind {kind}"
    return Attack(told, SLOW_RATE, order)


def _many(told: str, photos: int, size: int) -> Attack:
    order = _ordered(MANY_JOBS, photos, size)
    return Attack(f"{MANY_JOBS} jobs of {MANY_IMAGES} images with {told}", FAST_RATE, order)


def _few(jobs: int, workers: int) -> Attack:
    told = f"{jobs} job(s) of {MANY_IMAGES} images, {workers} worker(s)"
    return Attack(told, SLOW_RATE, _ordered(jobs, 2, 0), FEW_IMAGES, workers)


def _ordered(jobs: int, photos: int, size: int) -> Callable[[Site, HostileHosts], None]:
    def order(site: Site, _hosts: HostileHosts) -> None:
        data = photo().ljust(size, b"\0")
        first, *training = [site.upload(ATTACKER, f"{number}.jpg", data) for number in range(photos)]
        examples = [{"url": first, "prompt": f"number {number}"} for number in range(jobs)]
        site.enqueue(ATTACKER, examples, training, MANY_IMAGES)

    return order


ATTACKS = {
    "one_job": _few(1, 1),
    "six_jobs": _few(6, 1),
    "one_job_three_workers": _few(1, 3),
    "six_jobs_three_workers": _few(6, 3),
    "large": _many("60 MB of photos", 9, 6_600_000 // SCALED),
    "small": _many("two small photos", 2, 0),
    "never": _silent("never"),
    MUTE: _silent(MUTE),
    SILENT_DNS: _silent(SILENT_DNS),
}
"""Hosts that are silent after the request, before TLS, or when their name is looked up."""

BRIEF = ("one_job", "six_jobs", "six_jobs_three_workers", "large")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--brief", action="store_true", help="half the images, four attacks")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measure the victim alone, then beside each attack; the last line is JSON with the ratios."""
    names = BRIEF if options.brief else tuple(ATTACKS)
    alone: dict[tuple[int, int], float] = {}
    ratios = {}
    with Site(Scale(60.0), (VICTIM,)) as site, hostile_hosts() as hosts, ExitStack() as patches:
        print(site.hardware(), flush=True)
        site.stack.psql("insert into generation.photo_hosts (host) values ('*') on conflict do nothing")
        for what, size in (
            ("app.PHOTO_BYTES", PHOTO_BYTES),
            ("photos.memory.MAX_PREPARED_BYTES", MAX_PREPARED_BYTES),
        ):
            patches.enter_context(patch(f"worker.{what}", size // SCALED))
        for name in names:
            attack = ATTACKS[name]
            if options.brief and attack.images == IMAGES:
                attack = replace(attack, images=IMAGES // 2)
            times = 1 if options.brief or attack.images == IMAGES else TIMES
            kind = attack.rate, attack.images
            if kind not in alone:
                nothing = Attack("alone", attack.rate, lambda _site, _hosts: None, attack.images)
                alone[kind] = _median(site, hosts, nothing, times)
                told = f"alone, {attack.rate} a minute: {attack.images} images"
                print(f"{told} in {alone[kind]:.1f} s", flush=True)
            seconds = _median(site, hosts, attack, times)
            ratios[name] = round(seconds / alone[kind], 3)
            print(f"beside {attack.told}: {seconds:.1f} s, {ratios[name]:.2f} ×", flush=True)
    print(json.dumps({"ratios": ratios, "worst_ratio": max(ratios.values())}), flush=True)


def _median(site: Site, hosts: HostileHosts, attack: Attack, times: int) -> float:
    return statistics.median(_seconds(site, hosts, attack) for _ in range(times))


def _seconds(site: Site, hosts: HostileHosts, attack: Attack) -> float:
    """From the victim's order to its last image; each worker does one run after the other."""
    site.begin(quota=1_000_000, gate_rate=attack.rate)
    site.simulator.configure({"latency": LATENCY_SECONDS})
    batch = asyncio.run(_work(site, hosts, attack))
    (row,) = site.rows(f"""
      select extract(epoch from "completedAt" - "createdAt") as seconds, status
      from public.photo_generation_batches where id = '{batch}'""")
    if row["status"] != "completed":
        raise StackError(f"The victim's batch is {row['status']}.", "It should be completed.")
    return float(row["seconds"])


async def _work(site: Site, hosts: HostileHosts, attack: Attack) -> str:
    """Order the victim's batch once the workers have claimed the attacker's jobs, and wait for its end."""
    environment = site.environment() | {"LOG_LEVEL": "CRITICAL"}
    log.set_up(environment)
    os.environ["GOOGLE_GEMINI_BASE_URL"] = environment["GOOGLE_GEMINI_BASE_URL"]  # the SDK reads it by itself
    workers = []
    for number in range(attack.workers):
        settings = Settings.from_env(environment, f"worker-{number}")
        web = PhotoDownload(network=hosts.network)
        workers.append(Worker(settings, web))
        workers[-1].gemini.prepare()
        await workers[-1].run(RunRequest())  # with an empty queue: builds its clients
    await asyncio.to_thread(attack.order, site, hosts)
    running = [asyncio.create_task(_runs(worker)) for worker in workers]
    await _until(site, running, CLAIMED.format(workers=attack.workers))
    (batch,) = await asyncio.to_thread(site.order, VICTIM, attack.images)
    ended = (
        f"""select from public.photo_generation_batches where id = '{batch}' and "completedAt" is not null"""
    )
    await _until(site, running, ended)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for worker in workers:
        await worker.close()
    return batch


async def _runs(worker: Worker) -> None:
    while True:
        summary = await worker.run(RunRequest())
        if summary["stopReason"] == "queue_empty":
            await asyncio.sleep(1)


async def _until(site: Site, running: Sequence[asyncio.Task[None]], query: str) -> None:
    """Wait until a query finds a row, or the workers end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(task.done() for task in running) and time.monotonic() < deadline:
        if await asyncio.to_thread(site.rows, query):
            return
        await asyncio.sleep(0.2)
