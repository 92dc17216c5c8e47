"""Supabase's API loads `safeupdate`, which refuses UPDATE and DELETE without WHERE, in functions too."""

import re
from pathlib import Path

import pytest

from local.install_sql import SQL, functions, migrations

UNREAD = re.compile(r"'(?:[^']|'')*'|--.*")
CHANGE = re.compile(r"\b(?:update|delete from) +\w+\.\w+[^;]*")
NUMBERS = ("73_stats.sql", "79_counts.sql")
FILES = [*migrations(), *functions(), *sorted((SQL / "schedule").glob("*.sql"))]


def innermost(statement: str) -> str:
    """The statement up to the end of its bracket, without the contents of inner brackets."""
    depth, kept = 0, ""
    for character in statement:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        kept += character if depth == 0 else ""
    return kept


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_change_says_which_rows(file: Path) -> None:
    """Every UPDATE and DELETE has its own WHERE; otherwise the API would refuse the call."""
    for change in CHANGE.findall(UNREAD.sub("", file.read_text())):
        assert re.search(r"\bwhere\b", innermost(change)), change


def test_no_function_sets_planner_options() -> None:
    """An app's triggers run inside them, planned with the same options; the numbers only read."""
    set_here = re.findall(
        r"set (?:local )?(enable_\w+|\w+_cost|jit|from_collapse_limit|join_collapse_limit)\b",
        "".join(file.read_text() for file in FILES if file.name not in NUMBERS),
    )
    assert set_here == []


def test_every_kind_of_change_is_recognized() -> None:
    """The search itself finds a missing WHERE, also where a subquery has one."""
    for text in (
        "update public.a as b set c = 1;",
        "with x as (delete from public.a) select 1 where true;",
        "update public.a as b set c = (select 1 where true);",
    ):
        (change,) = CHANGE.findall(text)
        assert not re.search(r"\bwhere\b", innermost(change))
