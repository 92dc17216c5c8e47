"""`python -m worker gate`: rate, caps and pause, shown and changed by whoever is on call."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import SUCCESSOR, Site
from worker.run.request import RunRequest

MODEL = "gemini-2.5-flash-image"


async def test_gate_set_changes_only_the_named_values(cli: CommandLine, site: Site) -> None:
    """A change shows at once and applies to the next start."""
    shown = (await cli.call("gate", "set", "--rate", "30", "--burst", "2", "--dollars-per-day", "20")).out
    assert (
        f"{MODEL}: 30 starts per minute, 0 today, up to 2 at once\n" in shown and "$0.00 of $20.00" in shown
    )
    await cli.call("gate", "set", "--images-per-day", "1", "--dollars-per-day", "none")
    gate = (await cli.call("gate", "show", "--json")).json
    assert (gate["imagesPerDay"], gate["dollarsPerDay"]) == (1, None)
    (gemini,) = [each for each in gate["gates"] if each["model"] == MODEL]
    assert (gemini["rate"], gemini["burst"]) == (30, 2)
    await site.order("a", images=2)
    summary = await site.run(RunRequest(budget_seconds=6))
    assert (summary["images"]["made"], summary["stopReason"]) == (1, "daily_cap")
    assert summary["nextAttemptInSeconds"] > 0
    shown = (await cli.call("gate", "show")).out
    assert f"{MODEL}: 30 starts per minute, 1 today, up to 2 at once; closed by a daily cap\n" in shown
    (reset,) = site.rows("select generation.next_daily_reset(now()) as at")
    assert abs(datetime.fromisoformat(summary["nextAttemptAt"]) - reset["at"]) < timedelta(seconds=5)


async def test_status_shows_the_gate(cli: CommandLine, site: Site) -> None:
    """`status` and its JSON show what the gate has learned."""
    facts = {"period": "minute", "limit": 7, "retryAfterSeconds": 30}
    await site.worker().queue.rpc("report_rate_limit", {"p_model": MODEL, "p_facts": facts, "p_epoch": None})
    shown = (await cli.call("status")).out
    assert f"{MODEL}: 7 starts per minute" in shown and "allowed (stated by Gemini)" in shown
    assert "; closed by the quota; blocked for " in shown
    gates = (await cli.call("status", "--json")).json["gate"]["gates"]
    (gate,) = [each for each in gates if each["model"] == MODEL]
    assert (gate["rate"], gate["learnedFrom"]) == (7, "stated")


async def test_a_pause_stops_all_starts_until_resume(cli: CommandLine, site: Site) -> None:
    """A paused run says so."""
    await site.order("a")
    assert "PAUSED since" in (await cli.call("gate", "pause", "the bill looks odd")).out
    assert "the bill looks odd" in (await cli.call("gate", "show")).out
    await cli.call("gate", "set", "--rate", "30")
    assert "; closed by a pause\n" in (await cli.call("gate", "show")).out
    paused = await site.run()
    assert (paused["stopReason"], paused["claimed"]) == ("paused", 0)
    assert "PAUSED" not in (await cli.call("gate", "resume")).out
    assert (await site.run())["completed"] == 1


async def test_gate_set_without_an_option_lists_the_options(cli: CommandLine) -> None:
    """There is nothing to set."""
    assert "--rate" in (await cli.call("gate", "set")).complained(2)
    assert "must be a number" in (await cli.call("gate", "set", "--images-per-day", "-1")).complained(2)
    said = (await cli.call("gate", "set", "--dollars-per-day", "abc")).complained(2)
    assert "--dollars-per-day: must be a number of at least 0, or none, not abc" in said


@pytest.mark.parametrize(
    ("model", "warnings"),
    [
        (MODEL, []),
        (SUCCESSOR, []),
        ("gemini-3-pro-image", [f"uses {MODEL} or {SUCCESSOR}", "not gemini-3-pro-image"]),
        ("gemini-9", ["not gemini-9;", "the price of gemini-9 is unknown"]),
    ],
)
async def test_a_gate_nobody_asks(cli: CommandLine, db: object, model: str, warnings: list[str]) -> None:
    """The rate of another model than the worker's, and its successor, is set, with a warning."""
    done = await cli.call("gate", "set", "--model", model, "--rate", "5", "--new-model")
    assert done.code == 0 and f"{model}: 5 starts per minute" in done.out
    assert all(part in done.log for part in warnings)
    assert ("warning:" in done.log) == bool(warnings)
