"""An event loop whose time moves on at once when every task waits, for code that sleeps for minutes."""

import asyncio
import selectors


class _Clock(selectors.SelectSelector):
    """Moves the time forward instead of waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits, and none for a time"
        self.now += timeout
        return super().select(0)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop that begins at time 0; for tasks that wait for each other and for times, not for I/O."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now
