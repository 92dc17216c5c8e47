"""A cold start: the time from process start to the answer of the first idle run, and the memory after it.

For comparison, served the same way: the smallest function that makes one RPC through `supabase`, and a hello
world.
"""

from __future__ import annotations

import json
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.bounds import whole
from bench.harness.figures import spread
from bench.harness.scale import Scale
from bench.harness.served import SECRET, served
from bench.harness.site import Site
from local.demo.simulation import ROOT

PURPOSE = "start to first idle answer, and memory, against the smallest function; about two minutes"
SMALLEST = """
import os

import functions_framework.aio
from supabase import acreate_client

client = None


@functions_framework.aio.http
async def smallest(request):
    global client
    if client is None:
        client = await acreate_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SERVICE_ROLE_KEY"])
    answer = await client.rpc("generation_schema_version", {}).execute()
    return {"version": answer.data["version"]}
"""
HELLO = """
import functions_framework.aio


@functions_framework.aio.http
async def hello(request):
    return "hello"
"""


@dataclass(slots=True)
class Contestant:
    """A function: its name, its source, and its measurements in seconds and megabytes."""

    target: str
    source: Path
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def start(self, environment: Mapping[str, str]) -> None:
        """Serve it, call it once, and stop it."""
        began = time.monotonic()
        with served(self.target, self.source, environment) as function:
            function.ask()
            self.seconds.append(time.monotonic() - began)
            self.megabytes.append(sum(map(_megabytes, function.pids)))


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--times", type=whole(1), default=15, help="how often each is started (default: 15)")
    parser.add_argument("--brief", action="store_true", help="three times")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Start each function in turn, repeatedly; print medians and ratios; the last line is JSON."""
    with Site(Scale(60.0), ()) as site:
        print(site.hardware(), flush=True)
        folder = site.stack.postgres.folder.path
        ours = Contestant("process_generation_queue", ROOT / "main.py")
        others = [Contestant(target, folder / f"{target}.py") for target in ("smallest", "hello")]
        for contestant, source in zip(others, (SMALLEST, HELLO), strict=True):
            contestant.source.write_text(source)
        environment = site.environment() | {"WORKER_SECRET": SECRET, "LOG_LEVEL": "WARNING"}
        for _ in range(1 + (3 if options.brief else options.times)):  # the first fills caches
            for contestant in (ours, *others):
                contestant.start(environment)
    for contestant in (ours, *others):
        seconds, megabytes = spread(contestant.seconds[1:]), spread(contestant.megabytes[1:], 1)
        print(f"{contestant.target:<26}{seconds} s   {megabytes} MB")
    print(json.dumps({
        "time_ratio": round(_middle(ours.seconds) / _middle(others[0].seconds), 3),
        "memory_ratio": round(_middle(ours.megabytes) / _middle(others[0].megabytes), 3),
    }), flush=True)  # fmt: skip


def _megabytes(pid: int) -> float:
    """The resident memory of a process; shared pages are divided among their processes (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _middle(values: list[float]) -> float:
    return statistics.median(values[1:])
