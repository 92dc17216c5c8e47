"""Randomised runs against their deadlines and SIGTERM, briefly: the benchmark's figures that must be 0."""

from __future__ import annotations

import json
import sys
from asyncio import create_subprocess_exec, subprocess

import pytest

from local.demo.environment import kept
from local.demo.simulation import ROOT


@pytest.mark.slow
async def test_no_run_outlives_its_invocation_nor_a_stop() -> None:
    """Whatever hangs: no answer is late, no unsent request spends an attempt, no job is left."""
    command = ["-m", "bench", "deadlines", "--runs", "20", "--at-a-time", "5", "--seed", "7"]
    process = await create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env=kept(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    told, failed = await process.communicate()
    assert process.returncode == 0, failed.decode()
    *table, last = told.decode().splitlines()
    figures = json.loads(last)
    # That a busy machine keeps every process waiting is nothing that a run could do something about.
    late = [int(row.split()[-1]) for row in table if "without what the machine stood still" in row]
    assert (figures["runs"], late) == (20, [0, 0])
    assert 0 < figures["wasted_share"] < 1
    assert figures["sigterm"]["runs"] > 0
    assert figures["sigterm"]["attempts_spent_unsent"] == 0
