"""Whether the rate gate lets a worker start anything now, as a finding of `check`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from worker.ops.finding import Finding
from worker.ops.status_text import cap_used, duration

LONG_BLOCK_SECONDS = 600.0
"""Longer than a quota per minute blocks."""


def gate_finding(gate: Mapping[str, Any] | None, models: Collection[str]) -> Finding:
    """Of `generation_gate`'s answer and the models in question; without an answer it was not looked at."""
    if gate is None:
        return Finding("gate", "skipped", "not looked at before the database answers")
    if gate["pausedAt"]:
        why = f" ({gate['pauseReason']})" if gate["pauseReason"] else ""
        said = f"paused since {gate['pausedAt']}{why}: nothing starts"
        return Finding("gate", "warning", said, "python -m worker gate resume")
    own = [each for each in gate["gates"] if each["model"] in models]
    if any(each["closedBy"] == "daily_cap" for each in own):
        said = f"a daily cap is used up ({cap_used(gate)}): nothing starts before midnight in California"
        caps = {"--dollars-per-day": "dollarsPerDay", "--images-per-day": "imagesPerDay"}
        options = " or ".join(f"{option} N" for option, field in caps.items() if gate[field] is not None)
        return Finding("gate", "warning", said, f"wait, or python -m worker gate set {options}")
    for each in own:
        if each["blockedForSeconds"] > LONG_BLOCK_SECONDS:
            blocked = duration(each["blockedForSeconds"])
            said = f"Gemini's quota for {each['model']} is used up: nothing starts for another {blocked}"
            return Finding(
                "gate", "warning", said, "wait, or once it is raised: python -m worker gate resume"
            )
    capped = gate["dollarsPerDay"] is not None or gate["imagesPerDay"] is not None
    change = "python -m worker gate set --dollars-per-day N"
    cap = (
        f"today {cap_used(gate)} (to change it: {change})"
        if capped
        else f"no daily cap is set (to set one: {change})"
    )
    return Finding("gate", "ok", f"no pause, cap or long block keeps jobs from starting; {cap}")
