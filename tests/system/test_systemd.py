"""The units for a machine of one's own: systemd takes them, they are closed tight, their commands work."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import platform
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.runs import Site, process_environment
from worker.photos.dns import MAX_LOOKUPS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SERVICES = ("generation-worker.service", "generation-worker-tick.service")
UNITS = (*SERVICES, "generation-worker-tick.timer")
PYTHON = "/opt/generation-worker/.venv/bin/python"
EXPOSURE = 15
"""Tenths: 1.5 of 10."""

EXECUTOR_THREADS = 32
"""The most that an event loop starts of its own (concurrent.futures.ThreadPoolExecutor)."""

PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN = 65, 1
"""What MemoryDenyWriteExecute=yes asks of the kernel (linux/prctl.h, since 6.3)."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SETPRIORITY = {"x86_64": 141, "aarch64": 140}
"""The number of the system call that SystemCallFilter=~@resources refuses to `nice`."""

Program = Callable[[str, str], str]


def unit(name: str) -> Mapping[str, Mapping[str, list[str]]]:
    """A unit's sections, each with all values of its keys."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def installed(folder: Path, name: str, change: Callable[[str], str] = str) -> Path:
    """The unit in a folder, with an existing Python."""
    for each in UNITS:
        text = (DEPLOY / each).read_text().replace(PYTHON, sys.executable)
        (folder / each).write_text(change(text) if each == name else text)
    return folder / name


def analyze(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze, which needs no running systemd for this."""
    command = [program("systemd-analyze", "systemd"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.system
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(program: Program, tmp_path: Path, name: str) -> None:
    """systemd knows every key and value, and finds every program and unit."""
    done = analyze(program, "verify", "--recursive-errors=no", str(installed(tmp_path, name)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.system
@pytest.mark.parametrize(
    ("old", "new"),
    [("Restart=", "Restarts="), ("TasksMax=256", "TasksMax=many"), ("Type=exec", "Type=often")],
)
def test_systemd_would_refuse_a_mistake(program: Program, tmp_path: Path, old: str, new: str) -> None:
    """A key that does not exist, a value that is none: what the test before would find."""
    path = installed(tmp_path, SERVICES[0], lambda text: text.replace(old, new))
    done = analyze(program, "verify", "--recursive-errors=no", str(path))
    assert done.returncode != 0 or done.stderr


@pytest.mark.system
@pytest.mark.parametrize("name", SERVICES)
def test_it_is_closed_tight(program: Program, tmp_path: Path, name: str) -> None:
    """systemd rates its exposure 1.5 of 10 at most, and higher once a directive that counts is gone."""
    secure = ("security", "--offline=true", f"--threshold={EXPOSURE}")
    assert analyze(program, *secure, str(installed(tmp_path, name))).returncode == 0
    for directive in ("DynamicUser=yes", "SystemCallFilter=@system-service"):
        path = installed(tmp_path, name, lambda text, line=directive: text.replace(line, ""))  # type: ignore[misc]
        assert analyze(program, *secure, str(path)).returncode != 0, directive


def test_both_services_are_closed_alike() -> None:
    """Both services have the same sandbox and read the same settings."""
    first, second = (unit(name)["Service"] for name in SERVICES)
    own = {"Type", "ExecStart", "Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStartSec"}
    assert {key: first[key] for key in first.keys() - own} == {
        key: second[key] for key in second.keys() - own
    }


@pytest.mark.parametrize("name", SERVICES)
def test_lookups_of_photo_hosts_leave_threads_for_everything_else(name: str) -> None:
    """Silent DNS servers may hold a thread for each lookup; the loop still has threads."""
    (most,) = unit(name)["Service"]["TasksMax"]
    assert int(most) >= 2 * (MAX_LOOKUPS + EXECUTOR_THREADS)


def test_the_timer_fits_the_runs() -> None:
    """A run is not cut before the longest there is has ended, and systemd gathers no minutes."""
    (longest,) = unit(SERVICES[1])["Service"]["TimeoutStartSec"]
    assert int(longest) >= 270 + 10
    timer = unit(UNITS[2])["Timer"]
    assert timer["AccuracySec"] == ["1s"] and timer["OnCalendar"] == ["*-*-* *:*:00"]


def command(name: str) -> list[str]:
    """A service's command, with the tests' Python."""
    (line,) = unit(name)["Service"]["ExecStart"]
    argv = shlex.split(line)
    assert argv[0] == PYTHON
    return [sys.executable, *argv[1:]]


def _as_systemd_does() -> None:
    """Signals as they are by default, no memory that may be written and executed, and no other priority."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, _refusing(SETPRIORITY[platform.machine()]), 0, 0)


def _refusing(number: int) -> ctypes.Array[ctypes.c_char]:
    """A filter of system calls that refuses one with EPERM: load the number, compare, refuse, allow."""
    steps = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x50000 | errno.EPERM),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    _refusing.kept = ctypes.create_string_buffer(program)  # type: ignore[attr-defined]
    return ctypes.create_string_buffer(
        struct.pack("@HP", len(steps), ctypes.addressof(_refusing.kept))  # type: ignore[attr-defined]
    )


def start(name: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The service's command, as written, from its working directory, with its settings and no others."""
    return subprocess.Popen(
        command(name), cwd=DEPLOY.parent, env=environment, preexec_fn=_as_systemd_does,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_the_service_works_and_stops(site: Site) -> None:
    """Its command processes a job, and ends within TimeoutStopSec after SIGTERM."""
    (job,) = await site.order("one")
    with start(SERVICES[0], process_environment(site.stack, site.gemini)) as started:
        await site.until_row("select from photo_generation_queue where id = %s and status = 'completed'", job)
        started.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(started.wait, 15) == 0
    site.audit()


async def test_a_stop_amid_a_photo_gives_the_rest_back(site: Site) -> None:
    """Stopped while Gemini works, it ends within TimeoutStopSec; jobs that had not started are unchanged."""
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[held]", times=1)
    held, waiting = await site.order("held", "waiting")
    settings = process_environment(site.stack, site.gemini) | {"IMAGES_AT_A_TIME": "1"}
    with start(SERVICES[0], settings) as started:
        await site.open_calls(1)
        started.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(started.wait, 15) == 0
    assert (site.job(waiting)["status"], site.job(waiting)["attempts"]) == ("pending", 0)
    assert site.job(held)["status"] == "pending"


async def test_the_tick_does_one_run(site: Site) -> None:
    """The timer's command does one run, prints its summary and succeeds."""
    (job,) = await site.order("one")
    with start(SERVICES[1], process_environment(site.stack, site.gemini)) as started:
        out, _ = await asyncio.to_thread(started.communicate, None, 60)
    assert started.returncode == 0
    assert json.loads(out)["completed"] == 1
    assert site.job(job)["status"] == "completed"


def test_unusable_settings_are_not_tried_again() -> None:
    """Settings that cannot be used end it with the status that is not restarted, and it says why."""
    (prevented,) = unit(SERVICES[0])["Service"]["RestartPreventExitStatus"]
    with start(SERVICES[0], {"SUPABASE_URL": "not an address"}) as started:
        _, log = started.communicate(timeout=60)
    assert started.returncode == int(prevented)
    assert b"GEMINI_API_KEY" in log
