"""The invariants of `bench.storm.invariants`, asserted on a connection."""

from bench.storm.invariants import violations
from tests.support.queue_sql import Connection


def check_invariants(connection: Connection) -> None:
    """Counters equal the rows, a batch has the status its jobs give it, no image is made and given up."""
    broken = list(violations(lambda query: connection.execute(query.encode()).fetchall()))
    assert not broken, "\n".join(broken)
