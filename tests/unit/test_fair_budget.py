"""Memory for bytes: never more than the limit, in turns by bytes, and no owner takes others' half."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from worker.common.fair_budget import FairBudget


class Holder:
    """An owner that holds or waits for bytes until `leave`."""

    def __init__(self, context: AbstractAsyncContextManager[None]) -> None:
        self.holds = False
        self._context = context
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._context:
            self.holds = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def holding(*holders: Holder) -> list[bool]:
    """The owners that hold bytes after all pending tasks have run."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [holder.holds for holder in holders]


Hold = Callable[[str, int], Holder]


@pytest.fixture
def hold() -> Hold:
    """Asks for bytes of a room of 20, for an owner."""
    budget = FairBudget(20)
    return lambda owner, size: Holder(budget.hold(owner, size))


async def test_what_does_not_fit_waits_and_a_smaller_one_does_not_overtake_it(hold: Hold) -> None:
    first, second = hold("a", 10), hold("b", 6)
    large, small = hold("c", 7), hold("d", 1)
    assert await holding(first, second, large, small) == [True, True, False, False]
    await second.leave()
    assert await holding(large, small) == [True, True]


async def test_an_owner_waits_for_their_own_half_and_holds_up_nobody_else(hold: Hold) -> None:
    first, second, third = hold("a", 8), hold("a", 8), hold("a", 1)
    other = hold("b", 10)
    assert await holding(first, second, third, other) == [True, False, False, True]
    await first.leave()
    assert await holding(second, third) == [True, True]


async def test_an_owner_may_have_all_while_nobody_else_wants_any() -> None:
    budget = FairBudget(20, alone=20)
    first, second, third = (Holder(budget.hold("a", size)) for size in (8, 8, 8))
    assert await holding(first, second, third) == [True, True, False]
    other = Holder(budget.hold("b", 10))
    await first.leave()
    assert await holding(third, other) == [False, True]
    await other.leave()
    assert await holding(third) == [True]


async def test_large_sizes_of_one_owner_take_turns_with_anothers(hold: Hold) -> None:
    """One owner's ten earlier requests are not all granted before another owner's."""
    large = [hold("a", 18) for _ in range(10)]
    small = [hold("b", 4) for _ in range(4)]
    assert await holding(*large, *small) == [True, *[False] * 13]
    await large[0].leave()
    assert await holding(*large[1:], *small) == [*[False] * 9, True, True, False, False]
    for holder in small:
        await holding(holder)
        await holder.leave()
    assert await holding(*large[1:3]) == [True, False]


async def test_owners_who_come_later_do_not_go_before_for_ever(hold: Hold) -> None:
    """An owner who had a little waits for some new owners, but not for any number of them."""
    first = hold("a", 10)
    kept = hold("kept", 10)
    second, others = hold("a", 10), [hold("b", 10)]
    assert await holding(first, kept, second, *others) == [True, True, False, False]
    await first.leave()
    for name in "cdefgh":
        others.append(hold(name, 10))
        await holding(*others)
        if second.holds:
            break
        await others[-2].leave()
    assert await holding(second) == [True]
    assert len(others) < 5


async def test_two_owners_who_always_want_more_leave_a_third_its_turn(hold: Hold) -> None:
    """An owner with half of the budget comes after owners who had less."""
    greedy = [hold(owner, 10) for _ in range(5) for owner in "ab"]
    other = hold("c", 10)
    assert await holding(*greedy[:3], other) == [True, True, False, False]
    await greedy[0].leave()
    assert await holding(greedy[2], other) == [False, True]


async def test_an_owner_at_its_half_does_not_save_up_turns(hold: Hold) -> None:
    """While it could have no more, others took turns with the rest; after that it takes turns with them."""
    greedy = [hold("a", 10) for _ in range(4)]
    others = [hold(owner, 10) for _ in range(4) for owner in "bc"]
    assert await holding(greedy[0], *others[:2]) == [True, True, False]
    for number in range(5):
        await others[number].leave()
        await holding()
    await others[5].leave()
    await greedy[0].leave()
    assert await holding(greedy[1], others[6], greedy[2], others[7]) == [True, True, False, False]
    await greedy[1].leave()
    assert await holding(greedy[2], others[7]) == [False, True]


async def test_an_owner_at_a_higher_price_gets_fewer_units() -> None:
    """At three times the price, one of four."""
    budget, order = FairBudget(1, price=lambda owner: 3.0 if owner == "dear" else 1.0), list[str]()

    async def take(owner: str) -> None:
        async with budget.hold(owner, 1):
            order.append(owner)

    async with budget.hold("first", 1):
        takers = [asyncio.create_task(take(owner)) for owner in ("dear", "cheap") for _ in range(12)]
        await asyncio.sleep(0)
    await asyncio.gather(*takers)
    assert [order[:count].count("dear") for count in (4, 8, 12)] == [1, 2, 3]


