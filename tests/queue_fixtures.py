"""Fixtures of the SQL tests; a module that wants them says `pytest_plugins = ("tests.queue_fixtures",)`."""

from collections.abc import Callable, Iterator

import pytest
from supabase import AsyncClient

from local.stack.stack import SQL, Stack
from tests.conftest import connect
from tests.queue_sql import Clock, Connection, Queue

LIMITS = "set lock_timeout = '10s'; set statement_timeout = '20s'"


@pytest.fixture
def queue(db: Connection) -> Queue:
    """The functions as the superuser calls them, on empty tables."""
    db.execute(LIMITS)
    return Queue(db)


@pytest.fixture
def clock(db: Connection) -> Iterator[Clock]:
    """A clock that stands still at noon until a test moves it."""
    clock = Clock(db)
    try:
        yield clock
    finally:
        clock.restore()


@pytest.fixture
async def as_installed(stack: Stack, queue: Queue, service: AsyncClient) -> None:
    """The grants of a fresh installation, through the API as well.

    @supabase/lite 0.10.0 grants everyone everything on the tables of every schema that has row-level
    security, once, when it is first asked for rows. Supabase does not: let it, then apply our grants again.
    """
    await service.table("photo_generation_queue").select("id").limit(1).execute()
    queue.connection.execute("""
        revoke all on schema generation from service_role;
        revoke all on all tables in schema generation from service_role""")
    stack.postgres.apply([SQL / "80_access.sql"])


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
