"""What was done before there were functions still works: the runbook's statements, the app's inserts."""

from typing import Any

import psycopg
import pytest
from supabase import AsyncClient

from local.stack.stack import Stack
from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Connection, Queue, refused

PENDING = "SELECT COUNT(*) FROM photo_generation_queue WHERE status = 'pending';"
RATE_LIMITED = "SELECT COUNT(*), MIN(\"retryAt\") FROM photo_generation_queue WHERE status = 'rate_limited';"
PROCESSING = "SELECT * FROM photo_generation_queue WHERE status = 'processing';"
NEXT = (
    "SELECT * FROM photo_generation_queue WHERE status IN ('pending', 'rate_limited') "
    'ORDER BY "createdAt" LIMIT 10;'
)
STALE = (
    "SELECT * FROM photo_generation_queue WHERE status = 'processing' "
    "AND \"lockedAt\" < NOW() - INTERVAL '5 minutes';"
)
RELEASE = """UPDATE photo_generation_queue SET "lockedBy" = NULL, "lockedAt" = NULL, status = 'pending'
 WHERE status = 'processing' AND "lockedAt" < NOW() - INTERVAL '5 minutes';"""

OLD_ROW: dict[str, Any] = {
    "userId": "42",
    "exampleImageUrl": "https://photos.example.com/a.jpg",
    "trainingImageUrls": ["https://photos.example.com/me.jpg"],
    "basePrompt": "A portrait",
}
NULLS = [
    "batchId",
    "exampleImageId",
    "exampleImagePrompt",
    "aspectRatio",
    "numImagesPerExample",
    "glasses",
    "hairColor",
    "hairStyle",
    "backgrounds",
    "styles",
    "status",
    "priority",
    "attempts",
    "maxAttempts",
    "crashes",
    "suspect",
    "retryAt",
    "lockedBy",
    "lockedAt",
    "createdAt",
]


def age_locks(db: Connection, seconds: int) -> None:
    """Lets time pass for the jobs being processed."""
    db.execute(
        """update photo_generation_queue set "lockedAt" = "lockedAt" - %(s)s * interval '1 second',
           "leaseExpiresAt" = "leaseExpiresAt" - %(s)s * interval '1 second'""",
        {"s": seconds},
    )


def test_the_runbooks_queries_give_right_answers(queue: Queue, stack: Stack) -> None:
    """Run by psql."""
    queue.enqueue(examples=4)
    first, second, _ = queue.run().claim(3)
    queue.settle(first, "retry", retryInSeconds=60)
    queue.settle(second, "rate_limited", retryInSeconds=60)
    due = queue.job(second["id"])["retryAt"]
    assert stack.psql(PENDING) == "2"
    assert stack.psql(RATE_LIMITED).startswith(f"1|{due:%Y-%m-%d %H:%M:%S}")
    assert len(stack.psql(PROCESSING).splitlines()) == 1
    assert len(stack.psql(NEXT).splitlines()) == 3
    assert stack.psql(STALE) == ""
    age_locks(queue.connection, 301)
    assert len(stack.psql(STALE).splitlines()) == 1


@pytest.mark.parametrize("max_attempts", [5, 1])
def test_a_job_released_by_the_runbooks_update_is_claimed_next(
    queue: Queue, stack: Stack, max_attempts: int
) -> None:
    """The job is claimed even if its attempts are used up; the counters stay correct."""
    job = queue.claimed(images=2, maxAttempts=max_attempts)
    queue.record(job, 0)
    stack.psql(RELEASE)
    assert queue.job(job["id"])["status"] == "processing"  # not yet five minutes
    age_locks(queue.connection, 301)
    stack.psql(RELEASE)
    check_invariants(queue.connection)
    assert queue.job(job["id"])["status"] == "pending"
    (again,) = queue.run().claim()
    assert (again["id"], again["missing"], again["attempts"]) == (job["id"], [1], 2)
    assert queue.settle(job, "completed")["result"] == "lease_lost"
    queue.complete(again)
    check_invariants(queue.connection)
    assert queue.batch(job["batchId"])["status"] == "completed"


def test_runbook_release_of_everything(queue: Queue, stack: Stack) -> None:
    """The update works on suspects and repeated releases, and touches only stale rows."""
    queue.enqueue(examples=3)
    run = queue.run()
    run.claim()
    queue.connection.execute("update photo_generation_queue set crashes = 2, suspect = true")
    age_locks(queue.connection, 301)
    for _ in range(2):
        stack.psql(RELEASE)
    assert stack.psql(PENDING) == "3"
    assert len(queue.run().claim()) == 1  # a suspect, alone
    assert run.finish() == 0
    check_invariants(queue.connection)


