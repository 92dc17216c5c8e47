"""The finding of `check` about the database's grants, row-level security and policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.errors import GenerationError
from worker.ops.finding import Finding
from worker.supabase.queue import Queue

SHOWN = 5
"""How many deviations are listed: after a restore there is one for nearly every function."""

REINSTALL = "run sql/install.sql again; it sets grants, row-level security and policies (docs/backup.md)"
REVIEW = "check that you want this access, or remove it"


async def access_finding(queue: Queue, timeout_seconds: float) -> Finding:
    """The database compares its grants, row-level security and policies with the installed ones."""
    try:
        answer = await queue.rpc("generation_access_findings", {}, timeout_seconds)
    except GenerationError as error:
        return Finding("access", "failed", error.message, REINSTALL)
    return read_access(answer["findings"])


def read_access(deviations: Sequence[dict[str, Any]]) -> Finding:
    """One finding for all deviations; what the app has added is a warning only."""
    ours = [each for each in deviations if each["ours"]]
    if ours:
        return Finding("access", "failed", _listed(ours), REINSTALL)
    if deviations:
        return Finding("access", "warning", _listed(deviations), REVIEW)
    return Finding("access", "ok", "grants, row-level security and policies are as installed")


def _listed(deviations: Sequence[dict[str, Any]]) -> str:
    named = [f"{each['object']}: {each['problem']}" for each in deviations[:SHOWN]]
    more = len(deviations) - SHOWN
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
