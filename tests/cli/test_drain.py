"""`drain`: continues while something can be done soon, then ends and says why."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import CommandLine
from tests.support.runs import KEY, Site
from tests.unit.test_loop_pause import at, ended
from worker.cli.drain import FAILURES, Drain
from worker.cli.loop import LEAST_PAUSE_SECONDS

NOBODY = {"SUPABASE_URL": "http://127.0.0.1:9"}
REASONS = [
    "queue_empty",
    "rate_limited",
    "busy",
    "too_many_runs",
    "daily_cap",
    "paused",
    "budget",
    "max_jobs",
]


@given(reason=st.sampled_from(REASONS), due=st.none() | st.floats(0, 1e6), patience=st.floats(0, 3600))
def test_waits_for_what_is_due_soon(reason: str, due: float | None, patience: float) -> None:
    """After a run that did nothing it waits exactly for what is due within its patience, else it ends."""
    pause = Drain(patience, at(1)).pause(ended(reason, due), 0)
    if due is None or due > patience:
        assert pause is None
    else:
        assert pause == max(due, LEAST_PAUSE_SECONDS)


@pytest.mark.parametrize("reason", ["budget", "max_jobs", "queue_empty"])
def test_goes_on_at_once_while_there_is_work(reason: str) -> None:
    """After a run that did something, the next claim decides, whatever is due later."""
    assert Drain(0, at(1)).pause(ended(reason, 1e6, completed=1), 0) == 0


def test_repeated_failures_end_a_drain() -> None:
    """An unreachable Supabase is retried a few times, a misconfiguration not at all; both fail."""
    lost = Drain(60, at(1))
    pauses = [lost.pause({"stopReason": "queue_lost"}, number) for number in range(1, FAILURES + 1)]
    assert pauses == [1, 2, 4, 8, None] and lost.failed
    wrong = Drain(60, at(1))
    assert wrong.pause({"stopReason": "misconfigured", "problem": "the key"}, 1) is None
    assert wrong.failed and wrong.as_json()["problem"] == "the key"


async def test_drains_run_after_run(cli: CommandLine, site: Site) -> None:
    """Run follows run until nothing is left; stdout has only the total."""
    await site.order("one", "two", "three", images=2)
    done = await cli.call("drain", env={"MAX_JOBS": "1"})
    assert done.code == 0
    assert done.json == {
        "runs": 4, "stopReason": "queue_empty", "claimed": 3, "completed": 3, "failed": 0,
        "failuresByCode": {}, "retried": 0, "rateLimited": 0, "leaseLost": 0, "imagesMade": 6,
        "nextAttemptInSeconds": None,
    }  # fmt: skip
    site.audit()


async def test_waits_for_a_retry(cli: CommandLine, site: Site) -> None:
    """A retry that is due within the patience is waited for and made."""
    (job,) = await site.order("one")
    site.gemini.add_rule({"kind": "error", "code": 503}, times=2)
    done = await cli.call("drain", env={"RETRY_BASE_SECONDS": "1"})
    assert (done.code, done.json["completed"], done.json["retried"]) == (0, 1, 1)
    assert site.job(job)["status"] == "completed"


async def test_does_not_wait_for_tomorrow(cli: CommandLine, site: Site) -> None:
    """Jobs due after the patience are left to the scheduler: drain succeeds and says when they are due."""
    await site.order("one")
    site.db.execute(
        """update photo_generation_queue set "retryAt" = generation.clock() + interval '1 hour'"""
    )
    done = await cli.call("drain", "--patience", "60")
    assert (done.code, done.json["runs"], done.json["stopReason"]) == (0, 1, "queue_empty")
    assert 3000 < done.json["nextAttemptInSeconds"] <= 3600


async def test_a_pause_ends_it(cli: CommandLine, site: Site) -> None:
    """A paused gate opens when a person says so, which is not waited for."""
    await site.order("one")
    site.db.execute("select public.pause_generation('test')")
    done = await cli.call("drain")
    assert (done.code, done.json["stopReason"], done.json["claimed"]) == (0, "paused", 0)


async def test_drain_exits_with_1_and_the_problem_if_misconfigured(cli: CommandLine, site: Site) -> None:
    """A single run does the same."""
    await site.order("one")
    site.gemini.configure(invalid_keys=[KEY])
    done = await cli.call("drain")
    assert (done.code, done.json["stopReason"], done.json["runs"]) == (1, "misconfigured", 1)
    assert "key" in done.json["problem"]


@pytest.mark.slow
async def test_drain_gives_up_on_an_unreachable_supabase_with_1(cli: CommandLine) -> None:
    """`drain` first tries a few times."""
    done = await cli.call("drain", "--patience", "0.1", env=NOBODY)
    assert (done.code, done.json["stopReason"], done.json["runs"]) == (1, "queue_lost", FAILURES)


async def test_signal_ends_it_gracefully(cli: CommandLine, site: Site) -> None:
    """`drain` keeps what can still finish, releases the rest, and exits with 0 within 10 s."""
    (job,) = await site.order("one", images=3)
    site.gemini.add_rule({"kind": "image", "hold": True, "latency_seconds": 0.0}, times=1)
    async with cli.start("drain", env={"IMAGES_AT_A_TIME": "1"}) as program:
        await site.open_calls(1)
        program.process.terminate()
        site.gemini.release()
        out, _ = await program.process.communicate()
    done = json.loads(out)
    assert (program.process.returncode, done["stopReason"], done["imagesMade"]) == (0, "shutdown", 1)
    assert (site.job(job)["status"], site.job(job)["lockedBy"]) == ("pending", None)
    site.audit()


async def test_a_signal_ends_a_drains_wait_for_the_next_due_job(cli: CommandLine, site: Site) -> None:
    """`drain` does not wait until the job is due."""
    await site.order("one")
    site.db.execute("""update photo_generation_queue set "retryAt" = generation.clock() + interval '100 s'""")
    async with cli.start("drain") as program:
        await program.logged("run_finished", stopReason="queue_empty")
        program.process.terminate()
        await program.process.communicate()
    assert program.process.returncode == 0
