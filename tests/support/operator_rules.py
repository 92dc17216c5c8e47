"""Time passes and people intervene: the rules of the clock, the operators and Gemini's 429s."""

from datetime import datetime, timedelta

import pytest
from hypothesis import strategies as st

from tests.sql.test_runbook import RELEASE
from tests.support.gate_model import Facts
from tests.support.gate_sql import gate, limited
from tests.support.machine import Machine, action, one

WAITS = [0.5, 7, 60, 255, 301, 3600, 5 * 3600]  # seconds
FACTS = st.builds(
    Facts,
    st.sampled_from(["minute", "minute", "unknown", "day"]),
    st.sampled_from([None, 3, 40]),
    st.sampled_from([None, 4, 30]),
)
LIMITS = {
    "maxRuns": st.sampled_from([1, 2, 1000]),
    "maxAgeHours": st.sampled_from([72, 1]),
    "imagesPerDay": st.sampled_from([None, 2]),
}


class OperatorRules(Machine):
    """The rules of everything that is neither an app nor a worker."""

    @action(3, seconds=st.sampled_from(WAITS))
    def time_passes(self, seconds: float) -> None:
        """Some time passes."""
        self.advance(self.model.now + timedelta(seconds=seconds))

    @action(8, when=lambda m: m.model.next_change(), milliseconds=st.sampled_from([-1, 0, 0, 1]))
    def time_comes(self, milliseconds: int) -> None:
        """The next retry comes due or the next lease runs out, but for a millisecond perhaps."""
        due = self.model.next_change()
        assert due
        self.advance(max(due + timedelta(milliseconds=milliseconds), self.model.now))

    @action(2, when=lambda m: m.model.held(), older_than=st.sampled_from([-1, 60, 300]))
    def release_stale(self, older_than: int) -> None:
        """An operator takes old locks off."""
        answer = self.queue.call("release_stale_generation_jobs", p_older_than_seconds=older_than)
        self._released(older_than, answer["released"])

    @action(1, when=lambda m: m.model.held())
    def runbook(self) -> None:
        """An operator takes old locks off with the runbook's statement."""
        # Only the time is ours: the runbook's is the server's.
        statement = RELEASE.replace("NOW()", "generation.clock()")
        self._released(300, self.queue.connection.execute(statement.encode()).rowcount)

    def _released(self, older_than: int, told: int) -> None:
        released = self.model.release(older_than)
        assert told == released
        self.reached["release" if released else "release nothing"] += 1

    @action(
        3,
        when=lambda m: "failed" in m.statuses.values(),
        batch=one(lambda m: [None, None, *range(len(m.model.batches))]),
        including_refused=st.booleans(),
        most=st.sampled_from([1, 1000, 1000]),
    )
    def retry_failed(self, batch: int | None, including_refused: bool, most: int) -> None:
        """An operator takes failed jobs up again."""
        batch_id = None if batch is None else list(self.model.batches)[batch]
        self.retried = self.model.retry_failed(batch_id, including_refused, most)
        parameters = {"p_including_refused": including_refused, "p_limit": most}
        answer = self.queue.call("retry_failed_generation_jobs", p_batch_id=batch_id, **parameters)
        assert answer == {"retried": len(self.retried)}
        self.reached["retry_failed" if self.retried else "retry_failed nothing"] += 1

    @action(1, when=lambda m: m.model.batches, batch=one(lambda m: range(len(m.model.batches))))
    def cancel(self, batch: int) -> None:
        """Somebody cancels a batch, ended or not."""
        batch_id = list(self.model.batches)[batch]
        cancelled, status = self.model.cancel(batch_id), self.model.batches[batch_id].status
        answer = self.queue.call("cancel_generation_batch", p_batch_id=batch_id)
        assert answer == {"batchId": batch_id, "status": status, "jobsCancelled": cancelled}
        self.reached["cancel" if cancelled else "cancel nothing"] += 1

    @action(1, when=lambda m: m.model.held())
    def pause(self) -> None:
        """An operator stops every start."""
        self.model.pause()
        assert self.queue.call("pause_generation", p_reason="a test")["pausedAt"]

    @action(4, when=lambda m: m.model.gate.paused or m.model.gate.blocked_until)
    def resume(self) -> None:
        """An operator resumes work."""
        self.model.resume()
        assert self.queue.call("resume_generation")["pausedAt"] is None

    @action(2, when=Machine.all_runs, limits=st.fixed_dictionaries({}, optional=LIMITS))
    def limit(self, limits: dict[str, int | None]) -> None:
        """An operator sets limits for all models together."""
        answer = self.queue.call("set_generation_limits", p_limits=limits)
        self.model.max_runs = limits.get("maxRuns") or self.model.max_runs
        self.model.max_age_hours = limits.get("maxAgeHours") or self.model.max_age_hours
        self.model.gate.images_per_day = limits.get("imagesPerDay", self.model.gate.images_per_day)
        told = (answer["maxRuns"], answer["maxAgeHours"], answer["imagesPerDay"], answer["runs"])
        expected = (self.model.max_runs, self.model.max_age_hours, self.model.gate.images_per_day)
        assert told == (*expected, len(self.model.open_runs()))

    @action(3, when=lambda m: m.starts, facts=FACTS, behind=st.sampled_from([None, 0, 1]))
    def rate_limit(self, facts: Facts, behind: int | None) -> None:
        """A worker reports a 429, of this epoch or of one that is over."""
        epoch = None if behind is None else self.model.gate.epoch - behind
        blocked = self.model.report(facts, epoch)
        answer = limited(
            self.queue, facts.period, epoch, retryAfterSeconds=facts.retry_seconds, limit=facts.limit
        )
        if blocked:
            # The wait after a 429 that names nothing is drawn at random.
            row = gate(self.queue)["blockedUntil"]
            assert blocked[0] <= datetime.fromisoformat(row) <= blocked[1]
            self.model.gate.blocked_until = datetime.fromisoformat(row)
            self.model.gate.drop_blocked(self.model.now)
            # At a lower rate a burst begins anew: starts of before and after are held against the rate apart.
            self.starts = []
        expected = self.model.gate.aged(self.model.now)
        assert (answer["epoch"], answer["rate"]) == (expected.epoch, pytest.approx(expected.allowed))
        self.reached["429 blocks" if blocked else "429 does not block"] += 1
