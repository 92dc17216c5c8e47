"""The whole queue against a model of it: apps, workers, zombies, operators and time act in any order.

The steps are the same every time. `QUEUE_MACHINE_EXAMPLES=5000 pytest tests/sql/test_queue_machine.py` takes
others, so many times 40; a failure prints the steps that lead to it, and the line that repeats them.
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.claim_rules import ClaimRules
from tests.support.gate_sql import Moment, still_time
from tests.support.installation import Installation
from tests.support.machine import ACTIONS
from tests.support.operator_rules import OperatorRules
from tests.support.queue_sql import Queue
from tests.support.result_rules import ResultRules

EXAMPLES = os.environ.get("QUEUE_MACHINE_EXAMPLES", "")
ALL = 120
FEW = 16
"""So many examples reach most of what is listed below, in an eighth of the time."""

STEPS = settings(
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
REACHED = {
    *(
        "claim job",
        "claim suspect",
        "claim queue_empty",
        "claim rate_limited",
        "claim paused",
        "claim refused",
    ),
    *("rescue lease_expired", "rescue crashed"),
    *("record recorded", "record already_recorded", "record job_final"),
    *("record out_of_range", "record elsewhere", "refuse recorded", "refuse already_recorded"),
    *("settle completed", "settle refused", "settle failed", "settle exhausted"),
    *("settle pending", "settle rate_limited", "settle lease_lost"),
    *("take starts", "take rate_limited", "429 blocks", "429 does not block"),
    *("finish releases", "release", "retry_failed", "cancel"),
    *("insert into nothing", "insert into generating"),
}
"""What must have happened, besides every action, for the test to mean something."""


class QueueMachine(ClaimRules, ResultRules, OperatorRules):
    """All rules."""


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that the rules move."""
    with still_time(queue.connection) as moment:
        yield moment


@pytest.mark.parametrize("examples", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def test_any_sequence_of_calls_agrees_with_the_model(
    queue: Queue, moment: Moment, installation: Installation, examples: int
) -> None:
    """In answers and rows; the test also checks that everything does happen."""
    reached: Counter[str] = Counter()

    def machine() -> QueueMachine:
        installation.rows.restore(queue.connection)
        return QueueMachine(queue, moment, reached)

    steps = settings(STEPS, max_examples=int(EXAMPLES or examples))
    run_state_machine_as_test(cast(type[QueueMachine], machine), settings=steps)
    assert EXAMPLES or examples == FEW or REACHED | ACTIONS.keys() <= reached.keys()
