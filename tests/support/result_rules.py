"""The rules of workers: images are recorded and jobs settled, by their holders and by zombies."""

from hypothesis import strategies as st

from tests.support.job_model import FINAL, Ending, Result
from tests.support.machine import Handle, Machine, action, one
from tests.support.queue_sql import refused

OUTCOMES = ("completed", "failed", "retry", "rate_limited", "released")
WAITS = st.sampled_from([0, 7, 90, 4000])
ENDINGS = st.builds(Ending, st.sampled_from(OUTCOMES), st.booleans(), WAITS, st.booleans(), st.just("told"))
LIVE = st.lists(st.tuples(one(Machine.live), ENDINGS), min_size=1, max_size=3, unique_by=lambda pair: pair[0])


class ResultRules(Machine):
    """The rules of workers, dead ones among them."""

    @action(8, when=Machine.images, image=one(Machine.images))
    def record(self, image: tuple[int, int]) -> None:
        """An image has been stored, perhaps one that had been before, or had been given up."""
        self._record(*image, "a")

    @action(
        3,
        when=Machine.all_jobs,
        job=one(Machine.all_jobs),
        index=st.integers(0, 4),
        name=st.sampled_from(["a", "b", "elsewhere"]),
    )
    def record_anything(self, job: int, index: int, name: str) -> None:
        """A zombie records any image at any time."""
        self._record(job, index, name)

    def _record(self, job_id: int, index: int, name: str) -> None:
        job, stored = self.model.jobs[job_id], self.stored(job_id)
        if name == "elsewhere":  # the same number, but a job of another batch
            answer = self.queue.record(stored | {"batchId": name}, index, name)
            assert answer == {"result": "job_final", "storagePath": None}
            self.reached["record elsewhere"] += 1
            return
        if index >= job.images and job.status not in FINAL:
            with refused("400", "out_of_range"):
                self.queue.record(stored, index, name)
            self.reached["record out_of_range"] += 1
            return
        path = f"{stored['userFolder']}/{stored['batchId']}/{job_id}/{index}-{name}"
        revived = index in job.given_up and job.status not in FINAL
        result, counts = job.record(index, path)
        if result == "recorded":
            self.model.hear(job.fence)
        assert self.queue.record(stored, index, name) == {"result": result, "storagePath": counts}
        self.reached["record given_up" if revived else f"record {result}"] += 1

    @action(3, when=Machine.images, image=one(Machine.images))
    def refuse(self, image: tuple[int, int]) -> None:
        """An image will never be made, at least a worker says so."""
        self._refuse(*image)

    @action(1, when=Machine.all_jobs, job=one(Machine.all_jobs), index=st.integers(0, 4))
    def refuse_anything(self, job: int, index: int) -> None:
        """A zombie gives up any image at any time."""
        self._refuse(job, index)

    def _refuse(self, job_id: int, index: int) -> None:
        job, code = self.model.jobs[job_id], f"refused-{index}"
        if job.status not in FINAL and index >= job.images:
            with refused("400", "out_of_range"):
                self.queue.refuse(self.stored(job_id), index, code)
            return
        result = job.refuse(index, code)
        if result == "recorded":
            self.model.hear(job.fence)
        assert self.queue.refuse(self.stored(job_id), index, code) == result
        self.reached[f"refuse {result}"] += 1

    @action(10, when=Machine.live, handle=one(Machine.live), made=st.booleans())
    def work_off(self, handle: Handle, made: bool) -> None:
        """A worker makes all that is missing of a job, or is refused it, and settles the job."""
        for index in self.model.jobs[handle.job].missing:
            if made:
                self._record(handle.job, index, "a")
            else:
                self._refuse(handle.job, index)
        self._settle([Result(*handle, Ending("completed"))])

    @action(20, when=Machine.live, endings=LIVE)
    def settle(self, endings: list[tuple[Handle, Ending]]) -> None:
        """Workers settle jobs that they hold."""
        self._settle([Result(*handle, ending) for handle, ending in endings])

    @action(
        5,
        when=Machine.all_handles,
        handles=st.lists(one(Machine.all_handles), min_size=1, max_size=3, unique=True),
        ending=ENDINGS,
    )
    def settle_anything(self, handles: list[Handle], ending: Ending) -> None:
        """Workers settle jobs that they hold or held, zombies included."""
        self._settle([Result(*handle, ending) for handle in handles])

    @action(2, when=lambda m: m.settled, number=one(lambda m: range(len(m.settled))))
    def settle_again(self, number: int) -> None:
        """A settle is repeated, because its answer was lost."""
        self._settle(self.settled[number])

    def _settle(self, results: list[Result]) -> None:
        self.settled.append(results)
        expected = self.model.settle(results)
        answer = self.queue.settle_all([result.request() for result in results])
        for told, result, (outcome, status, verdict) in zip(answer, results, expected, strict=True):
            assert told | {"code": None} == {
                "jobId": result.job,
                "result": outcome,
                "status": status,
                "code": None,
            }
            self.reached[f"settle {verdict}"] += 1
