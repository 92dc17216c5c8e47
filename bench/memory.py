"""What a photo costs in processor time and memory: runs whose source photos are as large as they may be.

A run of twice the images must not need more memory: it is bounded by how many are made at a time.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.request
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass

from PIL import Image

from bench.scale import Scale
from bench.site import BUCKET, IMAGES_PER_JOB, Site
from local.stack.supabase import DIRECT
from worker.model import DEFAULT_MODEL

PURPOSE = "processor time and peak memory per image, with small and with large photos; about a minute"
USER = "customer"
SIDES = {"small": 512, "large": 3300}
"""Pixels of a square of noise, about 0.2 and 6.6 MB as JPEG; 7 MB is the most that is sent to Gemini."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process used in all: seconds of processor, and the most memory it had resident."""

    processor_seconds: float
    peak_megabytes: float


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--images", type=int, default=80, help="of the shorter runs (default: 80)")
    parser.add_argument("--brief", action="store_true", help="forty images")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Does an idle run, and two of each size of photos; the last line is JSON with figures of the large."""
    images = 40 if options.brief else options.images
    with Site(Scale(6.0), (USER,)) as site:
        print(site.hardware(), flush=True)
        site.simulator.configure({"scale": 1.0})
        idle = _run(site, 0)
        print(f"idle run: {idle.processor_seconds:.2f} s of processor, {idle.peak_megabytes:.0f} MB")
        spent = {}
        for size, side in SIDES.items():
            megabytes = _upload(site, side)
            for count in (images, 2 * images):
                spent[size, count] = found = _run(site, count)
                each = (found.processor_seconds - idle.processor_seconds) / count
                what = f"{count:>4} images of 2 photos of {megabytes:.1f} MB"
                used = f"{each * 1000:.0f} ms of processor each, {found.peak_megabytes:.0f} MB at most"
                print(f"{what}: {used}", flush=True)
    short, long = spent["large", images], spent["large", 2 * images]
    print(json.dumps({
        "cpu_seconds_per_image": round((long.processor_seconds - idle.processor_seconds) / (2 * images), 4),
        "peak_mb": round(long.peak_megabytes),
        "peak_ratio_of_twice_the_images": round(long.peak_megabytes / short.peak_megabytes, 3),
    }), flush=True)  # fmt: skip


def _upload(site: Site, side: int) -> float:
    """Puts a photo of noise in the customer's place; its megabytes."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "JPEG", quality=75)
    url = f"{site.stack.url}/storage/v1/object/{BUCKET}/{USER}/me.jpg"
    headers = {"apikey": site.stack.secret_key, "content-type": "image/jpeg", "x-upsert": "true"}
    request = urllib.request.Request(url, out.getvalue(), headers, method="PUT")
    DIRECT.open(request, timeout=60).close()
    return len(out.getvalue()) / 1e6


def _run(site: Site, images: int) -> Spent:
    """One run in a process of its own."""
    site.begin(quota=1_000_000, gate_rate=100_000)
    site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=100_000, p_burst=1000)
    if images:
        site.order(USER, images)
    settings = {
        "INVOCATION_TIMEOUT_SECONDS": "240",
        "MARGIN_SECONDS": "20",
        "CALL_TIMEOUT_SECONDS": "60",
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "worker", "--no-env-file", "tick"]
    started = subprocess.Popen(command, env=site.environment() | settings, stdout=subprocess.PIPE)
    assert started.stdout is not None
    summary = json.loads(started.stdout.read())
    _, status, used = os.wait4(started.pid, 0)
    if status or summary["images"]["made"] != images // IMAGES_PER_JOB * IMAGES_PER_JOB:
        raise RuntimeError(f"not the run that was to be measured: {summary}")
    return Spent(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
