"""The command line's sweep, prune and erase, as an operator types them."""

from __future__ import annotations

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import Site
from tests.support.strays import failed, named, put
from worker.cli.main import main
from worker.run.request import RunRequest

USAGE_ERROR = ["erase", "prune --older-than-days 0", "prune --limit x", "sweep --limit 0"]
OLD = """
    update photo_generation_batches set "completedAt" = "completedAt" - interval '40 days';
    update photo_generation_queue set "completedAt" = "completedAt" - interval '40 days'"""


@pytest.mark.parametrize("arguments", USAGE_ERROR)
def test_invalid_arguments_remove_nothing(arguments: str) -> None:
    """The arguments are checked before anything is removed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2


async def test_sweep_removes_orphaned_objects_up_to_its_limit(cli: CommandLine, site: Site) -> None:
    """The answer says how many; a failure shows in the exit code."""
    for _ in range(2):
        job = await failed(site)
        await put(site, f"{job.folder}/{named(0, b'a')}")
    done = await cli.call("sweep", "--limit", "1")
    assert (done.code, done.json["objectsRemoved"], done.json["more"]) == (0, 1, True)
    done = await cli.call("sweep")
    assert (done.code, done.json["objectsRemoved"], done.json["more"]) == (0, 1, False)
    assert site.objects() == {}


async def test_prune_removes_old_rows_and_keeps_photos(cli: CommandLine, site: Site) -> None:
    """Photos stay in the table and in Storage."""
    await site.order("a")
    await site.worker().run(RunRequest())
    site.db.execute(OLD)
    kept = site.photos()
    assert (await cli.call("prune", "--older-than-days", "41")).json["jobsRemoved"] == 0
    assert (await cli.call("prune", "--limit", "10")).json["jobsRemoved"] == 1
    assert (site.photos(), {row["storagePath"] for row in kept}) == (kept, set(site.objects()))


async def test_erase_without_yes_needs_the_typed_user_id(cli: CommandLine, site: Site) -> None:
    """Any other text, or no terminal, erases nothing."""
    await site.order("a")
    await site.worker().run(RunRequest())
    for typed in (b"", b"\n", b"yes\n", site.user[:-1].encode() + b"\n"):
        said = (await cli.call("erase", site.user, stdin=typed)).complained(2)
        assert site.user in said and "nothing was erased" in said
    assert len(site.photos()) == len(site.objects()) == 1
    done = await cli.call("erase", site.user, stdin=site.user.encode() + b"\n")
    assert (done.code, done.json["jobsRemoved"], done.json["objectsRemoved"]) == (0, 1, 1)
    assert (site.photos(), site.objects()) == ([], {})


async def test_erase_with_yes_asks_nothing(cli: CommandLine, site: Site) -> None:
    """For scripts; a user who has only an orphaned object is erased too."""
    await put(site, f"{site.user}/b/1/0-a")
    done = await cli.call("erase", site.user, "--yes", stdin=b"")
    assert (done.code, done.json["jobsRemoved"], done.json["objectsRemoved"]) == (0, 0, 1)
    assert (await cli.call("erase", "", "--yes")).code == 1


@pytest.mark.parametrize("arguments", ["sweep", "prune", "erase nobody --yes"])
async def test_the_key_of_gemini_is_not_needed(cli: CommandLine, arguments: str) -> None:
    """Commands that only clean up do not need it."""
    done = await cli.call(*arguments.split(), env={"GEMINI_API_KEY": None})
    assert done.code == 0, done
