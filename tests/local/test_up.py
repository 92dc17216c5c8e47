"""`make up` prints commands that work unchanged, and leaves nothing running."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from typing import Any

import httpx
import pytest

from tests.local.test_stack import wait_until_gone
from tests.support.clone import Clone, descendants, read_until, wait_for


def curl(command: str, variables: dict[str, str]) -> Any:
    """The answer of a printed curl command, as JSON; supports only the printed options."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    words = shlex.split(command)
    assert words[:2] == ["curl", "-s"]
    method, url, data, headers = "", "", None, {}
    rest = iter(words[2:])
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = next(rest)
        elif word == "-X":
            method = next(rest)
        else:
            url = word
    with httpx.Client(trust_env=False, timeout=30) as http:
        answer = http.request(method or ("POST" if data else "GET"), url, content=data, headers=headers)
    assert answer.is_success, answer.text
    return answer.json()


def read_guide(process: subprocess.Popen[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The printed variables, and the commands by their descriptions."""
    assert process.stdout is not None
    variables, commands, words = {}, {}, ""
    for line in process.stdout:
        if line.startswith("Running until"):
            break
        if line.startswith("# "):
            words = line[2:].split()[0]
        elif words and line.strip():
            commands[words] = line.strip()
            words = ""
        elif "=" in line:
            name, _, value = line.strip().partition("=")
            variables[name] = shlex.split(value)[0]
    return variables, commands


@pytest.mark.slow
def test_every_command_that_up_prints_works(clone: Clone) -> None:
    """A killed function is restarted, and SIGTERM ends everything."""
    with clone.running("up") as process:
        worker = int(read_until(process, "process_generation_queue").split("(pid ")[1].rstrip(")"))
        variables, commands = read_guide(process)
        started = descendants(process.pid)
        assert curl(commands["Check"], variables)["ok"] is True
        overview = 'curl -s $WORKER_URL/overview -H "X-Operator-Secret: $OPERATOR_SECRET"'
        assert curl(overview, variables)["batches"] == []
        assert curl(commands["Order"], variables)["jobsEnqueued"] == 1
        assert [job["images"] for job in curl(commands["List"], variables)["jobs"]] == [2]
        assert curl(commands["Process"], variables)["images"]["made"] == 2
        assert [job["status"] for job in curl(commands["Read"], variables)] == ["completed"]
        assert curl(commands["Show"], variables)["summary"]["paid"] == 2
        variables["ACCESS_TOKEN"] = curl(commands["Get"], variables)["access_token"]
        assert curl(commands["Order"], variables)["success"] is True
        status = subprocess.run(
            shlex.split(commands["Use"]), cwd=clone.folder, capture_output=True, text=True, check=True
        )
        assert "completed" in status.stdout
        count = [*shlex.split(commands["Open"]), "-c", "select count(*) from photo_generation_queue", "-tA"]
        assert subprocess.run(count, capture_output=True, text=True, check=True).stdout.strip() == "2"
        os.kill(worker, signal.SIGKILL)
        assert "pid" in read_until(process, "process_generation_queue had died")
        assert curl(commands["Process"], variables)["completed"] == 1
        started += descendants(process.pid)
        process.terminate()
        _, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (130, "")
    wait_until_gone(started)
    assert clone.trap.sprung == 0
    wait_for(lambda: not (clone.folder / ".local/up/postgres18/postmaster.pid").exists())
