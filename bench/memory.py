"""The processor time and memory that source photos of the largest size cost.

A run with twice the images must not need more memory: the number of concurrent images limits it, and with the
most and largest photos of orders, the worker's limits for photos in memory do. Each case runs three times;
the medians count. Then the served function is called for three such runs at once.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench.harness.bounds import whole
from bench.harness.figures import REPEATS, spread
from bench.harness.scale import Scale
from bench.harness.served import SECRET, served
from bench.harness.site import IMAGES_PER_JOB, Site
from local.demo.simulation import ROOT
from local.stack.errors import StackError
from tests.support.clone import descendants
from worker.gemini.models import DEFAULT_MODEL

PURPOSE = "processor time and peak memory per image, with small and with large photos; about five minutes"
USER = "customer"
MOST = 400
"""Images of the shorter run; the longer one makes twice as many within an invocation."""

SIDES = {"small": 512, "large": 3300}
"""Edges in pixels of a noise image, about 0.2 and 6.6 MB as JPEG."""

ORDERS, PHOTOS = 10, 14
"""The worst run: orders of one image with the most photos, all different."""

SAMPLE_SECONDS = 0.02

USERS = tuple(f"customer-{number}" for number in range(3))
"""The users of concurrent runs, with half of the jobs each, because one user gets only half of the memory."""

SETTINGS = {
    "INVOCATION_TIMEOUT_SECONDS": "240",
    "MARGIN_SECONDS": "20",
    "CALL_TIMEOUT_SECONDS": "60",
    "LOG_LEVEL": "WARNING",
}
"""The scale's minute would be too short for these runs."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process and its decoders used: processor seconds, and peak memory."""

    processor_seconds: float
    peak_megabytes: float


@dataclass(frozen=True, slots=True)
class Case:
    """Repetitions of one run; `idle` is the processor time of a run without images."""

    images: int
    runs: tuple[Spent, ...]
    idle: float = 0.0

    @property
    def milliseconds(self) -> list[float]:
        """Processor time of each run, per image if it made any."""
        spent = (run.processor_seconds - self.idle for run in self.runs)
        return [seconds / max(self.images, 1) * 1000 for seconds in spent]

    @property
    def megabytes(self) -> list[float]:
        """Peak memory of each run."""
        return [run.peak_megabytes for run in self.runs]

    def __str__(self) -> str:
        return f"{spread(self.milliseconds, 0)} ms of processor, {spread(self.megabytes, 0)} MB at most"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    images = whole(IMAGES_PER_JOB, MOST, IMAGES_PER_JOB)
    told = f"of the shorter runs, in jobs of {IMAGES_PER_JOB} (default: 80)"
    parser.add_argument("--images", type=images, default=80, help=told)
    parser.add_argument("--brief", action="store_true", help="forty images")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Do an idle run, and two runs for each size; the last line is JSON with the figures of large photos."""
    images = 40 if options.brief else options.images
    with Site(Scale(6.0), (USER, *USERS)) as site:
        print(site.hardware(), flush=True)
        site.simulator.configure({"scale": 1.0})
        idle = Case(0, repeated(site, 0))
        print(f"idle run: {idle}", flush=True)
        base = statistics.median(idle.milliseconds) / 1000
        cases = {}
        for size, side in SIDES.items():
            photo = _photo(side)
            site.upload(USER, "me.jpg", photo)
            for count in (images, 2 * images):
                cases[size, count] = case = Case(count, repeated(site, count), base)
                print(f"{count:>4} images of 2 photos of {len(photo) / 1e6:.1f} MB, each: {case}", flush=True)
        orders = _upload_worst(site, USER, ORDERS, photo)
        worst = Case(ORDERS, repeated(site, ORDERS, lambda: _order_worst(site, USER, orders)), base)
        print(f"{ORDERS:>4} images of {PHOTOS} such photos of their own, each: {worst}", flush=True)
        at_once = _three_at_once(site, photo)
        print(
            f"   3 runs of {ORDERS // 2} such images at once in one worker: {at_once:.0f} MB at most",
            flush=True,
        )
    short, long = cases["large", images], cases["large", 2 * images]
    peak = statistics.median(long.megabytes)
    print(json.dumps({
        "cpu_seconds_per_image": round(statistics.median(long.milliseconds) / 1000, 4),
        "peak_mb": round(peak),
        "peak_mb_at_worst": round(statistics.median(worst.megabytes)),
        "peak_mb_of_three_worst": round(at_once),
        "peak_ratio_of_twice_the_images": round(peak / statistics.median(short.megabytes), 3),
    }), flush=True)  # fmt: skip


def _photo(side: int) -> bytes:
    """A JPEG of noise."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "JPEG", quality=75)
    return out.getvalue()


