"""A caller's request: one run, or one operator action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_JOBS = 1000
"""Limit of `max_jobs`: far more than a run can process in 240 s, so it only catches typos."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run; None means the default from the settings. With `dry_run`, nothing is claimed."""

    max_jobs: int | None = None
    budget_seconds: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """An operator action: a database function and its parameters."""

    function: str
    params: Mapping[str, Any]
