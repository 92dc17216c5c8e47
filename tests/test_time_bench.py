"""Randomised runs against their deadlines and SIGTERM, briefly: the benchmark's figures that must be 0."""

from __future__ import annotations

import json
import sys
from asyncio import create_subprocess_exec, subprocess

from local.demo.environment import kept
from local.demo.simulation import ROOT


async def test_no_run_outlives_its_invocation_nor_a_stop() -> None:
    """Whatever hangs, no run answers late or is killed, nothing unsent is spent, and no job stays behind."""
    command = ["-m", "bench", "deadlines", "--runs", "20", "--at-a-time", "5", "--seed", "7"]
    process = await create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env=kept(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told, failed = await process.communicate()
    assert process.returncode == 0, failed.decode()
    figures = json.loads(told.decode().splitlines()[-1])
    stopped = figures["sigterm"]
    assert (figures["runs"], figures["past_timeout"]) == (20, 0)
    assert 0 < figures["wasted_share"] < 1
    assert stopped["runs"] > 0
    assert 0 < stopped["slowest_seconds"] < 10
    assert stopped["attempts_spent_unsent"] == 0
