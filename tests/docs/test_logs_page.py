"""docs/logs.md is true: the table has each event of the code with its severity and fields, and no other."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from tests.support.events import Event, events
from worker import log

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "logs.md").read_text()
ROW = re.compile(r"^\| `([a-z_]+)` \| ((?:info|warning|error|, )+) \| (.*?) \| (.+) \|$", re.MULTILINE)
SUMMARY = "the summary's"


def table() -> dict[str, Event]:
    """The page's table."""
    found = {}
    for name, levels, fields, meaning in ROW.findall(PAGE):
        assert meaning.strip()
        named = {"**"} if fields == SUMMARY else set(re.findall(r"`(\w+)`", fields))
        found[name] = Event(frozenset(levels.split(", ")), frozenset(named))
    return found


def test_every_event_is_told() -> None:
    """Whoever meets an event in a log finds it in the table, and the table names none that is gone."""
    assert sorted(table()) == sorted(events())
    assert len(ROW.findall(PAGE)) == len(table())


@pytest.mark.parametrize("name", sorted(events()))
def test_an_event_is_as_told(name: str) -> None:
    """An event has the severity and the fields that the table gives it."""
    told, logged = table()[name], events()[name]
    assert told.fields == logged.fields
    # Which of the ends of a job is a warning is decided by its status, at run time.
    assert told.levels <= logged.levels if name.startswith("job_") else told.levels == logged.levels


@pytest.mark.usefixtures("restored_logging")
def test_the_lines_look_like_that() -> None:
    """The page's example is what a terminal shows."""
    stream = io.StringIO()
    log.set_up({}, stream)
    with log.bound(
        run="4be8b935-29f3-444f-88f5-f18aaa9c5c59", job=7, batch="8d1cab83-d2c8-4d40-b700-d451e3e9e6b4"
    ):
        log.event("image_made", image=0, adopted=False)
        log.event("image_erred", level="warning", image=1, code="unavailable", paid=False)
    for line in stream.getvalue().splitlines():
        assert line.partition("Z ")[2] in PAGE
