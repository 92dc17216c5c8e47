"""Room for bytes: never more than the limit, first come, first served, and nothing is lost on the way."""

import asyncio

import pytest

from worker.room import Room, Share


async def settled(*tasks: "asyncio.Task[Share]") -> list[bool]:
    """Which of the tasks have their share, once all that can happen has happened."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_limit() -> None:
    """A share waits until what was taken before leaves room for it; a small one does not overtake."""
    room = Room(10)
    first = await room.take(6)
    large = asyncio.create_task(room.take(7))
    small = asyncio.create_task(room.take(1))
    assert await settled(large, small) == [False, False]
    with first:
        pass
    assert await settled(large, small) == [True, True]
    another = asyncio.create_task(room.take(3))
    assert await settled(another) == [False]
    with large.result():
        pass
    assert await settled(another) == [True]


async def test_larger_than_all() -> None:
    """What is larger than the limit gets everything, alone."""
    room = Room(10)
    small = await room.take(1)
    large = asyncio.create_task(room.take(50))
    assert await settled(large) == [False]
    with small:
        pass
    assert await settled(large) == [True]
    next_one = asyncio.create_task(room.take(1))
    assert await settled(next_one) == [False]
    with large.result():
        pass
    assert await settled(next_one) == [True]


async def test_shrink() -> None:
    """What a guess was too large by is there for others at once, and is given back only once."""
    room = Room(10)
    with await room.take(10) as share:
        waiting = asyncio.create_task(room.take(8))
        assert await settled(waiting) == [False]
        share.shrink(2)
        assert await settled(waiting) == [True]
    full = asyncio.create_task(room.take(3))
    assert await settled(full) == [False]
    with waiting.result():
        pass
    assert await settled(full) == [True]


async def test_given_up() -> None:
    """Who stops waiting has taken nothing and holds nobody up; who fails gives back."""
    room = Room(10)
    with pytest.raises(RuntimeError), await room.take(10):
        gone = asyncio.create_task(room.take(5))
        behind = asyncio.create_task(room.take(10))
        assert await settled(gone, behind) == [False, False]
        gone.cancel()
        raise RuntimeError
    assert await settled(behind) == [True]
