"""Formats the queue's numbers and the findings of `check` as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.ops.finding import Finding, passed

CLOSED_BY = {"paused": "a pause", "daily_cap": "a daily cap", "rate_limited": "the quota"}
"""A gate's `closedBy` in words."""


def queue_table(stats: Mapping[str, Any]) -> str:
    """The answer of `generation_queue_stats` as a table."""
    day, last = stats["lastDay"], stats["lastRun"]
    oldest, tried = stats["oldestReadySeconds"], stats["nextTrySeconds"]
    failures = ", ".join(f"{code} {count}" for code, count in sorted(day["failuresByCode"].items()))
    rows = [
        ("ready", stats["ready"], f"oldest: {duration(oldest)}" if oldest is not None else ""),
        ("waiting", stats["waiting"], next_try(tried["waiting"])),
        ("rate limited", stats["rateLimited"], next_try(tried["rateLimited"])),
        ("processing", stats["processing"], ""),
        (
            "stale",
            stats["stale"],
            "the worker died; the next run will pick them up" if stats["stale"] else "",
        ),
        ("last 24 hours", None, ""),
        ("completed", day["completed"], ""),
        ("failed", day["failed"], failures),
        ("cancelled", day["cancelled"], ""),
    ]
    parts = [
        "jobs now",
        *(_row(*row) for row in rows),
        "rate gate and caps",
        _indented(gate_table(stats["gate"])),
    ]
    return "\n".join([*parts, _last_run(last), *warning_lines(stats)])


def next_try(seconds: float | None) -> str:
    """When the first waiting job is retried; empty if none waits."""
    return "" if seconds is None else f"next try in {duration(seconds)}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _row(name: str, count: int | None, note: str) -> str:
    return name if count is None else f"  {name:<13}{count:>9}  {note}".rstrip()


def _last_run(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "no run has started yet"
    started = f"last run (idle runs are not shown)\n  started at {last['startedAt']}"
    if last["finishedAt"] is None:
        return f"{started}\n  not finished: still running, or its worker died"
    return f"{started}\n  finished at {last['finishedAt']}: {stopped(last)}"


def stopped(last: Mapping[str, Any]) -> str:
    """Why a run ended, and what to fix."""
    return f"{last['stopReason']}: {last['problem']}" if last["problem"] else str(last["stopReason"])


def duration(seconds: float) -> str:
    """A duration in its two largest units: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {smaller_unit}"
    return f"{whole} s"


def gate_table(gate: Mapping[str, Any]) -> str:
    """The answer of `generation_gate` as a table."""
    lines = [_gate_line(each) for each in gate["gates"]]
    if not lines:
        lines.append("no image has started yet; the default rate is 60 starts per minute and model")
    if gate["pausedAt"]:
        lines.insert(0, f"PAUSED since {gate['pausedAt']}: {gate['pauseReason'] or 'no reason given'}")
    images, dollars = gate["imagesPerDay"], gate["dollarsPerDay"]
    allowed = "spent, no cap in dollars" if dollars is None else f"of ${float(dollars):.2f} spent"
    spent = f"today: at most ${float(gate['spentToday']):.2f} {allowed}"
    lines.append(f"{spent}; images per day: {'no cap' if images is None else images}")
    lines.append(_user_line(gate))
    age = f"a job waits at most {gate['maxAgeHours']:g} hours for quota"
    lines.append(f"runs: {gate['runs']} of {gate['maxRuns']}; {age}")
    lines.append(f"anonymous users may {'' if gate['allowAnonymous'] else 'not '}order")
    return "\n".join(lines)


def _user_line(gate: Mapping[str, Any]) -> str:
    """The limits of one signed-in user, and how many images the daily ones allow at the present price."""
    queued, images, dollars = gate["userImagesQueued"], gate["userImagesPerDay"], gate["userDollarsPerDay"]
    waiting = "any number of images" if queued is None else f"{queued} images"
    daily = [] if images is None else [f"{images} images"]
    daily += [] if dollars is None else [f"${float(dollars):.2f}"]
    allowed = gate["userImagesAllowed"]
    now = "" if allowed is None else f" (now {int(allowed)} images)"
    return f"each user: {waiting} waiting; {' or '.join(daily) or 'no limit'} per day{now}"


def cap_used(gate: Mapping[str, Any]) -> str:
    """The used part of each daily cap: `$20.00 of $20.00`, `500 of 500 images`."""
    used = []
    if gate["dollarsPerDay"] is not None:
        used.append(f"${float(gate['spentToday']):.2f} of ${float(gate['dollarsPerDay']):.2f}")
    if gate["imagesPerDay"] is not None:
        used.append(f"{gate['startedToday']} of {gate['imagesPerDay']} images")
    return ", ".join(used)


def _gate_line(gate: Mapping[str, Any]) -> str:
    per = "minute" if gate["windowSeconds"] == 60 else f"{gate['windowSeconds']:g} s"
    line = f"{gate['model']}: {gate['rate']:g} starts per {per}, {gate['startedToday']} today"
    if gate["burst"] > 1:
        line += f", up to {gate['burst']} at once"
    if gate["learnedRate"] is not None:
        how = "stated by Gemini" if gate["learnedFrom"] == "stated" else "lowered after 429s"
        line += f"; {gate['allowed']:g} allowed ({how})"
    if gate["closedBy"]:
        line += f"; closed by {CLOSED_BY[gate['closedBy']]}"
    if gate["blockedForSeconds"]:
        line += f"; blocked for {duration(gate['blockedForSeconds'])}"
    return line


def models_table(models: Sequence[Mapping[str, Any]]) -> str:
    """The models of `generation_models`, one line each."""
    return "\n".join(_model_line(model) for model in models)


def hosts_table(hosts: Sequence[str], own: str | None) -> str:
    """The hosts of `generation_photo_hosts`, one line each; `own` is this project's host."""
    notes = {"*": " (any public host)", own: " (this project's own)"}
    lines = [host + notes.get(host, "") for host in hosts]
    none = (
        f"none yet: the first run adds {own}, this project's own"
        if own
        else "none: no https:// photo is accepted"
    )
    return "\n".join(lines) or none


def _model_line(model: Mapping[str, Any]) -> str:
    line = f"{model['model']}: "
    line += "price unknown" if model["dollars"] is None else f"${model['dollars']:g} an image"
    if model["announcedEnd"]:
        line += f"; {'ends' if model['endsInDays'] >= 0 else 'ended'} {model['announcedEnd']}"
    if model["retiredSince"]:
        line += f"; Google answers 404 since {model['retiredSince'][:10]}"
    if model["expectedSuccessor"]:
        line += f"; successor {model['expectedSuccessor']}"
    return line + ("; in use" if model["inUse"] else "")


def warning_lines(stats: Mapping[str, Any]) -> list[str]:
    """The database's warnings, one line each."""
    return [f"warning: {each['words']}" for each in stats["warnings"]]


def findings_text(findings: Sequence[Finding]) -> str:
    """The findings of a check, each with its fix below it, and the verdict."""
    lines = []
    width = max(len(finding.name) for finding in findings) + 1
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.name:<{width}} {finding.message}")
        if finding.fix:
            lines.append(f"{'':<8} {'':<{width}} fix: {finding.fix}")
    return "\n".join([*lines, _verdict(findings)])


def _verdict(findings: Sequence[Finding]) -> str:
    if not passed(findings):
        return "The worker cannot work yet."
    held = any(finding.name == "gate" and finding.state == "warning" for finding in findings)
    return "The worker can work, but no image can start now: see gate." if held else "The worker can work."
