"""What must hold of the queue's tables between any two calls, recomputed from the rows."""

from tests.queue_sql import Connection

# One row per batch: what it says of itself, and what its jobs and images say.
BATCHES = """
    with jobs as (
      select q."batchId", q.status, q."numImagesPerExample" as images,
        (select count(*) from photo_generation_photos as p where p."jobId" = q.id) as made,
        (select count(*) from generation.failed_images as f where f."jobId" = q.id) as given_up
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
    join photo_generation_queue as q on q.id = p."jobId"
    left join generation.failed_images as f on f."jobId" = p."jobId" and f."imageIndex" = p."imageIndex"
    where f."jobId" is not null or p."imageIndex" not between 0 and q."numImagesPerExample" - 1"""

# A completed job lacks no image.
UNFINISHED_JOBS = """
    select q.id from photo_generation_queue as q
    where q.status = 'completed' and generation.missing_images(q.id, q."numImagesPerExample") <> '{}'"""


def expected_status(row: dict[str, object]) -> str:
    """The status a batch must have, given its jobs and images."""
    if row["cancelled"]:
        return "cancelled"
    if row["open"]:
        return "generating"
    if row["made"] == row["images"]:
        return "completed"
    return "partial" if row["made"] else "failed"


def check_invariants(connection: Connection) -> None:
    """Counters equal the rows, a batch has the status its jobs give it, no image is made and given up."""
    for row in connection.execute(BATCHES).fetchall():
        assert row["told"] == row["counted"], row
        assert row["status"] == expected_status(row), row
        assert row["ended"] == (row["status"] != "generating"), row
        assert not (row["cancelled"] and row["open"]), row
    assert connection.execute(IMPOSSIBLE_IMAGES).fetchall() == []
    assert connection.execute(UNFINISHED_JOBS).fetchall() == []
