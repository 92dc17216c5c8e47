"""docs/vm.md is true: its general blocks are run, those for a machine are compared with the units."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bare import FENCE, ROOT, Checkout, blocks
from tests.support.runs import Site, process_environment

PAGE = (ROOT / "docs" / "vm.md").read_text()
KINDS = {"sh here", "sh project", "sh until stopped", "sh root"}
ACTIVE = ". .venv/bin/activate\n"


def test_every_block_is_accounted_for() -> None:
    """A block is run here, or says that it needs root on a machine; there is no other kind."""
    assert {info for info, _ in FENCE.findall(PAGE)} == KINDS
    assert [len(blocks(kind)) for kind in ("sh here", "sh project", "sh until stopped")] == [2, 2, 1]


@pytest.mark.slow
async def test_locally_against_a_project(checkout: Checkout, site: Site) -> None:
    """From a new folder to photos: packages, .env, check, a tick, and a loop that Ctrl-C ends at once."""
    settings = process_environment(site.stack, site.gemini)
    env_file = checkout.folder / ".env"
    assert "SUPABASE_URL=\n" in env_file.read_text()
    names = ("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY", "GEMINI_API_KEY")
    env_file.write_text("".join(f"{name}={settings[name]}\n" for name in names))
    gemini = {"GOOGLE_GEMINI_BASE_URL": site.gemini.url}
    check, tick = blocks("sh project")

    (job,) = await site.order("tick")
    assert "failed" not in await asyncio.to_thread(checkout.run, ACTIVE + check, **gemini)
    summary = json.loads(await asyncio.to_thread(checkout.run, ACTIVE + tick, **gemini))
    assert (summary["completed"], site.job(job)["status"]) == (1, "completed")

    (job,) = await site.order("loop")
    (loop,) = blocks("sh until stopped")
    command = ["/bin/bash", "-euc", ACTIVE + "exec " + loop]
    environment = checkout.environment(**gemini)
    with subprocess.Popen(
        command, cwd=checkout.folder, env=environment, preexec_fn=_default_signals
    ) as started:
        await site.until_row("select from photo_generation_queue where id = %s and status = 'completed'", job)
        started.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(started.wait, 60) == 0


def _default_signals() -> None:
    """Undo what a shell does to a job in the background: SIGINT ignored would stay so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_is_for_root_names_what_is_there() -> None:
    """Files, units and commands that the page's other blocks name are those of the repository."""
    text = "".join(blocks("sh root"))
    for name in re.findall(
        r"/opt/generation-worker/(deploy/\S+|requirements\.txt|\.env\.example|worker)\b", text
    ):
        assert (ROOT / name).exists(), name
    units = {path.name for path in (ROOT / "deploy").iterdir() if path.suffix in (".service", ".timer")}
    named = set(re.findall(r"\b(generation-worker[a-z-]*\.(?:service|timer))\b", text))
    assert named == units
    commands = re.findall(r"deploy/as-worker\.sh (\w+)", text)
    assert set(commands) == {"check", "status", "sweep", "prune"}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "worker", command, "--help"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, command


def test_root_runs_no_code_of_the_worker(tmp_path: Path) -> None:
    """Every command of the worker runs as its service does: the same settings, a user that owns nothing."""
    assert "-m worker" not in "".join(blocks("sh root"))
    stand_in = tmp_path / "systemd-run"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    script = ROOT / "deploy" / "as-worker.sh"
    done = subprocess.run([script, "prune"], env={"PATH": f"{tmp_path}:/bin"}, capture_output=True, text=True)
    unit = (ROOT / "deploy" / "generation-worker.service").read_text()
    given = done.stdout.splitlines()
    properties = [each.removeprefix("--property=") for each in given if each.startswith("--property=")]
    assert {"DynamicUser=yes", "EnvironmentFile=/etc/generation-worker.env"} < set(properties)
    assert set(properties) <= set(unit.splitlines())
    program = " ".join(given[-5:-1])
    assert f"ExecStart={program} run\n" in unit and given[-1] == "prune"


def test_what_is_for_root_is_sound_shell(tmp_path: Path) -> None:
    """shellcheck finds nothing in the blocks that no test can run."""
    for text in blocks("sh root"):
        script = tmp_path / "block.sh"
        script.write_text("#!/bin/bash\nset -e\n" + text)
        done = subprocess.run(
            ["shellcheck", script], capture_output=True, text=True, env=_with_venv(), check=False
        )
        assert done.returncode == 0, done.stdout


def _with_venv() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("name", ["TimeoutStopSec=15", "RestartPreventExitStatus=2"])
def test_the_unit_is_what_the_page_says(name: str) -> None:
    """A stop takes ten seconds at most, and settings that cannot be used are no reason to start again."""
    assert name in (ROOT / "deploy" / "generation-worker.service").read_text()
