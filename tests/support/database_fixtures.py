"""Fixtures of tests on their own databases: a pytest plugin, named by the modules that want them."""

from collections.abc import Iterator

import pytest

from local.stack.postgres import Postgres
from local.stack.stack import Stack
from tests.support.databases import Database, database


@pytest.fixture(scope="module")
def postgres(stack: Stack) -> Postgres:
    """The server whose databases are used; a module may replace it by another."""
    return stack.postgres


@pytest.fixture
def scratch(postgres: Postgres) -> Iterator[Database]:
    """A database with nothing of ours in it."""
    with database(postgres) as made:
        yield made
