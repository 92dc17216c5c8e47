"""Erasing a user from Storage removes everything in their folder, even later uploads, and nothing else."""

from __future__ import annotations

import asyncio
import time

from tests.support.runs import Site
from tests.support.strays import claimed, failed, named, photo, put
from worker.app import Worker
from worker.ops.sweep import Sweep
from worker.run.request import RunRequest
from worker.supabase.folders import Folders, Page
from worker.supabase.retry import call_with_retry


class SlowFor(Folders):
    """Storage that never answers for the paths of one user."""

    def __init__(self, prefix: str, worker: Worker) -> None:
        super().__init__(worker.project)
        self._prefix = prefix

    async def page(self, folder: str, offset: int, timeout_seconds: float) -> Page:
        """A listing, or the time-out of one."""
        if folder.startswith(self._prefix):
            await call_with_retry(asyncio.Event().wait, "Storage: list", timeout_seconds, 1)
        return await super().page(folder, offset, timeout_seconds)


async def test_an_erased_users_folder_is_emptied_even_of_later_uploads(site: Site) -> None:
    """Everything in the folder goes, even later uploads, and nothing of a user whose id begins the same;
    after two sweeps later than ten minutes, nothing of the user is left."""
    worker = site.worker()
    await site.order("a", images=2)
    assert (await worker.run(RunRequest()))["completed"] == 1
    await put(site, f"{site.user}/b/9/notes.png")
    neighbour = await put(site, f"{site.user}0/b/9/{named(0, b'a')}")
    held = await claimed(site, worker)

    erased = await worker.erase(site.user)

    assert (erased["jobsRemoved"], erased["photosRemoved"], erased["objectsRemoved"]) == (2, 2, 3)
    assert (erased["erasuresDone"], site.objects()) == (0, {})
    late = await put(site, f"{held.folder}/{named(0, b'late')}")
    assert (await worker.queue.record_photo(held, 0, photo(late), 10.0)).result == "job_final"
    assert (await worker.sweep(None))["objectsRemoved"] == 1
    asked = "update generation.erasures set \"requestedAt\" = now() - interval '10 minutes' returning 1"
    site.rows(asked)
    done = [(await worker.sweep(None))["erasuresDone"] for _ in range(3)]
    assert done == [0, 1, 0]
    assert site.rows("select from generation.erasures") == []
    await site.service.storage.from_("generated-photos").remove([neighbour])
    assert [
        row["name"] for row in site.rows("select name from storage.objects where name = %s", neighbour)
    ] == []


async def test_one_large_user_does_not_hold_up_the_sweep(site: Site) -> None:
    """The sweep of erased users takes half of the time at most: the strays of others go in the same sweep."""
    await site.service.rpc("erase_generation_user", {"p_user_id": "large"}).execute()
    await put(site, "large/b/1/0-a")
    job = await failed(site)
    await put(site, f"{job.folder}/{named(0, b'a')}")
    worker = site.worker()
    sweep = Sweep(worker.queue, SlowFor("large", worker), time.monotonic, 8.0, worker.stopping)
    done = await sweep.run(10)
    assert (done["objectsRemoved"], done["jobsSwept"], done["more"]) == (1, 1, True)
