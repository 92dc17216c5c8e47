"""Invariants of the queue's tables between any two calls, recomputed from the rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Rows = Callable[[str], Sequence[Mapping[str, Any]]]

# One row per batch: its own counters, and those of its jobs and images.
BATCHES = """
    with jobs as (
      select q."batchId", q.status, q."numImagesPerExample" as images,
        (select count(*) from photo_generation_photos as p
          where p."batchId" = q."batchId" and p."jobId" = q.id) as made,
        (select count(*) from generation.failed_images as f
          where f."batchId" = q."batchId" and f."jobId" = q.id) as given_up
      from photo_generation_queue as q
    )
    select b.id, b.status, b."completedAt" is not null as ended,
      json_build_array(b."jobsTotal", b."jobsDone", b."jobsFailed",
        b."imagesTotal", b."imagesDone", b."imagesFailed") as told,
      json_build_array(count(j), count(j) filter (where j.status = 'completed'),
        count(j) filter (where j.status = 'failed'), sum(j.images), sum(j.made),
        sum(case when j.status = 'failed' then j.images - j.made else j.given_up end)) as counted,
      bool_or(j.status in ('pending', 'processing', 'rate_limited')) as open,
      bool_or(j.status = 'cancelled') as cancelled,
      sum(j.made) as made, sum(j.images) as images
    from photo_generation_batches as b left join jobs as j on j."batchId" = b.id
    group by b.id"""

# An image is made or given up, not both, and has an index that its job has.
IMPOSSIBLE_IMAGES = """
    select p."jobId", p."imageIndex" from photo_generation_photos as p
    join photo_generation_queue as q on q.id = p."jobId" and q."batchId" = p."batchId"
    left join generation.failed_images as f
      on (f."batchId", f."jobId", f."imageIndex") = (p."batchId", p."jobId", p."imageIndex")
    where f."jobId" is not null or p."imageIndex" not between 0 and q."numImagesPerExample" - 1"""

# A completed job has all its images.
UNFINISHED_JOBS = """
    select q.id from photo_generation_queue as q
    where q.status = 'completed'
      and generation.missing_images(q."batchId", q.id, q."numImagesPerExample") <> '{}'"""


def expected_status(row: Mapping[str, Any]) -> str:
    """The status a batch must have, given its jobs and images."""
    if row["cancelled"]:
        return "cancelled"
    if row["open"]:
        return "generating"
    if row["made"] == row["images"]:
        return "completed"
    return "partial" if row["made"] else "failed"


def violations(rows: Rows) -> Iterator[str]:
    """One line for each violated invariant; `rows` runs the queries.

    Counters equal the rows, a batch's status follows from its jobs, and no image is both made and given up.
    """
    for row in rows(BATCHES):
        if row["told"] != row["counted"]:
            yield f"batch {row['id']} counts {row['told']}, its rows {row['counted']}"
        if row["status"] != expected_status(row):
            yield f"batch {row['id']} is {row['status']}, not {expected_status(row)}"
        if row["ended"] != (row["status"] != "generating"):
            yield f"batch {row['id']} is {row['status']}, yet its end is {row['ended']}"
        if row["cancelled"] and row["open"]:
            yield f"batch {row['id']} is cancelled, yet has open jobs"
    for row in rows(IMPOSSIBLE_IMAGES):
        yield f"image {row['imageIndex']} of job {row['jobId']} is impossible"
    for row in rows(UNFINISHED_JOBS):
        yield f"job {row['id']} is completed and lacks images"
