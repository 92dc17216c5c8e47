"""The demo's proof would notice: each promise, when broken, gives a line that says so."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from local.demo.books import Books, Row
from local.demo.promises import Evidence, broken
from local.simulator.ledger import Call


def png(colour: str, size: tuple[int, int] = (90, 160)) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def sha(data: bytes) -> str:
    """As in a photo's name and in the ledger."""
    return hashlib.sha256(data).hexdigest()[:16]


PICTURES = [png("red"), png("blue")]
PATHS = [f"user/batch/1/{index}-{sha(data)}" for index, data in enumerate(PICTURES)]


def call(sequence: int, started: float, ended: float, *images: bytes, outcome: str = "image") -> Call:
    """A call of the one job."""
    facts: dict[str, Any] = {"model": "m", "key": "k", "prompt_sha": "p", "prompt_start": "", "photos": 1}
    facts |= {"bytes_in": 1, "aspect_ratio": "9:16", "outcome": outcome, "admitted": True}
    return Call(
        sequence=sequence,
        started=started,
        ended=ended,
        images=len(images),
        image_shas=tuple(map(sha, images)),
        **facts,
    )


def photo(index: int) -> Row:
    """The row of one of the pictures."""
    return {"jobId": 1, "imageIndex": index, "storagePath": PATHS[index], "width": 90, "height": 160}


JOB: Row = {
    "id": 1, "status": "completed", "numImagesPerExample": 2, "aspectRatio": "9:16", "errorMessage": None,
}  # fmt: skip
BATCH: Row = {
    "jobsTotal": 1, "jobsDone": 1, "jobsFailed": 0, "imagesTotal": 2, "imagesDone": 2, "imagesFailed": 0,
}  # fmt: skip
SUMMARY: Mapping[str, Any] = {
    "runId": "r", "claimed": 1, "completed": 1, "failed": 0, "durationSeconds": 2.5,
    "images": {"made": 2, "adopted": 0, "refused": 0},
}  # fmt: skip
GOOD = Evidence(
    books=Books([JOB], [photo(0), photo(1)], [], [BATCH], [{"id": "r", "summary": dict(SUMMARY)}]),
    ledger=[call(1, 0.0, 2.0, PICTURES[0]), call(2, 0.5, 1.5, PICTURES[1])],
    summaries=[SUMMARY],
    deaths=0,
    files=dict(zip(PATHS, PICTURES, strict=True)),
)


def books(**tables: list[Row]) -> Evidence:
    """The good evidence with other rows."""
    return replace(GOOD, books=replace(GOOD.books, **tables))


def test_a_demo_that_kept_its_promises_has_no_findings() -> None:
    """A demo in which a dead worker's image was made again has no findings either."""
    assert broken(GOOD) == []
    lost = call(3, 0.1, 0.4, png("green"), outcome="cut")
    again = replace(GOOD, ledger=[lost, *(GOOD.ledger or ())], deaths=1)
    assert broken(again) == []


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (books(jobs=[JOB | {"status": "processing"}]), "job 1 has not ended: it is processing"),
        (books(jobs=[JOB | {"status": "failed"}]), "job 1 failed without a reason"),
        (books(photos=[photo(0)]), "job 1 is completed with 1 of 2 images"),
        (books(batches=[BATCH | {"imagesDone": 3}]), "the batches say imagesDone = 3, the rows say 2"),
        (books(runs=[]), "run r is not in the database"),
        (books(runs=[{"id": "r", "summary": {}}]), "run r answered something else than it wrote down"),
        (replace(GOOD, summaries=[]), "the summaries say 0 photos, the database says 2"),
        (replace(GOOD, summaries=[SUMMARY] * 2, deaths=1), "the summaries say 4 photos, the database says 2"),
        (replace(GOOD, files={**GOOD.files, PATHS[0]: png("green")}), f"{PATHS[0]} holds other bytes"),
        (replace(GOOD, files={**GOOD.files, PATHS[0]: b"no image"}), f"{PATHS[0]} is not an image"),
        (books(photos=[photo(0) | {"width": 91}, photo(1)]), f"{PATHS[0]} is 90 x 160, recorded as 91 x 160"),
        (books(jobs=[JOB | {"aspectRatio": "16:9"}]), f"{PATHS[0]} is 90 x 160, not 16/9"),
        (replace(GOOD, ledger=[call(1, 0.0, 2.0, PICTURES[0])]), "is not in the simulator's ledger"),
    ],
)  # fmt: skip
def test_each_broken_promise_is_named(evidence: Evidence, said: str) -> None:
    """Each kind of damage has its own sentence."""
    assert any(said in line for line in broken(evidence)), broken(evidence)


@pytest.mark.parametrize("deaths", [0, 1])
@pytest.mark.parametrize(
    "extra", [lambda: call(3, 3.0, 4.0, png("green")), lambda: call(3, 3.0, 4.0, outcome="429")]
)
def test_a_second_request_for_a_stored_image_is_noticed(extra: Callable[[], Call], deaths: int) -> None:
    """The request is reported even if it was not billed, or came after a crash."""
    evidence = replace(GOOD, ledger=[*(GOOD.ledger or ()), extra()], deaths=deaths)
    assert "call 3 asked for an image of job 1 that was there already" in broken(evidence)


def test_lost_without_a_death() -> None:
    """An image that was paid for and is nowhere is a broken promise, unless the function died over it."""
    lost = call(3, 0.1, 0.4, png("green"), outcome="cut")
    assert broken(replace(GOOD, ledger=[lost, *(GOOD.ledger or ())])) == [
        "1 images more were paid for than recorded, and the function died 0 times"
    ]
