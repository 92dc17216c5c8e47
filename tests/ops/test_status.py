"""`python -m worker status`: the verdict first, no contradictions, and outages are reported."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.support import faults
from tests.support.command_line import CommandLine
from tests.support.fault_calls import rpc
from tests.support.faults import FaultProxy
from tests.support.queue_sql import Clock, Queue
from tests.support.runs import Site
from worker.cli.terminal import screen
from worker.errors import QueueUnavailable
from worker.ops.health import health
from worker.ops.status_text import queue_table


def shown(stats: Any, outage: QueueUnavailable | None = None, height: int = 24) -> list[str]:
    """The lines on a terminal 80 characters wide."""
    out = io.StringIO()
    console = Console(file=out, width=80, height=height, force_terminal=True, color_system=None)
    console.print(screen(stats, console, outage))
    return out.getvalue().splitlines()


def test_the_verdict_comes_first_and_stays_on_80_by_24(queue: Queue) -> None:
    """On the smallest usual terminal the first line says how it is, and nothing that counts scrolls away."""
    queue.enqueue(examples=3)
    stats = queue.call("generation_queue_stats")
    lines = shown(stats)
    assert lines[0].startswith("Attention") and "No run has started yet" in lines[0]
    assert len(lines) < 24, "one line is left for the prompt"
    for counts in ("ready", "processing", "due", "today:"):
        assert any(counts in line for line in lines), counts
    assert "taller window" in lines[-1]
    assert any("image p99" in line for line in shown(stats, height=70))


async def test_the_text_says_the_verdict_first(cli: CommandLine, site: Site) -> None:
    """A script or a log that gets plain text has the verdict in its first line."""
    first = (await cli.call("status")).out.splitlines()[0]
    assert first.startswith("attention: No run has started yet")
    await site.run()
    assert (await cli.call("status")).out.startswith("good: All is well")


@pytest.mark.parametrize("state", ["nothing", "waiting", "rate_limited", "processing"])
def test_only_what_waits_has_a_next_try(queue: Queue, clock: Clock, state: str) -> None:
    """A time is shown only for waiting jobs, never as "waiting 0, next in 62 s"."""
    if state != "nothing":
        job = queue.claimed()
        if state != "processing":
            queue.settle(job, "retry" if state == "waiting" else "rate_limited", retryInSeconds=62)
    stats = queue.call("generation_queue_stats")
    expected = {"waiting": 62, "rateLimited": None} if state == "waiting" else (
        {"waiting": None, "rateLimited": 62} if state == "rate_limited" else
        {"waiting": None, "rateLimited": None}
    )  # fmt: skip
    assert stats["nextTrySeconds"] == expected
    rows = [line for line in queue_table(stats).splitlines() if "next try in" in line]
    assert [row.split()[0] for row in rows] == ([state.split("_")[0]] if any(expected.values()) else [])
    assert all("next try in 1 min 2 s" in row for row in rows)


def test_an_outage_is_shown_over_the_last_numbers(queue: Queue) -> None:
    """While the database cannot be reached the terminal says so first, and of when the numbers are."""
    outage = QueueUnavailable("unreachable", "ConnectError")
    stats = queue.call("generation_queue_stats")
    lines = shown(stats, outage)
    assert "cannot be reached" in lines[0] and "ConnectError" in " ".join(lines[:3])
    assert any(stats["at"][:19] in line for line in lines)
    assert "cannot be reached" in shown(None, outage)[0]
    assert health(stats).words not in "\n".join(lines), "an old verdict is none"


async def test_watch_goes_on_after_an_outage(cli: CommandLine, site: Site) -> None:
    """An outage is reported and does not end the command."""
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.reset, rpc("generation_queue_stats"), times=4)
        arguments = ("status", "--watch", "--json", "--every-seconds", "0.1")
        async with cli.start(*arguments, env={"SUPABASE_URL": proxy.url}) as program:
            assert program.process.stdout is not None and program.process.stderr is not None
            assert b"cannot be reached" in await program.process.stderr.readline()
            assert b'"schemaVersion"' in await program.process.stdout.readline()
            program.process.terminate()
            await program.process.communicate()
        assert program.process.returncode == 0
