"""Fixtures of the SQL tests."""

from collections.abc import Callable, Iterator

import pytest

from local.stack.stack import ACCESS, Stack
from tests.support.installation import connect
from tests.support.queue_sql import Clock, Connection, Queue

LIMITS = "set lock_timeout = '10s'; set statement_timeout = '20s'"


@pytest.fixture
def queue(db: Connection) -> Queue:
    """The functions as the superuser calls them, on empty tables."""
    db.execute(LIMITS)
    return Queue(db)


@pytest.fixture
def clock(db: Connection) -> Iterator[Clock]:
    """A clock that is noon until a test moves it."""
    clock = Clock(db)
    try:
        yield clock
    finally:
        clock.restore()


@pytest.fixture
def as_installed(queue: Queue) -> None:
    """The grants of a fresh installation, whatever an earlier test granted."""
    queue.connection.execute(ACCESS.read_text().encode())


@pytest.fixture
def another(stack: Stack, db: Connection) -> Iterator[Callable[[], Queue]]:
    """Opens further connections: `other = another()`."""
    opened: list[Connection] = []

    def open_one() -> Queue:
        opened.append(connect(stack.db_url))
        opened[-1].execute(LIMITS)
        return Queue(opened[-1])

    yield open_one
    for connection in opened:
        connection.close()
