"""Fixtures of tests on their own databases."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from local.stack.postgres import Postgres
from local.stack.stack import Stack
from tests.support.databases import TODAY, Database, database


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Postgres:
    """The server whose databases are used; a module may replace it by another."""
    return stack.postgres


@pytest.fixture
def scratch(postgres: Postgres) -> Iterator[Database]:
    """A database with nothing of ours in it."""
    with database(postgres) as made:
        yield made


@pytest.fixture
def installed(postgres: Postgres) -> Iterator[Database]:
    """A database in which install.sql has run."""
    with database(postgres, TODAY) as made:
        yield made


@pytest.fixture
def earlier(postgres: Postgres) -> Iterator[Callable[[str], Database]]:
    """A database in which an earlier version of install.sql has run: `earlier("0.1.0")`."""
    with ExitStack() as opened:
        yield lambda version: opened.enter_context(database(postgres, version))
