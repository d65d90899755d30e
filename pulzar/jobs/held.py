"""The orders of an agent that its slots have not begun, and how many more it asks for. No I/O.

An agent has as many orders as it has slots free. Where jobs take less than SHORT_JOB_S, it has
more: what it will run in half of HELD_S_MAX, up to ORDERS_AHEAD for each slot.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from pulzar.clock import Clock
from pulzar.jobs.messages import Order, Result
from pulzar.limits import HELD_S_MAX, ORDERS_AHEAD, SHORT_JOB_S

_WEIGHT = 0.2  # of the job that ended last, in the mean of what jobs take


class Held:
    """The orders of an agent with some slots. One event loop."""

    def __init__(self, slots: int, *, clock: Clock) -> None:
        self._slots = slots
        self._clock = clock
        self._waiting: deque[tuple[float, Order]] = deque()  # and since when
        self._running = 0
        self._mean_s = SHORT_JOB_S
        self._more = asyncio.Event()  # some orders wait
        self._less = asyncio.Event()  # a slot has begun or ended one
        self._less.set()

    @property
    def free(self) -> int:
        """How many slots have nothing to do."""
        return max(0, self._slots - self._running - len(self._waiting))

    @property
    def _ahead(self) -> int:
        """How many orders are to wait here."""
        if self._mean_s >= SHORT_JOB_S:
            return 0
        each = HELD_S_MAX / 2 / max(self._mean_s, 1e-4)
        return self._slots * min(ORDERS_AHEAD, int(each))

    @property
    def room(self) -> int:
        """How many more orders there may be."""
        return self._slots + self._ahead - self._running - len(self._waiting)

    async def has_room(self) -> None:
        """Wait until it is time to ask: a slot is free, or half of those ahead are used."""
        while not self.free and self.room <= self._ahead // 2:
            self._less.clear()
            await self._less.wait()

    def add(self, orders: Iterable[Order]) -> None:
        """There are more."""
        now_s = self._clock.monotonic_s()
        self._waiting.extend((now_s, order) for order in orders)
        if self._waiting:
            self._more.set()

    async def next(self) -> Order:
        """The first one, for a slot that begins it; waits for it."""
        while not self._waiting:
            self._more.clear()
            await self._more.wait()
        self._running += 1
        self._less.set()
        return self._waiting.popleft()[1]

    def ended(self, result: Result) -> None:
        """A slot has ended one."""
        self._running -= 1
        took_s = min((result.finished_ms - result.started_ms) / 1000, HELD_S_MAX)
        self._mean_s += _WEIGHT * (took_s - self._mean_s)
        self._less.set()

    def remove(self, job: int, attempt: int) -> Order | None:
        """An order that is not to be begun; None where it does not wait here."""
        for one in self._waiting:
            if (one[1].job, one[1].attempt) == (job, attempt):
                self._waiting.remove(one)
                self._less.set()
                return one[1]
        return None

    async def kept_too_long(self) -> list[Order]:
        """Wait, and take away what has waited for HELD_S_MAX."""
        await self._more.wait()
        await asyncio.sleep(HELD_S_MAX / 4)
        until_s = self._clock.monotonic_s() - HELD_S_MAX
        found = []
        while self._waiting and self._waiting[0][0] <= until_s:
            found.append(self._waiting.popleft()[1])
        if found:
            self._mean_s = SHORT_JOB_S
            self._less.set()
        if not self._waiting:
            self._more.clear()
        return found
