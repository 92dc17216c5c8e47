"""Shows the queue's numbers on a terminal with tables, sparklines and colors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.errors import QueueUnavailable
from worker.ops.health import health, unreachable
from worker.ops.status_text import duration, gate_table, next_try, stopped, warning_lines

LEVELS = {"good": "bold green", "busy": "bold blue", "attention": "bold yellow", "trouble": "bold red"}
BARS = "▁▂▃▄▅▆▇█"
STATES = {"ready": "ready", "waiting": "waiting", "rate limited": "rateLimited", "processing": "processing"}
AGES = ("≤ 1 min", "≤ 5 min", "≤ 30 min", "≤ 1 h", "≤ 6 h", "≤ 1 d", "older")


def show(stats: Mapping[str, Any]) -> None:
    """Print the numbers once."""
    console = Console()
    console.print(screen(stats, console))


async def watch(answers: AsyncIterator[Mapping[str, Any] | QueueUnavailable]) -> None:
    """Replace the screen with each answer. During an outage, show the error above the last numbers."""
    console = Console()
    stats: Mapping[str, Any] | None = None
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        async for answer in answers:
            outage = answer if isinstance(answer, QueueUnavailable) else None
            if not isinstance(answer, QueueUnavailable):
                stats = answer
            live.update(screen(stats, console, outage), refresh=True)


def screen(
    stats: Mapping[str, Any] | None, console: Console, outage: QueueUnavailable | None = None
) -> RenderableType:
    """The verdict and the numbers, the most important first; a terminal shows as many as fit its height."""
    first = _verdict(stats, outage)
    if stats is None:
        return first
    details = (_windows(stats["windows"]), _series(stats["series"]), _ages(stats["ages"]))
    warnings = [Text(line, style="yellow") for line in warning_lines(stats)]
    parts: list[RenderableType] = [first, *warnings, _queue(stats), _gate(stats)]
    if not console.is_terminal:
        return Group(*parts, *details)
    room = console.height - 2 - sum(_height(part, console) for part in parts)
    for part in details:
        if (needed := _height(part, console)) <= room:
            parts.append(part)
            room -= needed
    if len(parts) < 3 + len(warnings) + len(details):
        parts.append(Text("A taller window shows more; --json shows everything.", style="dim"))
    return Group(*parts)


def _height(part: RenderableType, console: Console) -> int:
    return len(console.render_lines(part))


def _verdict(stats: Mapping[str, Any] | None, outage: QueueUnavailable | None) -> RenderableType:
    if outage or stats is None:
        words = unreachable(outage) if outage else "Loading …"
        return Text.assemble(("Trouble", LEVELS["trouble"]), f"  {words}")
    found = health(stats)
    return Text.assemble((found.level.capitalize(), LEVELS[found.level]), f"  {found.words}")


def sparkline(values: Sequence[int]) -> str:
    """A bar for each value, scaled to the largest; a value above 0 is never blank."""
    most = max([*values, 1])
    return "".join(" " if value == 0 else BARS[max(value * len(BARS) // most - 1, 0)] for value in values)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _queue(stats: Mapping[str, Any]) -> RenderableType:
    due = stats["due"]
    table = Table(
        title=f"Queue at {stats['at'][:19]} UTC",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
    )
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    tried = stats["nextTrySeconds"]
    for label, field in STATES.items():
        table.add_row(label, str(stats[field]), next_try(tried.get(field)))
    table.add_row("stale", str(stats["stale"]), "the worker died" if stats["stale"] else "",
        style="red" if stats["stale"] else None)  # fmt: skip
    oldest = "" if due["oldestSeconds"] is None else f", oldest: {duration(due['oldestSeconds'])}"
    table.add_row("due", str(due["jobs"]), f"{due['images']} images{oldest}")
    return table


def _ages(ages: Mapping[str, Any]) -> RenderableType:
    table = _table("Jobs by time since the order", "", *AGES)
    for label, field in (
        ("pending", "pending"),
        ("rate limited", "rateLimited"),
        ("processing", "processing"),
    ):
        table.add_row(label, *map(str, ages[field]))
    return table


def _windows(windows: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = _table("Ended in the last", "", *(window["name"] for window in windows))
    rows = (
        ("jobs completed", "jobs", "completed"), ("jobs failed", "jobs", "failed"),
        ("images completed", "images", "completed"), ("images refused", "images", "refused"),
    )  # fmt: skip
    for label, field, key in rows:
        table.add_row(label, *(str(window[field][key]) for window in windows))
    for label, field, per_second in (("job", "jobSeconds", 1), ("image", "imageMs", 1000)):
        for key in ("p50", "p95", "p99"):
            table.add_row(f"{label} {key}", *(_seconds(window[field][key], per_second) for window in windows))
    for code in sorted({code for window in windows for code in window["failuresByCode"]}):
        table.add_row(f"failed: {code}", *(str(window["failuresByCode"].get(code, 0)) for window in windows),
            style="red")  # fmt: skip
    return table


def _seconds(value: float | None, per_second: int) -> str:
    return "–" if value is None else f"{value / per_second:.1f} s"


def _series(series: Mapping[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, name, field in (
        ("images, last hour", "minutes", "imagesCompleted"), ("failed jobs", "minutes", "jobsFailed"),
        ("images, last day", "hours", "imagesCompleted"), ("failed jobs", "hours", "jobsFailed"),
    ):  # fmt: skip
        values = [point[field] for point in series[name]]
        table.add_row(
            label, str(sum(values)), Text(sparkline(values), style="green" if "images" in label else "red")
        )
    return table


def _gate(stats: Mapping[str, Any]) -> RenderableType:
    runs = stats["runs"]
    last = runs["lastFinished"]
    lines = [
        gate_table(stats["gate"]),
        f"runs: {runs['lastHour']} in the last hour, {runs['diedLastHour']} of them died",
    ]
    if last:
        lines.append(f"last finished run: {stopped(last)} (at {last['finishedAt'][:19]} UTC)")
    return Text("\n".join(["Gate, caps and runs", *lines]))
