"""Two bounds on what requests may hold: time without a byte, and memory.

A timer per await would cost as much as a small request. So `Patience` keeps the tasks that wait in
a dict, and one ticking timer counts for all of them: a task that was seen waiting at TICKS + 1
ticks is cancelled, which is 1 to 1.25 times the timeout. While nobody waits, nothing ticks.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pulzar.errors import NotReady, Unavailable

T = TypeVar("T")

TICKS = 4


class Patience:
    """Ends waits for clients that take or give no byte for too long. One event loop."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.is_over = False
        self._waiting: dict[asyncio.Task[Any], int] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """What `awaitable` gives. Raises TimeoutError."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("requests run in tasks")
        self._waiting[task] = 0
        if self._timer is None:
            self._wind()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if task not in self._expired:
                raise
            self._expired.discard(task)
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._waiting[task]

    def end(self) -> None:
        """From now on wait for no client: the ticks follow each other without a pause, and whoever
        waits, now or later, gets TimeoutError."""
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._tick()

    def _wind(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = 0 if self.is_over else self.timeout_s / TICKS
        self._timer = loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for task, ticks in self._waiting.items():
            self._waiting[task] = ticks + 1
            if ticks == TICKS:
                self._expired.add(task)
                task.cancel()
        if self._waiting:
            self._wind()


class Room:
    """So many bytes for all; who finds none waits, in the order of arrival. One event loop."""

    def __init__(self, bytes_max: int, patience: Patience) -> None:
        self.free = bytes_max
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return any(not turn.done() for _, turn in self._waiting)

    @asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """Hold `count` bytes. Raises as `take`."""
        await self.take(count)
        try:
            yield
        finally:
            self.give(count)

    async def take(self, count: int) -> None:
        """Take `count` bytes, all at once: holders never wait for more of the same room, so none
        waits for ever. Raises Unavailable, NotReady."""
        if not self._waiting and count <= self.free:
            self.free -= count
            return
        try:
            await self._patience.wait(self._turn(count))
        except TimeoutError:
            if self._patience.is_over:
                raise NotReady("the server is stopping") from None
            raise Unavailable("there is no memory for one more large request: try again") from None

    async def _turn(self, count: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            else:
                self.give(0)  # those behind may have been waiting for this one only
            raise

    def give(self, count: int) -> None:
        """Give `count` bytes back."""
        self.free += count
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self.free):
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= count
                turn.set_result(None)
