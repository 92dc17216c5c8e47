"""Each command as a process of its own: what the other tests call in their own process is what it runs."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.command_line import CommandLine, Done
from tests.support.runs import Site, fresh_order, picture
from worker.cli.arguments import parser

# `run` and `drain` are processes in test_loop and test_drain, because signals end them.
COMMANDS = (
    "tick",
    "enqueue -",
    "status",
    "show 1",
    "release-stale",
    "retry-failed",
    "gate show",
    "models list",
    "hosts list --json",
    "photo {photo} --out sent",
    "cancel none",
    "sweep",
    "prune",
    "erase nobody --yes",
    "check",
)


def of_this_kind(done: Done) -> tuple[int, str, str]:
    """The exit code and what was written, without what differs from one call to the next."""
    changing = r"[0-9a-f]{8}-[0-9a-f-]{27}|[\dT:.Z+-]*\d[\dT:.Z+-]*|\s+"
    return done.code, re.sub(changing, " ", done.out), re.sub(changing, " ", done.log)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_process_ends_and_prints_as_a_call_does(cli: CommandLine, site: Site, command: str) -> None:
    photo = await site.upload("another.png", picture("orange"))  # the usual one may have been prepared before
    words = command.format(photo=photo).split()
    order = json.dumps({"userId": site.user, **fresh_order(("one",), 1, site.photo)}).encode()

    called = await cli.call(*words, stdin=order)
    process = await cli.process(*words, stdin=order)

    assert of_this_kind(process) == of_this_kind(called)


def test_every_command_is_run_as_a_process() -> None:
    (commands,) = (each.choices for each in parser()._actions if each.dest == "command")
    assert commands is not None
    assert {*commands} == {each.split()[0] for each in COMMANDS} | {"run", "drain"}
