"""The loop: when it sleeps and for how long, what wakes it, and how it ends in the middle of work."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.proxy import Proxy
from tests.support.runs import KEY, Site
from worker.cli import loop as loop_module
from worker.cli.loop import Forever, loop, run_once, stop_on_signal
from worker.common.retry_delay import Uniform
from worker.photos.prepare import DECODERS
from worker.run.request import RunRequest

LONG = {"MAX_IDLE_SECONDS": "3600"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_in_the_middle_of_a_job(cli: CommandLine, site: Site, number: signal.Signals) -> None:
    """`run` keeps what can still finish, releases the rest, and exits with 0."""
    (job,) = await site.order("one", images=3)
    site.gemini.add_rule({"kind": "image", "hold": True, "latency_seconds": 0.0}, times=1)
    async with cli.start("run", env={"IMAGES_AT_A_TIME": "1", **LONG}) as program:
        await site.open_calls(1)
        program.process.send_signal(number)
        site.gemini.release()
        assert await program.ended() == 0
    row = site.job(job)
    assert (row["status"], row["lockedBy"], row["leaseExpiresAt"]) == ("pending", None, None)
    assert len(site.photos(job)) == site.gemini.paid() == 1
    last = await site.run()
    assert (last["completed"], last["images"]["made"]) == (1, 2)
    site.audit()


async def test_signal_while_gemini_hangs(cli: CommandLine, site: Site) -> None:
    """A call that does not come back is cut in time; the job is given back and made by the next run."""
    (job,) = await site.order("one")
    site.gemini.add_rule({"kind": "hang"}, times=1)
    async with cli.start("run", env=LONG) as program:
        await site.open_calls(1)
        program.process.terminate()
        assert await program.ended() == 0
    assert (site.job(job)["lockedBy"], site.photos(job)) == (None, [])
    site.make_due()
    assert (await site.run())["completed"] == 1
    site.audit()


async def test_signal_while_supabase_hangs(cli: CommandLine, site: Site) -> None:
    """The loop ends in time whatever call is pending; a claim that arrives too late holds no job."""
    (job,) = await site.order("one")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("claim_generation_jobs")
        async with cli.start("run", env={"SUPABASE_URL": proxy.url, **LONG}) as program:
            await gate.reached()
            program.process.terminate()
            assert await program.ended() == 0
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)


async def test_signal_ends_a_tick_with_its_summary(cli: CommandLine, site: Site) -> None:
    """A stopped single run still prints what it did."""
    await site.order("one", images=3)
    site.gemini.add_rule({"kind": "image", "hold": True, "latency_seconds": 0.0}, times=1)
    async with cli.start("tick", env={"IMAGES_AT_A_TIME": "1"}) as program:
        await site.open_calls(1)
        program.process.terminate()
        site.gemini.release()
        out, _ = await program.process.communicate()
    summary = json.loads(out)
    assert (program.process.returncode, summary["stopReason"]) == (0, "shutdown")
    assert (summary["images"]["made"], summary["images"]["notStarted"]) == (1, 2)
    site.audit(summary)


async def test_no_run_starts_after_the_stop(site: Site) -> None:
    """A stopped worker claims nothing more."""
    (job,) = await site.order("one")
    worker = site.worker()
    worker.stop()
    assert (await worker.run(RunRequest()))["stopReason"] == "shutdown"
    assert site.job(job)["status"] == "pending"


async def test_second_signal_ends_at_once(cli: CommandLine, site: Site) -> None:
    """The process does not finish its work."""
    await site.order("one")
    site.gemini.add_rule({"kind": "hang"}, times=1)
    async with cli.start("run", env=LONG) as program:
        await site.open_calls(1)
        program.process.terminate()
        # The first is heard once the process has put the default handler back.
        deadline = time.monotonic() + 60
        while program.process.returncode is None and time.monotonic() < deadline:
            program.process.terminate()
            await asyncio.sleep(0.05)
        assert await program.process.wait() == -signal.SIGTERM
    site.expire_leases()


async def test_a_signal_ends_an_idle_loop_at_once(cli: CommandLine) -> None:
    """`run` does not finish its sleep."""
    async with cli.start("run", env=LONG) as program:
        await program.logged("run_finished", stopReason="queue_empty")
        program.process.terminate()
        assert await program.ended() == 0


async def test_an_idle_worker_has_loaded_what_its_first_job_needs(cli: CommandLine) -> None:
    """The job waits neither for Gemini's SDK, which loads Pillow, nor for decoders to start."""
    async with cli.start("run", env=LONG) as program:
        await program.logged("run_finished", stopReason="queue_empty")
        process = Path(f"/proc/{program.process.pid}")
        children = (process / f"task/{process.name}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children]
        assert [b"worker.photos.decoder_main" in command for command in commands] == [True] * DECODERS
        assert "/PIL/_imaging." in (process / "maps").read_text()
        program.process.terminate()
        assert await program.ended() == 0


async def test_work_that_comes_while_sleeping(cli: CommandLine, site: Site) -> None:
    """Jobs enqueued during a pause are processed when it ends, and the loop continues."""
    async with cli.start("run", env={"MAX_IDLE_SECONDS": "1"}) as program:
        await program.logged("run_finished", stopReason="queue_empty")
        for name in ("one", "two"):
            (job,) = await site.order(name)
            enqueued_at = time.monotonic()
            await program.logged("job_claimed", job=job)
            assert time.monotonic() - enqueued_at < 15  # half of what it sleeps by default
            await program.logged("job_completed", job=job)
        program.process.terminate()
        assert await program.ended() == 0
    site.audit()


async def test_retry_that_comes_due_while_sleeping(cli: CommandLine, site: Site) -> None:
    """A pause ends when the next retry is due, however long the idle time is."""
    await site.order("one")
    site.gemini.add_rule({"kind": "error", "code": 503}, times=2)
    async with cli.start("run", env={"RETRY_BASE_SECONDS": "2", **LONG}) as program:
        await program.logged("job_pending", code="unavailable")
        await program.logged("job_completed", attempt=2)
        program.process.terminate()
        assert await program.ended() == 0
    site.audit()


async def test_goes_on_when_supabase_comes_back(cli: CommandLine, site: Site) -> None:
    """While Supabase does not answer, the loop logs it and retries; no restart is needed."""
    (job,) = await site.order("one")
    async with Proxy(site.stack.url) as proxy:
        proxy.cut()
        env = {"SUPABASE_URL": proxy.url, "MAX_IDLE_SECONDS": "1"}
        async with cli.start("run", env=env) as program:
            first = await program.logged("run_failed", reason="queue_lost")
            assert first["severity"] == "ERROR" and 0.5 <= first["pause_seconds"] <= 1
            await program.logged("run_failed", failures=2)
            proxy.repair()
            await program.logged("job_completed", job=job)
            program.process.terminate()
            assert await program.ended() == 0


async def test_notices_when_it_is_configured_again(cli: CommandLine, site: Site) -> None:
    """A misconfigured loop logs an error, spends nothing, and continues once it is fixed."""
    (job,) = await site.order("one")
    site.gemini.configure(invalid_keys=[KEY])
    async with cli.start("run", env=LONG) as program:
        told = await program.logged("run_failed", reason="misconfigured")
        assert "key" in told["problem"] and 2.5 <= told["pause_seconds"] <= 5
        assert site.job(job)["attempts"] == 0
        site.gemini.configure(invalid_keys=[])
        await program.logged("job_completed", job=job)
        program.process.terminate()
        assert await program.ended() == 0


class Stuck:
    """A worker whose runs never end, not even after `stop`."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.started = asyncio.Event()
        self.uniform: Uniform = Random(1).uniform
        self.runs = self.cut = 0

    async def run(self, _request: RunRequest) -> Mapping[str, Any]:
        """Hang."""
        self.runs += 1
        self.started.set()
        try:
            return await asyncio.Future[dict[str, Any]]()
        finally:
            self.cut += 1


async def test_run_that_does_not_stop_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop limits the time after a stop; then no other run starts."""
    monkeypatch.setattr(loop_module, "STOP_SECONDS", 0.05)
    worker = Stuck()
    going = asyncio.create_task(loop(worker, Forever(30.0, worker.uniform)))
    await worker.started.wait()
    worker.stopping.set()
    await asyncio.wait_for(going, 60)
    assert (worker.runs, worker.cut) == (1, 1)


async def test_failure_of_a_run_is_passed_on() -> None:
    """An unexpected error ends the loop, so that the process's supervisor restarts it."""

    class Broken(Stuck):
        async def run(self, _request: RunRequest) -> Mapping[str, Any]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await run_once(Broken(), RunRequest())


async def test_handlers_are_put_back() -> None:
    """Outside its block a signal does what it did before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    told = asyncio.Event()
    with stop_on_signal(told.set):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(told.wait(), 60)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
