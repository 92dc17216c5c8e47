"""Users share the starts of the gate, whichever runs they wait in; rate limiters of runs at the real gate."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.support.gate_sql import MODEL, GateRun, Moment, allow, still_time
from tests.support.queue_sql import NOON, Queue
from tests.support.virtual_time import VirtualTime
from worker.common.deadline import Deadline, Within
from worker.run.deadlines import Deadlines
from worker.run.rate_limiter import RateLimiter
from worker.run.stop import Stop

PLACES = 10
IMAGE_SECONDS = 2.0


class Gate:
    """The database's functions, at the time of the event loop."""

    def __init__(self, queue: Queue, moment: Moment) -> None:
        self.queue, self._moment = queue, moment

    async def rpc(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]:
        self._moment.set(NOON + timedelta(seconds=asyncio.get_running_loop().time()))
        answer: dict[str, Any] = self.queue.call(function, **params)
        return answer


@pytest.fixture
def gate(queue: Queue) -> Iterator[Gate]:
    """The gate of an empty queue."""
    with still_time(queue.connection) as moment:
        yield Gate(queue, moment)


class Run:
    """A run whose images take two seconds; `starts` has when images of each user have started."""

    def __init__(self, gate: Gate) -> None:
        self.starts: defaultdict[str, list[float]] = defaultdict(list)
        self._time = asyncio.get_running_loop().time
        run, deadlines = GateRun(gate.queue, 1e6, alone=False), Deadlines(260, 6, self._time)
        self._limiter = RateLimiter(gate, run.id, MODEL, PLACES, deadlines, Stop(), self._time)
        self._images: list[asyncio.Task[None]] = []

    def order(self, user: str, images: int) -> list[asyncio.Task[None]]:
        """Images of a user begin to wait."""
        ordered = [asyncio.create_task(self._make(user)) for _ in range(images)]
        self._images += ordered
        return ordered

    async def _make(self, user: str) -> None:
        latest = Deadline(1e6, self._time)
        async with self._limiter.start(user, latest, asyncio.Event()):
            self.starts[user].append(self._time())
            await asyncio.sleep(IMAGE_SECONDS)


def in_virtual_time(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario of minutes in less than a second."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(scenario)


def at_work(gate: Gate, runs: int, users: int = 1) -> list[Run]:
    """Runs at a gate of a start a second, in each of which each of these users has a hundred images."""
    allow(gate.queue, 60)
    working = [Run(gate) for _ in range(runs)]
    for run in working:
        for number in range(users):
            run.order(f"many {number}", 100)
    return working


def starts_of(runs: Sequence[Run], user: str, since: float) -> int:
    """How many images of a user have started since a time."""
    return sum(start >= since for run in runs for start in run.starts[user])


@pytest.mark.parametrize("users", [1, 3])
def test_a_user_in_one_of_three_runs_gets_about_as_much_as_those_in_all(gate: Gate, users: int) -> None:
    async def scenario() -> None:
        runs = at_work(gate, 3, users)
        await asyncio.sleep(30)
        runs[1].order("few", 100)
        await asyncio.sleep(90)
        few, many = (starts_of(runs, user, since=40) for user in ("few", "many 0"))
        assert few + users * many >= 75
        assert few >= 0.9 * many

    in_virtual_time(scenario())


@pytest.mark.parametrize(("runs", "place"), [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_a_small_order_starts_within_one_and_a_half_even_shares(gate: Gate, runs: int, place: int) -> None:
    """Four images take ten seconds in turns with another user's, whichever run they come to."""

    async def scenario() -> None:
        run = at_work(gate, runs)[place]
        await asyncio.sleep(30)
        await asyncio.wait(run.order("few", 4))
        assert max(run.starts["few"]) <= 30 + 15

    in_virtual_time(scenario())
