"""Every part, one after the other, and the figures of each in one file, with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

PURPOSE = "every part but crash and deadlines, which prove more than they measure"
PARTS = ("gate", "crowd", "claims", "wall", "roundtrips", "cold", "memory", "kick", "stats")
FIGURES = Path(".local") / "bench.json"


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--brief", action="store_true", help="each part's brief form")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measures each part in a process of its own; writes the figures, and prints them as the last line."""
    figures: dict[str, Any] = {
        "measured_on": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "brief": options.brief,
    }
    for part in PARTS:
        print(f"\n── {part}", flush=True)
        command = [sys.executable, "-m", "bench", part, *(["--brief"] if options.brief else [])]
        figures[part] = _last_line(command)
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nfigures: {FIGURES}\n{json.dumps(figures)}", flush=True)


def _last_line(command: list[str]) -> Any:
    """Passes on what a part prints; its last line, read as JSON. A part that fails ends all."""
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as part:
        assert part.stdout is not None
        for line in part.stdout:
            print(line, end="", flush=True)
            last = line
    if part.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed with {part.returncode}")
    return json.loads(last)
