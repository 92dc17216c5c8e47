"""Every name that a released version had still exists, as CHANGELOG.md promises.

`python -m tests.docs.test_promised_names` writes the names of the version that is about to be released.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from local.stack.postgres import Postgres
from tests.support.databases import Database, database
from tests.support.events import events
from tests.support.yaml_text import read_yaml
from worker import __version__
from worker.cli.arguments import parser

ROOT = Path(__file__).resolve().parents[2]
PROMISED = ROOT / "tests" / "support" / "promised"
COLUMNS = """
    select attrelid::regclass::text || '.' || attname as name from pg_attribute
    where attrelid in (select oid from pg_class where relname ~ '^photo_generation_(batches|queue|photos)$')
      and attnum > 0 and not attisdropped"""
FUNCTIONS = """
    select proname || '.' || coalesce(argument, '') as name
    from pg_proc left join lateral unnest(proargnames) as argument on true
    where pronamespace = 'public'::regnamespace"""


def found(pattern: str, *files: str) -> list[str]:
    """What the pattern's group matches in the files."""
    text = "".join((ROOT / file).read_text() for file in files)
    return re.findall(pattern, text, re.MULTILINE)


def http_names() -> list[str]:
    """The paths of both functions, and the fields of everything they take and answer."""
    names = []
    for page in sorted((ROOT / "docs/openapi").glob("*.yaml")):
        described = read_yaml(page.read_text())
        names += [
            f"{page.stem} {method} {path}" for path, each in described["paths"].items() for method in each
        ]
        for name, schema in described["components"]["schemas"].items():
            fields = {field for form in schema.get("oneOf", [schema]) for field in form.get("properties", ())}
            names += [f"{page.stem} {name}.{field}" for field in fields]
    return names


def commands(grammar: argparse.ArgumentParser, said: str = "") -> Iterator[str]:
    """Every command with each of its options."""
    for action in grammar._actions:
        yield from (f"{said}{option}" for option in action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from (f"{said}{name}", *commands(below, f"{said}{name} "))


def names(scratch: Database) -> dict[str, list[str]]:
    """Every name that the changelog promises, by where it is met; `scratch` has the installation."""
    told = {
        "columns": [row["name"] for row in scratch.connection.execute(COLUMNS).fetchall()],
        "functions": [row["name"] for row in scratch.connection.execute(FUNCTIONS).fetchall()],
        "environment": found(
            r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)"', "worker/settings.py", "worker/log/events.py"
        ),
        "http": http_names(),
        "commands": list(commands(parser())),
        "events": list(events()),
        "metrics": found(r"_(?:metric|one)\(\s*f?\"(\w+)\"", "worker/ops/metrics.py"),
    }
    return {where: sorted(set(each)) for where, each in told.items()}


@pytest.mark.parametrize("promise", sorted(PROMISED.glob("*.json")), ids=lambda promise: promise.stem)
def test_every_name_of_a_release_is_still_there(promise: Path, installed: Database) -> None:
    """An app, a runbook or an alert written for a released version meets the names that it knows."""
    promised: Mapping[str, Any] = json.loads(promise.read_text())
    now = names(installed)
    assert len(promised) == 7
    assert {where: sorted(set(each) - set(now[where])) for where, each in promised.items()} == {
        where: [] for where in promised
    }


def test_the_version_that_runs_has_promised() -> None:
    """A release writes its names to a file, so that later versions can be checked."""
    assert (PROMISED / f"{__version__}.json").exists(), "run `python -m tests.docs.test_promised_names`"


def write() -> None:
    """Write the names of this version."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Postgres(Path(folder), durable=False) as postgres,
        database(postgres) as made,
    ):
        made.install()
        text = json.dumps(names(made), indent=1)
    (PROMISED / f"{__version__}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()
