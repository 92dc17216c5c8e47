"""install.sql runs over a queue in use, with a worker at work: no job is lost, no image is made twice."""

from __future__ import annotations

import asyncio

import psycopg

from local.install_sql import install_sql
from tests.support.runs import Site

# 100 000 jobs that wait; they are what an installation has to keep, and must not read for long.
BACKLOG = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    values ('backlog', 'somebody-else', 100000, 100000);
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "retryAt")
    select 'backlog', 'somebody-else', 'training-photos/somebody-else/a.jpg', 'p', i, 1, 'rate_limited',
      now() + interval '1 day' from generate_series(1, 100000) as i"""
AS_BEFORE_MIGRATIONS = "delete from generation.schema_migrations where number > 0"
WAITING = "select count(*) as jobs, sum(id) as ids from photo_generation_queue where status = 'rate_limited'"


def install(site: Site) -> None:
    """Runs install.sql on its own connection."""
    with psycopg.connect(site.stack.db_url, autocommit=True) as connection:
        connection.execute(install_sql().encode())


async def test_an_update_while_a_worker_runs_loses_and_doubles_nothing(site: Site) -> None:
    """Installed while images are made, and again while they are stored and settled: each job is made once."""
    site.db.execute(BACKLOG)
    before = site.rows(WAITING)
    jobs = await site.order(*"abcdefghij", images=2)
    site.gemini.add_rule({"kind": "image", "hold": True}, times=4)
    running = asyncio.create_task(site.run())
    await site.open_calls(4)
    site.db.execute(AS_BEFORE_MIGRATIONS)
    await asyncio.to_thread(install, site)
    site.gemini.release()
    await asyncio.to_thread(install, site)
    summaries = [await running]
    while any(site.job(job_id)["status"] != "completed" for job_id in jobs):
        assert len(summaries) < 5, summaries
        summaries.append(await site.run())
    assert site.rows(WAITING) == before
    site.audit(*summaries)
