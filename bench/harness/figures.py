"""What every part prints with its figures: hardware and versions, median and spread."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from local.stack.postgres import Postgres

REPEATS = 3
"""Runs of each slow case; their median counts."""


def hardware(postgres: Postgres) -> str:
    """The hardware and versions, in one line."""
    on = measured_on(postgres)
    return f"{on['cores']} cores for everything · Python {on['python']} · PostgreSQL {on['postgresql']}"


def measured_on(postgres: Postgres) -> dict[str, str | int | None]:
    """The machine and the versions; the server need not be running."""
    told = subprocess.run(
        [postgres.bin / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": told.stdout.split()[-1],
    }


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The median, the minimum and the maximum."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def _processor() -> str | None:
    """The processor's name, if the kernel knows it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