def columns(row: dict[str, Any]) -> tuple[str, list[Any]]:
    """The column list and the values of an insert."""
    names = ", ".join(f'"{name}"' for name in row)
    return names, [psycopg.types.json.Jsonb(v) if isinstance(v, list) else v for v in row.values()]


def insert(queue: Queue, **fields: Any) -> Any:
    """Inserts a job as the old app did; the row."""
    names, values = columns(OLD_ROW | fields)
    marks = ", ".join(["%s"] * len(values))
    return queue.one(f"insert into photo_generation_queue ({names}) values ({marks}) returning *", values)


def test_a_row_with_the_required_columns_gets_the_rest(queue: Queue, clock: Clock) -> None:
    """Its batch, its turn and the defaults."""
    row = insert(queue)
    assert (row["status"], row["numImagesPerExample"], row["aspectRatio"]) == ("pending", 4, "1:1")
    assert (row["startTag"], row["priority"], row["maxAttempts"]) == (4, 0, 5)
    batch = queue.batch(row["batchId"])
    assert (batch["userId"], batch["jobsTotal"], batch["imagesTotal"]) == ("42", 1, 4)
    (job,) = queue.run().claim()
    assert (job["id"], job["missing"]) == (row["id"], [0, 1, 2, 3])
    queue.complete(job)
    assert queue.batch(row["batchId"])["status"] == "completed"
    check_invariants(queue.connection)


def test_old_insert_with_nulls(queue: Queue) -> None:
    """A null counts as omitted: the defaults apply."""
    row = insert(queue, **dict.fromkeys(NULLS, None))
    assert (row["status"], row["numImagesPerExample"], row["attempts"]) == ("pending", 4, 0)
    assert (row["backgrounds"], row["styles"], row["crashes"]) == ([], [], 0)
    check_invariants(queue.connection)


def test_old_insert_into_one_batch(queue: Queue) -> None:
    """Rows of one batch id are one batch, which opens again for what comes later."""
    for _ in range(2):
        insert(queue, batchId="old-7", numImagesPerExample=2)
    for job in queue.run().claim():
        queue.complete(job)
    assert queue.batch("old-7")["status"] == "completed"
    insert(queue, batchId="old-7", numImagesPerExample=1)
    batch = queue.batch("old-7")
    assert (batch["status"], batch["jobsTotal"], batch["imagesTotal"]) == ("generating", 3, 5)
    check_invariants(queue.connection)


def test_old_insert_is_fair(queue: Queue) -> None:
    """Inserted rows take turns with everybody else's."""
    for _ in range(20):
        insert(queue)
    queue.enqueue("new", examples=1, images=4)
    assert "new" in [job["userFolder"] for job in queue.run().claim(3)]


@pytest.mark.parametrize("status", ["processing", "rate_limited", "completed", "failed", "cancelled"])
def test_old_insert_of_another_status(queue: Queue, status: str) -> None:
    """A job begins as pending; nothing else can be inserted."""
    with refused("400", "not_pending", status):
        insert(queue, status=status)


@pytest.mark.parametrize(
    "wrong", [{"numImagesPerExample": 0}, {"status": "new"}, {"userId": None}, {"basePrompt": None}]
)
def test_old_insert_of_nonsense(queue: Queue, wrong: dict[str, Any]) -> None:
    """A row that cannot be worked off is refused, and leaves no batch behind."""
    with pytest.raises(psycopg.Error):
        insert(queue, **wrong)
    assert queue.one("select count(*) as n from photo_generation_batches")["n"] == 0


async def test_old_insert_through_the_api(queue: Queue, service: AsyncClient) -> None:
    """The service role's bulk insert through the API, where missing columns become null, is worked off."""
    rows = [
        OLD_ROW,
        OLD_ROW | {"batchId": "b", "glasses": "round"},
        OLD_ROW | {"batchId": "b", "styles": ["film"]},
    ]
    inserted = await service.table("photo_generation_queue").insert(rows).execute()
    assert len(inserted.data) == 3
    assert queue.batch("b")["jobsTotal"] == 2
    jobs = queue.run().claim()
    assert len(jobs) == 3
    for job in jobs:
        queue.complete(job)
    check_invariants(queue.connection)


def test_old_insert_through_psql(queue: Queue, stack: Stack) -> None:
    """A plain insert of several rows from psql works as before."""
    stack.psql("""INSERT INTO photo_generation_queue ("userId", "exampleImageUrl", "basePrompt") VALUES
        ('42', 'https://photos.example.com/a.jpg', 'x'),
        ('43', 'https://photos.example.com/a.jpg', 'x');""")
    assert len(queue.run().claim()) == 2
    check_invariants(queue.connection)
