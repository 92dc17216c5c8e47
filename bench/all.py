"""Runs all parts in sequence and writes their figures to one file, with the hardware and versions."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from bench.harness.figures import measured_on
from local.demo.simulation import ROOT
from local.stack.errors import StackError
from local.stack.postgres import Postgres

PURPOSE = "every part but crash and deadlines, which prove more than they measure"
PARTS = (
    "gate",
    "crowd",
    "claims",
    "wall",
    "roundtrips",
    "cold",
    "memory",
    "photos",
    "kick",
    "stats",
    "fairness",
    "hostile_hosts",
)
FIGURES = ROOT / ".local" / "bench.json"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--brief", action="store_true", help="each part's brief form")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measure each part in its own process, write the figures after each one, and print them at the end.

    If a part fails, the next one still runs; a `StackError` at the end names the parts that failed.
    """
    failed: list[str] = []
    figures: dict[str, Any] = {
        "measured_on": measured_on(Postgres(FIGURES.parent)), "brief": options.brief, "failed": failed,
    }  # fmt: skip
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        print(f"\n── {part}", flush=True)
        found = last_line(part, options.brief)
        if found is None:
            failed.append(part)
        else:
            figures[part] = found
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nfigures: {FIGURES}\n{json.dumps(figures)}", flush=True)
    if failed:
        raise StackError(
            f"Failed: {', '.join(failed)}.", "Above is why; `python -m bench PART` tries one again."
        )


def last_line(part: str, brief: bool) -> Any:
    """Print a part's output and return its last line, parsed as JSON; None if the part fails."""
    command = [sys.executable, "-m", "bench", part, *(["--brief"] if brief else [])]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    return None if process.returncode else json.loads(last)
