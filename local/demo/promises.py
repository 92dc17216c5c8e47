"""The demo's proof at its end, from the database, the simulator's ledger, the summaries and the files."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from local.demo.books import Books
from local.simulator.ledger import Call

RATIO_TOLERANCE = 0.02
"""Gemini's own sizes are off by up to 1.6 %: 9:16 comes as 768 x 1344 (Gemini API, "Image generation")."""

IMAGES_AT_A_TIME = 10
"""The worker's default: no more can be under way, and so be lost, when it is killed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything there is to judge by. `ledger` is None with the real Gemini; files by storage path."""

    books: Books
    ledger: Sequence[Call] | None
    summaries: Sequence[Mapping[str, Any]]
    deaths: int
    files: Mapping[str, bytes]


def broken(evidence: Evidence) -> list[str]:
    """One line for each broken promise; empty if all are kept."""
    return [
        *_lost_jobs(evidence.books),
        *_wrong_counters(evidence.books),
        *_wrong_summaries(evidence),
        *_wrong_files(evidence),
        *(_paid_twice(evidence, evidence.ledger) if evidence.ledger is not None else ()),
    ]


def _lost_jobs(books: Books) -> Iterator[str]:
    """Every job ends `completed`, or `failed` with a reason a person can read."""
    for job in books.jobs:
        if job["status"] not in ("completed", "failed"):
            yield f"job {job['id']} has not ended: it is {job['status']}"
        elif job["status"] == "failed" and not job["errorMessage"]:
            yield f"job {job['id']} failed without a reason"
        elif job["status"] == "completed":
            ended = len(books.photos_of(job["id"])) + len(books.refusals_of(job["id"]))
            if ended != job["numImagesPerExample"]:
                yield f"job {job['id']} is completed with {ended} of {job['numImagesPerExample']} images"


def _wrong_counters(books: Books) -> Iterator[str]:
    """The batches' counters are what their rows add up to."""
    found = {
        "jobsTotal": len(books.jobs),
        "jobsDone": books.ended_as("completed"),
        "jobsFailed": books.ended_as("failed"),
        "imagesDone": len(books.photos),
        "imagesFailed": books.batches_sum("imagesTotal") - len(books.photos),
    }
    for counter, count in found.items():
        if books.batches_sum(counter) != count:
            yield f"the batches say {counter} = {books.batches_sum(counter)}, the rows say {count}"


def _wrong_summaries(evidence: Evidence) -> Iterator[str]:
    """Each summary equals the database's row of the run, and their sums equal the database's numbers.

    A run that died has no summary, so what it settled is missing from the sums.
    """
    kept = {run["id"]: run["summary"] for run in evidence.books.runs}
    for summary in evidence.summaries:
        row = kept.get(summary["runId"])
        # The row is written just before the answer, so only the duration differs. An idle run has none.
        if row is not None and {**row, "durationSeconds": 0} != {**summary, "durationSeconds": 0}:
            yield f"run {summary['runId']} answered something else than it wrote down"
        if row is None and summary["claimed"]:
            yield f"run {summary['runId']} is not in the database"
    books = evidence.books
    sums = {
        "completed": (sum(s["completed"] for s in evidence.summaries), books.ended_as("completed")),
        "failed": (sum(s["failed"] for s in evidence.summaries), books.ended_as("failed")),
        "photos": (
            sum(s["images"]["made"] + s["images"]["adopted"] for s in evidence.summaries),
            len(books.photos),
        ),
        "refused": (sum(s["images"]["refused"] for s in evidence.summaries), len(books.refusals)),
    }
    for name, (told, stored) in sums.items():
        if told > stored or (told < stored and not evidence.deaths):
            yield f"the summaries say {told} {name}, the database says {stored}"


def _wrong_files(evidence: Evidence) -> Iterator[str]:
    """Every photo is stored as recorded: these bytes, this size, the ordered aspect ratio."""
    ratios = {job["id"]: Fraction(job["aspectRatio"].replace(":", "/")) for job in evidence.books.jobs}
    for photo in evidence.books.photos:
        path, data = photo["storagePath"], evidence.files[photo["storagePath"]]
        if hashlib.sha256(data).hexdigest()[:16] != _sha(path):
            yield f"{path} holds other bytes than its name says"
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                size = image.size
        except (UnidentifiedImageError, OSError):
            yield f"{path} is not an image"
            continue
        if size != (photo["width"], photo["height"]):
            yield f"{path} is {size[0]} x {size[1]}, recorded as {photo['width']} x {photo['height']}"
        if abs(size[0] / size[1] / float(ratios[photo["jobId"]]) - 1) > RATIO_TOLERANCE:
            yield f"{path} is {size[0]} x {size[1]}, not {ratios[photo['jobId']]}"


def _paid_twice(evidence: Evidence, ledger: Sequence[Call]) -> Iterator[str]:
    """Stored images are never requested again, and paid ones exist, except those of a dead worker."""
    shas = {_sha(photo["storagePath"]): photo["jobId"] for photo in evidence.books.photos}
    made = {sha for call in ledger for sha in call.image_shas}
    for sha in shas.keys() - made:
        yield f"a recorded photo ({sha}) is not in the simulator's ledger"
    lost = sum(call.images for call in ledger) - len(evidence.books.photos)
    if not 0 <= lost <= evidence.deaths * IMAGES_AT_A_TIME:
        yield f"{lost} images more were paid for than recorded, and the function died {evidence.deaths} times"
    ordered = {job["id"]: job["numImagesPerExample"] for job in evidence.books.jobs}
    by_prompt: dict[str, list[Call]] = defaultdict(list)
    for call in ledger:
        by_prompt[call.prompt_sha].append(call)
    for calls in by_prompt.values():
        jobs = {shas[sha] for call in calls for sha in call.image_shas if sha in shas}
        for job_id in jobs:  # one, as no two jobs of the demo have the same prompt
            yield from _asked_too_often(calls, job_id, ordered[job_id], shas.keys())


def _asked_too_often(
    calls: list[Call], job_id: int, ordered: int, recorded: Collection[str]
) -> Iterator[str]:
    """At each request of a job, stored and pending images must leave one to request."""
    for call in calls:
        taken = 0
        for other in calls:
            if other.started < call.started:
                under_way = other.ended is None or other.ended > call.started
                taken += under_way or any(sha in recorded for sha in other.image_shas)
        if taken >= ordered:
            yield f"call {call.sequence} asked for an image of job {job_id} that was there already"


def _sha(path: str) -> str:
    """The hash in a photo's name, `{index}-{first 16 of sha256}`."""
    return PurePosixPath(path).name.partition("-")[2]