async def test_the_price_that_is_known_with_the_result_counts() -> None:
    """The gate's answer says in how many runs a user waits, whose first image waits for that answer."""
    prices, order = {"dear": 1.0}, list[str]()
    budget = FairBudget(100, price=lambda owner: prices.get(owner, 1.0))
    asked, answer = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        asked.set()
        await answer.wait()
        prices["dear"] = 3.0

    async def take(owner: str) -> None:
        async with budget.hold_after(owner, 1, first):
            order.append(owner)

    takers = [asyncio.create_task(take("dear")) for _ in range(3)]
    await asked.wait()
    takers += [asyncio.create_task(take("cheap")) for _ in range(3)]
    await asyncio.sleep(0)
    answer.set()
    await asyncio.gather(*takers)
    assert order == ["dear", "cheap", "cheap", "cheap", "dear", "dear"]


async def test_more_than_the_limit_is_held_alone(hold: Hold) -> None:
    small, large = hold("a", 1), hold("b", 50)
    assert await holding(small, large) == [True, False]
    await small.leave()
    behind = hold("c", 1)
    assert await holding(large, behind) == [True, False]
    await large.leave()
    assert await holding(behind) == [True]


async def test_nothing_needs_no_room(hold: Hold) -> None:
    """A job whose photos another job already holds needs no memory."""
    assert await holding(hold("a", 50), hold("a", 0), hold("b", 0)) == [True, True, True]


async def test_who_gives_up_waiting_has_taken_nothing_and_holds_nobody_up(hold: Hold) -> None:
    first, gone, behind = hold("a", 20), hold("b", 15), hold("c", 5)
    assert await holding(first, gone, behind) == [True, False, False]
    gone.task.cancel()
    await first.leave()
    assert await holding(behind) == [True]


async def test_who_is_cancelled_at_the_moment_of_being_served_gives_it_back(hold: Hold) -> None:
    first, next_one = hold("a", 20), hold("b", 20)
    await holding(first, next_one)
    await first.leave()
    next_one.task.cancel()
    assert await holding(hold("c", 20)) == [True]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def hold_timed(clock: Clock) -> Hold:
    """Asks for bytes of a room of 20, in which owners take turns by bytes × seconds."""
    budget = FairBudget(20, monotonic=clock)
    return lambda owner, size: Holder(budget.hold(owner, size))


async def test_who_holds_long_waits_for_those_who_hold_briefly(hold_timed: Hold, clock: Clock) -> None:
    """Two owners whose photos take ten seconds are behind a third's whose photos take one, all of them."""
    slow = [hold_timed(owner, 10) for _ in range(3) for owner in "ab"]
    quick = [hold_timed("c", 10) for _ in range(5)]
    assert await holding(slow[0], slow[1], quick[0]) == [True, True, False]
    clock.seconds += 10
    await slow[0].leave()
    for each in quick:
        assert await holding(each, slow[2]) == [True, False]
        clock.seconds += 1
        await each.leave()
    assert await holding(slow[2]) == [True]


async def test_an_owner_who_comes_later_is_no_further_ahead_than_who_had_least(
    hold_timed: Hold, clock: Clock
) -> None:
    """New accounts cannot keep an old one from its turn."""
    first, second = hold_timed("a", 10), hold_timed("b", 10)
    await holding(first, second)
    clock.seconds += 10
    waiting = hold_timed("a", 10)
    await second.leave()
    new = [hold_timed(f"new {number}", 10) for number in range(3)]
    for each in new:
        await holding(each)
        clock.seconds += 10
        await each.leave()
    await first.leave()
    later = hold_timed("newer", 10)
    assert await holding(waiting, later) == [True, True]


async def test_requests_that_are_cancelled_cost_their_owner_nothing(hold_timed: Hold, clock: Clock) -> None:
    """The end of a run cancels them; the budget of photos' memory lives on."""
    first, other = hold_timed("a", 10), hold_timed("b", 10)
    waiting = [hold_timed("victim", 10) for _ in range(8)]
    await holding(*waiting)
    clock.seconds += 10
    for each in waiting:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in waiting), return_exceptions=True)
    behind = [hold_timed("a", 10) for _ in range(2)]
    next_one = hold_timed("victim", 10)
    await first.leave()
    assert await holding(behind[0], next_one, other) == [True, False, True]
    clock.seconds += 1
    await other.leave()
    assert await holding(next_one, behind[1]) == [True, False]


