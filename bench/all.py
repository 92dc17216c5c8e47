"""Every part, one after the other, and the figures of each in one file, with what they were measured on."""

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
    """What can be said on the command line."""
    parser.add_argument("--brief", action="store_true", help="each part's brief form")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measures each part in a process of its own; writes the figures after each, and prints them at the end.

    A part that fails is left out, and the next goes on; `StackError` at the end names those that failed.
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
    """Passes on what a part prints; its last line, read as JSON, or None if the part fails."""
    command = [sys.executable, "-m", "bench", part, *(["--brief"] if brief else [])]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    return None if process.returncode else json.loads(last)