def _upload_worst(site: Site, user: str, orders: int, photo: bytes) -> list[list[str]]:
    """Upload the photos of each order, all different: bytes after the JPEG's end make each unique."""
    names = [[f"{order}-{number}.jpg" for number in range(PHOTOS)] for order in range(orders)]
    return [[site.upload(user, name, photo + name.encode()) for name in of_one] for of_one in names]


def _order_worst(site: Site, user: str, orders: list[list[str]]) -> None:
    for number, (example, *training) in enumerate(orders):
        site.enqueue(user, [{"url": example, "prompt": f"number {number}"}], training, 1)


def _three_at_once(site: Site, photo: bytes) -> float:
    """The peak resident megabytes of all processes of the served function."""
    orders = {user: _upload_worst(site, user, ORDERS // 2, photo) for user in USERS}
    _begin(site)
    for user, of_user in orders.items():
        _order_worst(site, user, of_user)
    settings = SETTINGS | {"WORKER_SECRET": SECRET, "MAX_JOBS": str(ORDERS // 2)}
    environment = site.environment() | settings
    with served("process_generation_queue", ROOT / "main.py", environment) as function:
        ended = threading.Event()
        with ThreadPoolExecutor(len(USERS) + 1) as callers:
            memory = callers.submit(_most_megabytes, function.pid, ended)
            summaries = list(callers.map(lambda _: json.loads(function.ask()), USERS))
            ended.set()
            peak = memory.result()
    if [summary["images"]["made"] for summary in summaries] != [ORDERS // 2] * len(USERS):
        raise StackError(
            f"Not each of the runs made its images: {summaries}", "See the function's log above."
        )
    return peak


def _most_megabytes(pid: int, ended: threading.Event) -> float:
    """The peak memory of a process and its descendants until the event is set."""
    most = 0
    while not ended.wait(SAMPLE_SECONDS):
        most = max(most, _kilobytes((pid, *descendants(pid))))
    return most / 1024


def _kilobytes(pids: Sequence[int]) -> int:
    """The private memory of processes, plus their shared files (mostly libraries), counted once."""
    own, files = 0, [0]
    for pid in pids:
        with suppress(OSError):
            lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            found = {words[0]: int(words[1]) for words in lines if words and words[0].startswith("Rss")}
            own += found.get("RssAnon:", 0) + found.get("RssShmem:", 0)
            files.append(found.get("RssFile:", 0))
    return own + max(files)


def repeated(site: Site, images: int, order: Callable[[], object] | None = None) -> tuple[Spent, ...]:
    usual = (lambda: site.order(USER, images)) if images else (lambda: None)
    return tuple(_run(site, images, order or usual) for _ in range(REPEATS))


def _run(site: Site, images: int, order: Callable[[], object]) -> Spent:
    """Do one run of the enqueued jobs in its own process."""
    _begin(site)
    order()
    settings = SETTINGS | {"MAX_JOBS": str(2 * MOST // IMAGES_PER_JOB)}
    command = [sys.executable, "-m", "worker", "--no-env-file", "tick"]
    started = subprocess.Popen(command, env=site.environment() | settings, stdout=subprocess.PIPE)
    assert started.stdout is not None
    ended = threading.Event()
    with ThreadPoolExecutor(1) as watching:
        memory = watching.submit(_most_megabytes, started.pid, ended)
        summary = json.loads(started.stdout.read())
        ended.set()
    _, status, used = os.wait4(started.pid, 0)
    if status or summary["images"]["made"] != images:
        raise StackError(
            f"A run of {images} images did not make them all: {summary}", "Try fewer with `--images`."
        )
    return Spent(used.ru_utime + used.ru_stime, memory.result())


def _begin(site: Site) -> None:
    """Empty the queue, and set a rate that no run has to wait for."""
    site.begin(quota=1_000_000, gate_rate=100_000)
    site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=100_000, p_burst=1000)
