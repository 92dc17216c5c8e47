"""The database's rows about the demo's batches, read directly, as an auditor would."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

JOBS = """
    select id, "batchId", status, attempts, crashes, "aspectRatio", "numImagesPerExample", "exampleImageId",
      "exampleImagePrompt", "exampleImageUrl", "errorCode", "errorMessage"
    from public.photo_generation_queue where "batchId" = any(%s) order by id"""
PHOTOS = """
    select "jobId", "imageIndex", "storagePath", "mimeType", width, height, bytes, model, "generationMs"
    from public.photo_generation_photos where "batchId" = any(%s) order by "jobId", "imageIndex" """
REFUSALS = """
    select f."jobId", f."imageIndex", f.code, f.message
    from generation.failed_images as f where f."batchId" = any(%s) order by 1, 2"""
BATCHES = """
    select id, status, "jobsTotal", "jobsDone", "jobsFailed", "imagesTotal", "imagesDone", "imagesFailed"
    from public.photo_generation_batches where id = any(%s)"""
RUNS = """select id::text, summary from generation.runs"""


@dataclass(frozen=True, slots=True)
class Books:
    """All rows there are, by table; column names as in the database."""

    jobs: list[Row]
    photos: list[Row]
    refusals: list[Row]
    batches: list[Row]
    runs: list[Row]

    def photos_of(self, job_id: int) -> list[Row]:
        """A job's photos by index."""
        return [photo for photo in self.photos if photo["jobId"] == job_id]

    def refusals_of(self, job_id: int) -> list[Row]:
        """A job's refused images by index."""
        return [refusal for refusal in self.refusals if refusal["jobId"] == job_id]

    def ended_as(self, status: str) -> int:
        """How many jobs have this status."""
        return sum(job["status"] == status for job in self.jobs)

    def batches_sum(self, counter: str) -> int:
        """A counter of the batches, added up."""
        return sum(batch[counter] for batch in self.batches)


class Auditor:
    """Reads the books over a connection of the superuser's own; a context manager closes it."""

    def __init__(self, db_url: str, batch_ids: list[str]) -> None:
        self._connection = psycopg.connect(db_url, autocommit=True, row_factory=dict_row)
        self._batch_ids = batch_ids

    def __enter__(self) -> "Auditor":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def books(self) -> Books:
        """All rows, as they are now."""
        one = [self._batch_ids]
        return Books(
            jobs=self._rows(JOBS, one),
            photos=self._rows(PHOTOS, one),
            refusals=self._rows(REFUSALS, one),
            batches=self._rows(BATCHES, one),
            runs=self._rows(RUNS),
        )

    def images_ended(self) -> int:
        """How many images are made or will never be made."""
        return sum(b["imagesDone"] + b["imagesFailed"] for b in self._rows(BATCHES, [self._batch_ids]))

    def _rows(self, query: str, parameters: list[list[str]] | None = None) -> list[Row]:
        return self._connection.execute(query.encode(), parameters).fetchall()
