"""The numbers of the queue that a run logs, for alerts: the backlog and the share of the daily cap used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Watched(NamedTuple):
    """The numbers; `cap_share` is the largest used share of a daily cap, None without a cap."""

    due_jobs: int
    oldest_due_seconds: int
    cap_share: float | None


def watched(stats: Mapping[str, Any]) -> Watched:
    """Takes the numbers from an answer of `generation_queue_stats`."""
    due, gate = stats["due"], stats["gate"]
    caps = ((gate["spentToday"], gate["dollarsPerDay"]), (gate["startedToday"], gate["imagesPerDay"]))
    shares = [used / cap if cap else 1.0 for used, cap in caps if cap is not None]
    share = round(max(shares), 3) if shares else None
    return Watched(due["jobs"], round(due["oldestSeconds"] or 0), share)
