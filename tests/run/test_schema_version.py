"""A run against a database that is older or newer than its worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.runs import Site
from worker.supabase.queue import SCHEMA_VERSION

PROBLEM = f"the database is at {SCHEMA_VERSION - 1}, this worker needs {SCHEMA_VERSION}: run sql/install.sql"


@contextmanager
def at(site: Site, number: int) -> Iterator[None]:
    """The database at another version than that of its last migration."""
    move = "update generation.schema_migrations set number = %s where number = %s returning number"
    site.rows(move, number, SCHEMA_VERSION)
    try:
        yield
    finally:
        site.rows(move, SCHEMA_VERSION, number)


@contextmanager
def without_the_claim(site: Site) -> Iterator[None]:
    """A database whose claim has not the parameters that this worker sends."""
    site.db.execute("alter function claim_generation_jobs rename to claim_elsewhere")
    try:
        yield
    finally:
        site.db.execute("alter function claim_elsewhere rename to claim_generation_jobs")


async def test_an_older_database_makes_the_run_misconfigured(site: Site) -> None:
    """The run claims nothing, and names both versions and the SQL to run; after that SQL it works."""
    await site.order("a")
    with at(site, -1):
        summary = await site.run()
    assert (summary["stopReason"], summary["claimed"]) == ("misconfigured", 0)
    assert summary["problem"].startswith(PROBLEM)
    assert (await site.run())["completed"] == 1


async def test_a_newer_database_is_worked_with(site: Site) -> None:
    """The SQL is updated first, so the previous worker must keep working."""
    await site.order("a")
    with at(site, SCHEMA_VERSION + 7):
        assert (await site.run())["completed"] == 1


async def test_an_older_claim_function_is_reported_with_both_versions(site: Site) -> None:
    """The message does not say that a function is missing, which would not help."""
    await site.order("a")
    with at(site, -1), without_the_claim(site):
        summary = await site.run()
    assert summary["stopReason"] == "misconfigured"
    assert summary["problem"].startswith(PROBLEM)


async def test_a_function_that_somebody_removed_is_named(site: Site) -> None:
    """At the right version it is the function that is missing."""
    await site.order("a")
    with without_the_claim(site):
        summary = await site.run()
    assert "no function claim_generation_jobs" in summary["problem"]
