"""The runbook's five minutes: in every mode a run, and with it the lock of its jobs, ends well before."""

import asyncio

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import Site
from worker.run.request import RunRequest

LONG = "3600"  # what Cloud Run allows at most
MODES = {
    "as it comes": {},
    "a long request timeout on Cloud Run": {"CLOUD_RUN_TIMEOUT_SECONDS": LONG},
    "a long invocation timeout": {"INVOCATION_TIMEOUT_SECONDS": LONG},
    "both": {"CLOUD_RUN_TIMEOUT_SECONDS": LONG, "INVOCATION_TIMEOUT_SECONDS": LONG},
}
HELD = {"kind": "image", "hold": True}


def longest(site: Site) -> tuple[float, float]:
    """The longest duration of the runs and of the leases, in seconds."""
    (runs,) = site.rows(
        'select max(extract(epoch from "endsBy" - "startedAt"))::float as s from generation.runs'
    )
    (leases,) = site.rows(
        'select max(extract(epoch from "leaseExpiresAt" - "lockedAt"))::float as s'
        " from photo_generation_queue"
    )
    return runs["s"], leases["s"] or 0.0


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_lasts_at_most_270_seconds_and_a_lease_290(site: Site, mode: str) -> None:
    """Whatever the platform and the settings allow."""
    worker = site.worker(**MODES[mode])
    site.gemini.add_rule(HELD)
    await site.order("a")
    run = asyncio.create_task(worker.run(RunRequest()))
    await site.open_calls(1)
    run_seconds, lease_seconds = longest(site)
    assert 200 < run_seconds <= 270
    assert run_seconds < lease_seconds <= 290
    site.gemini.release()
    await run


async def test_a_tick_of_the_command_line_has_the_same_limits(site: Site, cli: CommandLine) -> None:
    """A tick from the command line is bounded the same."""
    await site.order("a")
    await cli.call("tick", env={"INVOCATION_TIMEOUT_SECONDS": LONG})
    assert longest(site)[0] <= 270
