"""Whether the database's rights are what they should be, as a finding of `check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.errors import GenerationError
from worker.ops.finding import Finding
from worker.supabase.queue import Queue

SHOWN = 5
"""How many deviations are told: after a restore there is one for nearly every function."""

REINSTALL = "run sql/install.sql again: it sets grants, row security and policies (docs/backup.md)"
REVIEW = "see that it opens what you mean to, or take it away"


async def access_finding(queue: Queue, timeout_seconds: float) -> Finding:
    """Grants, row-level security and policies, compared by the database itself."""
    try:
        answer = await queue.rpc("generation_access_findings", {}, timeout_seconds)
    except GenerationError as error:
        return Finding("access", "failed", error.message, REINSTALL)
    return read_access(answer["findings"])


def read_access(deviations: Sequence[dict[str, Any]]) -> Finding:
    """One finding of all deviations; what the app has added by itself is a warning."""
    ours = [each for each in deviations if each["ours"]]
    if ours:
        return Finding("access", "failed", _told(ours), REINSTALL)
    if deviations:
        return Finding("access", "warning", _told(deviations), REVIEW)
    return Finding("access", "ok", "grants, row-level security and policies are as installed")


def _told(deviations: Sequence[dict[str, Any]]) -> str:
    told = [f"{each['object']}: {each['problem']}" for each in deviations[:SHOWN]]
    more = len(deviations) - SHOWN
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")
