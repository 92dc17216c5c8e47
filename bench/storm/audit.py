"""The audit after the storm: compares database, Storage and ledger, and explains every kill."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.storm.customers import POISON
from bench.storm.fleet import key_of
from bench.storm.invariants import violations
from bench.storm.objects import Objects
from bench.storm.payments import is_open, payments
from bench.storm.storm import Storm

FINAL = ("completed", "failed", "cancelled")
NAME = re.compile(r"\[[^\]]+\]")


@dataclass(slots=True)
class Audit:
    """The figures, and one line for each `broken` promise."""

    jobs: Counter[str] = field(default_factory=Counter)
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    photos: int = 0
    paid: int = 0
    paid_and_lost: int = 0
    in_flight_at_kill: int = 0
    discarded: int = 0
    cut_by_runs: int = 0
    not_stored: int = 0
    crashed_alone: int = 0
    cut_off: int = 0
    poisoned: int = 0
    orphans_before_sweep: int = 0
    orphans: int = 0
    told: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Auditor:
    """Reads everything once, then judges."""

    def __init__(self, storm: Storm) -> None:
        self._storm, self._site = storm, storm.site
        self._jobs = {int(row["id"]): row for row in self._site.rows("select * from photo_generation_queue")}
        self._photos = self._site.rows("select * from photo_generation_photos")
        self._calls = self._site.simulator.ledger()
        self._kills = {kill.worker: kill for kill in storm.fleet.kills}
        self._recorded = {row["storagePath"].rsplit("-", 1)[1] for row in self._photos}
        self._cancelled = self._calls_of(storm.customers.cancelled)
        self.found = Audit()

    def _calls_of(self, batches: set[str]) -> set[int]:
        """The calls for jobs of these orders, found by the name in their prompts."""
        names = {row["exampleImagePrompt"] for row in self._jobs.values() if row["batchId"] in batches}
        found = {call.sequence: NAME.search(call.prompt_start) for call in self._calls}
        return {sequence for sequence, name in found.items() if name and name[0] in names}

    def judge(self) -> Audit:
        """Check everything, in the order of the promises."""
        found = self.found
        found.photos, found.paid = len(self._photos), sum(call.images for call in self._calls)
        found.jobs = Counter(row["status"] for row in self._jobs.values())
        self._ends()
        self._crashes()
        self._images()
        for worker in self._storm.fleet.workers:
            self._payments(worker)
        self._objects()
        found.broken += violations(self._site.rows)
        return found

    def _ends(self) -> None:
        """Every ordered job has ended as it must."""
        for job_id, kind in self._storm.customers.ordered.items():
            row = self._jobs.get(job_id)
            if row is None or row["status"] not in FINAL:
                self.found.lost += 1
                self.found.broken.append(f"job {job_id} is lost: {row and row['status']}")
            elif row["batchId"] not in self._storm.customers.cancelled and not _ended_well(row, kind):
                end = (row["status"], row["errorCode"], row["errorMessage"])
                self.found.broken.append(f"job {job_id} ({kind}) ended as {end}")
            elif kind == POISON:
                self.found.poisoned += 1

    def _crashes(self) -> None:
        """A job counts only the crashes in which its run had no other job, and none without a kill."""
        left = self._left_behind()
        touched = {job_id for _, jobs in left for job_id in jobs}
        for job_id, row in self._jobs.items():
            own = sum(self._was_alone(job_id, run, jobs) for run, jobs in left)
            if row["crashes"] > own:
                self.found.broken.append(f"job {job_id} counts {row['crashes']} crashes, {own} were its own")
            if row["errorCode"] == "crashed" and self._storm.customers.ordered[job_id] != POISON:
                self.found.crashed_alone += 1
                self.found.told.append(f"job {job_id} failed for: {self._killers(job_id)}")
        for job_id in sorted(self._storm.suspects - touched):
            self.found.broken.append(f"job {job_id} was a suspect, though nobody who had it was killed")

    def _left_behind(self) -> list[tuple[str, set[int]]]:
        """Each run that could not finish, with its jobs: of killed workers, or cut off by an outage.

        Which jobs the latter had at the same time is unknown: each counts as alone.
        """
        held = {run: jobs for runs in self._storm.held.values() for run, jobs in runs.items()}
        unfinished = {
            str(event["run"])
            for worker in self._storm.fleet.workers
            for event in self._storm.fleet.log(worker)
            if event["message"] == "finish_failed"
        }
        self.found.cut_off = len(unfinished - set(held))
        alone = [
            (run, {job_id}) for run in unfinished - set(held) for job_id in self._storm.seen.get(run, ())
        ]
        return [*held.items(), *alone]

    def _was_alone(self, job_id: int, run: str, jobs: set[int]) -> bool:
        """Whether a run left only this job, apart from jobs that were cancelled or settled before."""
        settled = (run, job_id) in self._storm.left_alone
        return job_id in jobs and all(
            settled or self._jobs[other]["status"] == "cancelled" for other in jobs if other != job_id
        )

    def _killers(self, job_id: int) -> str:
        """The kills of workers that had only this job, in order."""
        kills = [
            f"{self._kills[worker].phase or 'no request'} ({self._kills[worker].moment})"
            for worker, runs in self._storm.held.items()
            if any(self._was_alone(job_id, run, jobs) for run, jobs in runs.items())
        ]
        return ", ".join(kills)

    def _images(self) -> None:
        """No image index of a job has two rows."""
        rows = Counter((row["jobId"], row["imageIndex"]) for row in self._photos)
        for (job_id, index), count in rows.items():
            if count > 1:
                self.found.doubled += 1
                self.found.broken.append(f"image {index} of job {job_id} is recorded {count} times")

    def _payments(self, worker: str) -> None:
        """Every image that a worker had made is recorded or explained; only images in flight are lost."""
        kill = self._kills.get(worker)
        calls = [call for call in self._calls if call.key == key_of(worker)]
        events = self._storm.fleet.log(worker)
        paid = payments(calls, kill.at if kill else None, events, self._recorded, self._cancelled)
        found = self.found
        found.in_flight_at_kill += paid.in_flight
        found.paid_and_lost += paid.lost
        found.discarded += paid.discarded
        found.not_stored += paid.not_stored
        found.cut_by_runs += paid.cut
        if paid.lost > paid.in_flight:
            found.broken.append(f"{worker} lost {paid.lost} paid images with {paid.in_flight} in flight")
        if kill:
            generating = any(call.admitted and is_open(call, kill.at) for call in calls)
            doing = "between requests" if self._storm.held.get(worker) else "idle"
            doing = "generating" if generating else doing
            found.kills[kill.phase or doing, kill.moment] += 1

    def _objects(self) -> None:
        """Every row has its object; the sweep removes all other objects."""
        folders = {f"{row['userId']}/{row['batchId']}/{row['id']}" for row in self._jobs.values()}
        paths = {row["storagePath"] for row in self._photos}
        objects = Objects(self._site, folders)
        before = objects.paths()
        self.found.broken += [f"{path} has a row and no object" for path in sorted(paths - before)]
        self.found.orphans_before_sweep = len(before - paths)
        self.found.broken += [
            f"{path} was stored and not adopted: {self._story(path)}"
            for path in self._not_adopted(before - paths)
        ]
        objects.sweep()
        after = objects.paths()
        self.found.orphans = len(after - paths)
        self.found.broken += [f"{path} has an object and no row" for path in sorted(after - paths)]
        self.found.broken += [
            f"{path} was swept though it has a row" for path in sorted(paths & before - after)
        ]

    def _not_adopted(self, orphans: set[str]) -> list[str]:
        """Objects of completed jobs that were stored in time, so the next claim should have found them."""
        completed = {str(job_id) for job_id, row in self._jobs.items() if row["status"] == "completed"}
        late = {path.split("generated-photos/")[-1] for path in self._storm.fleet.wire.delivered_late}
        return sorted(
            path for path in orphans - late if path.split("/")[2] in completed and not self._given_up(path)
        )

    def _given_up(self, path: str) -> bool:
        """Whether its living worker gave up the upload, which may have ended after the next listing."""
        job_id = int(path.split("/")[2])
        return any(
            event.get("job") == job_id and (event["message"] == "job_abandoned" or event.get("paid"))
            for worker in self._makers(path)
            for event in self._storm.fleet.log(worker)
        )

    def _makers(self, path: str) -> list[str]:
        """The workers that had an image made."""
        sha = path.rsplit("-", 1)[1]
        keys = {call.key for call in self._calls if sha in call.image_shas}
        return [worker for worker in self._storm.fleet.workers if key_of(worker) in keys]

    def _story(self, path: str) -> str:
        """How the worker of an image ended, and what it logged about the job."""
        (worker,) = self._makers(path)
        events = [
            event["message"]
            for event in self._storm.fleet.log(worker)
            if event.get("job") == int(path.split("/")[2])
        ]
        return f"{self._kills.get(worker, worker)} after {', '.join(events)}"


def _ended_well(row: Mapping[str, Any], kind: str) -> bool:
    """Whether a job of an order that was not cancelled ended as its kind must.

    A healthy job may fail after crashes of its own, which are checked against the kills.
    """
    if kind == POISON:
        return (row["status"], row["errorCode"]) == ("failed", "crashed")
    if row["errorCode"] == "crashed":
        return bool(row["crashes"] >= 3)
    if kind == "ok":
        return (row["status"], row["errorCode"]) == ("completed", None)
    return row["status"] == "failed" and row["errorCode"] not in ("attempts_exhausted", None)
