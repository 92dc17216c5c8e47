"""The pacer: starts are apart, blocked after a 429, and refused at once when they would be too late."""

from __future__ import annotations

import asyncio

from worker.pacer import Pacer


async def test_starts_keep_their_distance() -> None:
    """Concurrent takers get starts at least the interval apart."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(0.03, loop.time)
    starts: list[float] = []

    async def take() -> None:
        assert await pacer.take(lambda: loop.time() + 10)
        starts.append(loop.time())

    await asyncio.gather(*(take() for _ in range(5)))
    gaps = [later - earlier for earlier, later in zip(sorted(starts), sorted(starts)[1:], strict=False)]
    assert min(gaps) > 0.02


async def test_a_start_beyond_the_deadline_is_refused_without_waiting() -> None:
    """Nobody waits for a start that would come too late."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(0, loop.time)
    pacer.block(60)
    before = loop.time()
    assert not await pacer.take(lambda: before + 30)
    assert loop.time() - before < 1


async def test_a_block_holds_those_already_waiting() -> None:
    """A 429 stops also the starts that were promised before it came."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(0.05, loop.time)
    assert await pacer.take(lambda: loop.time() + 10)
    waiting = asyncio.create_task(pacer.take(lambda: loop.time() + 10))
    await asyncio.sleep(0)
    pacer.block(0.2)
    blocked_until = pacer.blocked_until
    assert await waiting
    assert loop.time() >= blocked_until - 0.01


async def test_closing_wakes_everybody() -> None:
    """A shutdown is not kept waiting by those who wait for a start."""
    loop = asyncio.get_running_loop()
    pacer = Pacer(60, loop.time)
    assert await pacer.take(lambda: loop.time() + 600)
    waiting = asyncio.create_task(pacer.take(lambda: loop.time() + 600))
    await asyncio.sleep(0)
    pacer.close()
    assert not await asyncio.wait_for(waiting, 1)
    assert not await pacer.take(lambda: loop.time() + 600)
    pacer.reopen()
    assert not pacer.closed
