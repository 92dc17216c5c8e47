"""The kick end to end on the local stack: an order reaches the served function, and no clock is needed.

Real: the database, the API, the function, the files of sql/schedule. Stood in for: pg_net, Vault, Gemini.
"""

from collections.abc import Iterator

import pytest

from local.simulator.gemini import Simulator
from local.stack.folder import free_port
from local.stack.stack import Stack
from tests.clocked import Clocked, clocked
from tests.clone import wait_for
from tests.queue_sql import Connection
from tests.schedule_sql import SECRET, forget_kicks, paste


@pytest.fixture
def site(stack: Stack, simulator: Simulator, db: Connection) -> Iterator[Clocked]:
    """The stack with function and kick, but without any clock."""
    with clocked(stack, simulator, db) as made:
        paste(db, "kick.sql")
        yield made


def answered(site: Clocked) -> None:
    """Waits until no call is under way any more."""
    wait_for(lambda: all(call["meaning"] != "under way" for call in site.calls()), 60)


def test_an_order_is_worked_off_without_a_clock(site: Clocked) -> None:
    """The first order through the API calls the function by itself, which makes its photo and answers 200."""
    job = site.order("first")
    wait_for(lambda: site.is_completed(job), 60)
    answered(site)
    (call,) = site.calls()
    assert (call["what"], call["meaning"]) == ("kick /", "ok")
    assert call["result"].startswith('200 {"runId":')
    assert SECRET not in str(paste(site.db, "watch.sql"))


def test_a_run_under_way_takes_what_comes(site: Clocked) -> None:
    """An order that comes during a run kicks nobody, and that very run makes its photo."""
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[first]")
    first = site.order("first")
    assert site.gemini.ledger.wait(lambda ledger: ledger.outcomes().get("open") == 1, 60)
    forget_kicks(site.db)
    second = site.order("second")
    site.gemini.release()
    wait_for(lambda: site.is_completed(first) and site.is_completed(second), 60)
    answered(site)
    (call,) = site.calls()
    assert '"completed":2' in call["result"]


def test_watch_tells_what_is_wrong(site: Clocked) -> None:
    """A wrong secret shows as 401, a wrong path as 404, a closed port as not reached; each with its mend."""
    for name, value, meaning in (
        ("secret", "not-the-secret-of-the-worker", "the secret is wrong"),
        ("secret", SECRET, "ok"),
        ("url", f"{site.function.url}/elsewhere", "generation_worker_url is not the address"),
        ("url", f"http://127.0.0.1:{free_port()}", "the worker was not reached"),
    ):
        site.store(f"generation_worker_{name}", value)
        site.db.execute("select generation.call_worker('/sweep')")
        answered(site)
        assert site.calls()[0]["meaning"].startswith(meaning), site.calls()[0]
