"""The finding of `check` about the rate gate: whether images can start now. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from worker.ops.finding import Finding
from worker.ops.status_text import cap_used, duration

LONG_BLOCK_SECONDS = 600.0
"""Longer than any block by a per-minute quota."""


def gate_finding(gate: Mapping[str, Any] | None, models: Collection[str]) -> Finding:
    """The finding for an answer of `generation_gate` and these models; skipped without an answer."""
    if gate is None:
        return Finding("gate", "skipped", "not checked, since the database check failed")
    if gate["pausedAt"]:
        why = f" ({gate['pauseReason']})" if gate["pauseReason"] else ""
        message = f"paused since {gate['pausedAt']}{why}: no image starts"
        return Finding("gate", "warning", message, "python -m worker gate resume")
    own = [each for each in gate["gates"] if each["model"] in models]
    if any(each["closedBy"] == "daily_cap" for each in own):
        message = f"a daily cap is reached ({cap_used(gate)}): no image starts before midnight in California"
        caps = {"--dollars-per-day": "dollarsPerDay", "--images-per-day": "imagesPerDay"}
        options = " or ".join(f"{option} N" for option, field in caps.items() if gate[field] is not None)
        return Finding("gate", "warning", message, f"wait, or python -m worker gate set {options}")
    for each in own:
        if each["blockedForSeconds"] > LONG_BLOCK_SECONDS:
            blocked = duration(each["blockedForSeconds"])
            message = f"Gemini's quota for {each['model']} is used up: no image starts for another {blocked}"
            fix = "wait, or after Google has raised the quota: python -m worker gate resume"
            return Finding("gate", "warning", message, fix)
    capped = gate["dollarsPerDay"] is not None or gate["imagesPerDay"] is not None
    change = "python -m worker gate set --dollars-per-day N"
    cap = (
        f"used today: {cap_used(gate)} (to change the cap: {change})"
        if capped
        else f"no daily cap is set (to set one: {change})"
    )
    return Finding("gate", "ok", f"images can start: no pause, no reached cap, no long block; {cap}")
