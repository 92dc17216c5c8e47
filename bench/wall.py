"""How long a run takes compared with the ideal schedule of the same calls on as many parallel lines.

No quota limits it. The ideal starts each call as soon as a line is free, without queue, Storage or source
photos; the run has all of these, from its first claim to its summary. Each case runs three times; the median
counts.
"""

from __future__ import annotations

import heapq
import json
import statistics
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from bench.harness.bounds import whole
from bench.harness.figures import REPEATS, spread
from bench.harness.scale import Scale
from bench.harness.site import IMAGES_PER_JOB, Site
from local.simulator.ledger import Call
from local.stack.errors import StackError
from worker.gemini.models import DEFAULT_MODEL

PURPOSE = "a run's time against the ideal schedule, 10 and 64 images at a time; about six minutes"
USER = "customer"
WIDTHS = (10, 64)
MOST_ROUNDS = 28
"""Images per line; one invocation would not start more."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument(
        "--rounds", type=whole(2, MOST_ROUNDS, 2), default=10, help="images per line, even (default: 10)"
    )
    parser.add_argument("--brief", action="store_true", help="four images per line")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Do the runs of each width; print times and ratios; the last line is JSON with the median ratios."""
    rounds = 4 if options.brief else options.rounds
    ratios = {}
    with Site(Scale(60.0), (USER,)) as site:
        print(site.hardware(), flush=True)
        print(f"latency: {site.scale.latency}", flush=True)
        for width in WIDTHS:
            found = [_ratio(site, width, rounds) for _ in range(REPEATS)]
            print(f"{width:>3} at a time: {spread(found)} × the ideal", flush=True)
            ratios[f"ratio_{width}"] = round(statistics.median(found), 3)
    print(json.dumps(ratios), flush=True)


def _ratio(site: Site, width: int, rounds: int) -> float:
    site.begin(quota=1_000_000, gate_rate=100_000)
    site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=100_000, p_burst=1000)
    images = width * rounds
    site.order(USER, images)
    summary = _tick(site, width)
    calls = site.simulator.ledger()
    if summary["images"]["made"] != images or len(calls) != images:
        raise StackError(
            f"A run of {images} images did not make them all: {summary}", "Try fewer `--rounds`."
        )
    ideal = ideal_seconds(calls, width)
    ratio = float(summary["durationSeconds"]) / ideal
    took = f"{images} images in {summary['durationSeconds']:.1f} s"
    print(f"{width:>3} at a time: {took}, ideal {ideal:.1f} s: {ratio:.3f}", flush=True)
    return ratio


def _tick(site: Site, width: int) -> dict[str, Any]:
    """The summary of one run in its own process."""
    settings = {
        "IMAGES_AT_A_TIME": str(width),
        "JOBS_AT_A_TIME": str(max(10, 2 * width // IMAGES_PER_JOB)),
        "MAX_JOBS": "1000",
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "worker", "--no-env-file", "tick"]
    done = subprocess.run(command, env=site.environment() | settings, stdout=subprocess.PIPE, check=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def ideal_seconds(calls: Sequence[Call], width: int) -> float:
    """When the last of these calls would end if each started on the first free one of `width` lines."""
    free = [0.0] * width
    for call in sorted(calls, key=lambda call: call.started):
        began = heapq.heappop(free)
        heapq.heappush(free, began + (call.ended or call.started) - call.started)
    return max(free)