async def test_an_owner_who_holds_a_unit_saves_up_no_turns() -> None:
    """Others were granted a hundred meanwhile; from then on they take turns."""
    budget, order = FairBudget(10), list[str]()

    async def take(owner: str) -> None:
        async with budget.hold(owner, 1):
            order.append(owner)
            await asyncio.sleep(0)

    async with budget.hold("a", 1):
        for _ in range(100):
            await take("b")
        async with budget.hold("first", 5), budget.hold("second", 4):
            order.clear()
            takers = [asyncio.create_task(take(owner)) for owner in "ab" for _ in range(10)]
            await holding()
        await asyncio.gather(*takers)
    assert 4 <= order[:10].count("a") <= 6


async def test_who_holds_little_for_long_does_not_hold_up_who_held_much_while_nobody_wanted_it(
    hold_timed: Hold, clock: Clock
) -> None:
    """What was free is not held against an owner when others come."""
    little, much = hold_timed("a", 1), hold_timed("b", 10)
    assert await holding(little, much) == [True, True]
    clock.seconds += 1000
    others = [hold_timed(owner, 9) for _ in range(4) for owner in "cd"]
    next_one = hold_timed("b", 10)
    await holding()
    clock.seconds += 1
    await much.leave()
    served = 0
    while not next_one.holds:
        held = [each for each in others if each.holds and not each.task.done()]
        clock.seconds += 10
        for each in held:
            await each.leave()
            served += 1
        await holding()
        assert served <= 6


async def test_new_owners_who_come_all_the_time_leave_an_old_one_its_turn(
    hold_timed: Hold, clock: Clock
) -> None:
    """However many accounts somebody makes."""
    first, second = hold_timed("old", 10), hold_timed("0", 10)
    await holding(first, second)
    clock.seconds += 10
    waiting, present = hold_timed("old", 10), [second]
    new = [hold_timed("1", 10), hold_timed("2", 10)]
    await first.leave()
    for number in range(3, 100):
        await holding(waiting)
        if waiting.holds:
            break
        clock.seconds += 1
        present += new
        new = [hold_timed(f"{number}a", 10), hold_timed(f"{number}b", 10)]
        for each in [each for each in present if each.holds and not each.task.done()]:
            await each.leave()
    assert waiting.holds


async def test_one_who_watches_is_told_at_a_time_and_none_who_has_had_less(clock: Clock) -> None:
    """The owner who has held most gives way first, and nobody to somebody who has had more."""
    budget = FairBudget(20, monotonic=clock)
    much, little = Holder(budget.hold("much", 10)), Holder(budget.hold("little", 1))
    await holding(much, little)
    clock.seconds += 10
    told = {owner: asyncio.create_task(budget.until_others_wait(owner)) for owner in ("much", "little")}
    waiting = Holder(budget.hold("new", 10))
    await holding()
    assert [told[owner].done() for owner in told] == [False, False]
    clock.seconds += 1
    budget.add("nobody", 0)
    other = Holder(budget.hold("other", 10))
    await holding()
    assert [told[owner].done() for owner in told] == [True, False]
    for each in (waiting, other):
        each.task.cancel()
    told["little"].cancel()


async def test_a_turn_whose_first_step_fails_costs_nothing() -> None:
    """Images of a job that has ended do not put their owner's other images behind."""
    budget, order = FairBudget(10, alone=10), list[str]()

    async def fails() -> None:
        raise LookupError

    async def take(owner: str) -> None:
        async with budget.hold(owner, 1):
            order.append(owner)

    for _ in range(20):
        with pytest.raises(LookupError):
            async with budget.hold_after("a", 1, fails):
                raise AssertionError
    async with budget.hold("first", 5), budget.hold("second", 5):
        takers = [asyncio.create_task(take(owner)) for owner in "ba" for _ in range(4)]
        await holding()
    await asyncio.gather(*takers)
    assert order[:4].count("a") == 2


async def test_one_who_watches_and_has_released_everything_is_in_nobodys_way(clock: Clock) -> None:
    """A job whose photos were all refused holds nothing when it ends."""
    budget = FairBudget(20, monotonic=clock)
    gone, much = Holder(budget.hold("gone", 1)), Holder(budget.hold("much", 10))
    await holding(gone, much)
    told = asyncio.create_task(budget.until_others_wait("gone"))
    await gone.leave()
    clock.seconds += 10
    assert await holding(Holder(budget.hold("new", 10)), Holder(budget.hold("newer", 10))) == [True, False]
    assert not told.done()
    told.cancel()
