"""The common part of the queue's state machine: the queue, the model, and the checks after each step."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.gate_model import CALIFORNIA, GRACE, WINDOW, Gate
from tests.support.gate_sql import Moment, allow, gate, most_in_a_window
from tests.support.job_model import FINAL, Result
from tests.support.queue_invariants import check_invariants
from tests.support.queue_model import QueueModel, RunState
from tests.support.queue_rows import check_rows
from tests.support.queue_sql import NOON, Queue, Run

F = TypeVar("F", bound=Callable[..., None])
USERS = ("ann", "bob", "cem")


class Claim(NamedTuple):
    """The arguments of a claim; the run by its number."""

    run: int
    id: UUID
    most: int
    seconds: int


class Handle(NamedTuple):
    """A job and the fence it was handed out under; whoever has it may be a zombie by now."""

    job: int
    fence: str


class Action(NamedTuple):
    """A possible step: its weight, when it makes sense, and its arguments."""

    weight: int
    when: Callable[[Any], object]
    arguments: Mapping[str, st.SearchStrategy[Any]]


@dataclass(frozen=True)
class Step:
    """An action, and what it is called with; shown as the call it is."""

    name: str
    arguments: Mapping[str, object]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


ACTIONS: dict[str, Action] = {}
SCALE = 2**16
# Numbers from 0 to SCALE, evenly: hypothesis itself prefers the ends and what it finds in the source.
NUMBERS = st.integers(0, SCALE - 1).map(lambda number: number * 40503 % SCALE)


def action(
    weight: int, when: Callable[[Any], object] = lambda _: True, **arguments: st.SearchStrategy[Any]
) -> Callable[[F], F]:
    """A method of a machine that is one of its actions.

    Unlike a rule it has a weight, and hypothesis, which leaves out half of all rules, does not leave it out.
    """

    def register(method: F) -> F:
        ACTIONS[method.__name__] = Action(weight, when, arguments)
        return method

    return register


def one(of: Callable[[Any], Iterable[Any]]) -> st.SearchStrategy[Any]:
    """One of the machine's current values; an action that draws it waits until there is one."""
    return st.runner().flatmap(lambda machine: st.sampled_from(list(of(machine))))


def steps(machine: "Machine") -> st.SearchStrategy[Step]:
    """The possible steps of a machine now."""
    possible = sorted((a.weight, name) for name, a in ACTIONS.items() if a.when(machine))
    names = [name for weight, name in reversed(possible) for _ in range(weight)]
    return NUMBERS.flatmap(lambda number: _step(names[number * len(names) // SCALE]))


def _step(name: str) -> st.SearchStrategy[Step]:
    arguments = st.fixed_dictionaries(dict(ACTIONS[name].arguments))
    return st.builds(Step, st.just(name), arguments)


class Machine(RuleBasedStateMachine):
    """The queue and the model of it, at the same time and with the same past."""

    def __init__(self, queue: Queue, moment: Moment, reached: Counter[str]) -> None:
        super().__init__()
        self.queue, self.moment, self.reached = queue, moment, reached
        self.moment.set(NOON)
        queue.connection.execute(
            "select setseed(0)"
        )  # of what the gate draws, so that a failure can be repeated
        self.model = QueueModel(NOON, Gate(1, 1, 0, NOON.astimezone(CALIFORNIA).date()))
        self.runs: list[Run] = []
        self.claims: list[Claim] = []
        self.handles: list[Handle] = []
        self.settled: list[list[Result]] = []
        self.starts: list[datetime] = []
        self.statuses: dict[int, str] = {}
        self.retried: list[int] = []

    @initialize(
        rate=st.sampled_from([1000, 30, 6, 2]),
        burst=st.sampled_from([0, 1, 3]),
        hours=st.sampled_from([1, 72]),
    )
    def allow(self, rate: int, burst: int, hours: int) -> None:
        """An operator has set a rate, and the age at which jobs stop waiting for it."""
        self.queue.call("set_generation_limits", p_limits={"maxAgeHours": hours})
        self.model.max_age_hours = hours
        allow(self.queue, rate, burst)
        self.model.gate.rate, self.model.gate.burst = rate, burst
        self.model.gate.epoch = gate(self.queue)["epoch"]

    @rule(step=st.runner().flatmap(steps))
    def do(self, step: Step) -> None:
        """One thing happens."""
        self.reached[step.name] += 1
        getattr(self, step.name)(**step.arguments)

    def teardown(self) -> None:
        """At the end the rows fulfill the invariants of every queue; the model implies most of them."""
        check_invariants(self.queue.connection)

    def begin(self) -> None:
        """A worker begins a run."""
        worker = f"worker-{len(self.runs) % 2}"
        self.runs.append(self.queue.run(worker))
        self.model.runs.append(RunState(worker, self.runs[-1].id))

    def claimers(self) -> list[int]:
        """The latest runs that may claim, and a new one; by their numbers."""
        live = [number for number, run in enumerate(self.model.runs) if not run.finished]
        return [*live[-3:], len(self.model.runs)]

    def claimable(self) -> bool:
        """Whether a claim may find something."""
        due = self.model.next_change()
        return bool(self.model.ready()) or (due is not None and due <= self.model.now)

    def under_way(self) -> list[int]:
        """The runs that have claimed something and have time left."""
        left = [run.ends_by is not None and run.ends_by > self.model.now for run in self.model.runs]
        return [number for number in self.claimers() if number < len(left) and left[number]]

    def all_runs(self) -> range:
        """Every run there has been, by its number."""
        return range(len(self.runs))

    def all_jobs(self) -> list[int]:
        """The ids of all jobs."""
        return list(self.model.jobs)

    def all_handles(self) -> list[Handle]:
        """Every handle there has been."""
        return self.handles

    def live(self) -> list[Handle]:
        """The handles that are still good."""
        return [handle for handle in self.handles if self.model.jobs[handle.job].fence == handle.fence]

    def images(self) -> list[tuple[int, int]]:
        """The images of jobs that are being processed, made or not: job and index."""
        return [(job.id, index) for job in self.model.held() for index in range(job.images)]

    def stored(self, job_id: int) -> dict[str, object]:
        """A job as far as storing its images needs it."""
        job = self.model.jobs[job_id]
        return {"id": job.id, "batchId": job.batch_id, "userFolder": job.user}

    def advance(self, to: datetime) -> None:
        """Moves the time for both."""
        self.moment.set(to)
        self.model.now = to

    @invariant()
    def all_is_well(self) -> None:
        """The tables equal the model, ended jobs stay ended, and no window has too many starts."""
        statuses = check_rows(self.queue, self.model)
        for job_id, status in self.statuses.items():
            assert status not in FINAL or statuses[job_id] == status or job_id in self.retried
        self.statuses, self.retried = statuses, []
        micro = [round((start - NOON) / timedelta(microseconds=1)) for start in self.starts]
        assert micro == sorted(micro)
        assert most_in_a_window(micro, int(WINDOW * 1e6), int(GRACE * 1e6)) <= self.model.gate.rate
