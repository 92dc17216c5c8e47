"""docs/architecture.md and docs/security.md: whoever follows them finds what they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
PATH = re.compile(r"`((?:worker|sql|tests|bench|local)/[\w./]*)(?:: (\w+)(?:\(\))?)?`")
ALONE = re.compile(r"`(\w+)\(\)`")


@pytest.mark.parametrize(("path", "name"), sorted(set(PATH.findall(PAGE + SECURITY))))
def test_a_file_that_is_named_is_there_and_has_what_is_named(path: str, name: str) -> None:
    """A path, with a function or class of it, or a folder."""
    assert (ROOT / path).exists()
    if name:
        assert re.search(
            rf"^(async def|def|class|create or replace function \w+\.) ?{name}\b", text(path), re.M
        )


def test_functions_named_without_their_file_are_in_the_one_named_before() -> None:
    """`next_claim()` after `worker/run/run.py: run()` is in that file."""
    for match in ALONE.finditer(PAGE):
        path = PATH.findall(PAGE[: match.start()])[-1][0]
        assert re.search(rf"(def|function \w+\.) ?{match[1]}\b", text(path)), match[0]


def test_every_package_is_explained() -> None:
    """Each has a line in the table."""
    packages = {path.parent.name for path in ROOT.glob("worker/*/__init__.py")}
    assert packages and packages <= set(re.findall(r"^\| `worker/(\w+)/` \|", PAGE, re.M))


@pytest.mark.parametrize("heading", ["| input | what could go wrong |", "| stolen | can |"])
def test_each_row_of_the_security_page_names_what_shows_it(heading: str) -> None:
    """A row that no test can show has a dash."""
    _, *rows = SECURITY.partition(heading)[2].partition("\n\n")[0].split("\n")[1:]
    assert rows
    for row in rows:
        last = row.rstrip(" |").rpartition(" | ")[2]
        assert last == "–" or PATH.match(last), row


def text(path: str) -> str:
    """The text of one of our files."""
    return (ROOT / path).read_text()
