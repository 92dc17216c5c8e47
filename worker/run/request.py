"""What a caller asks for: one run, or one operator's action. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_JOBS = 1000
"""Most jobs one run may be asked for; far above what 240 s can do, it only stops typing errors."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run as ordered; None leaves the settings' default. `dry_run` only looks and claims nothing."""

    max_jobs: int | None = None
    budget_seconds: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator wants done: a database function and its parameters."""

    function: str
    params: Mapping[str, Any]
