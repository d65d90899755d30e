"""What repair is to do, in the order in which it was found, each thing once.

    add -> waiting -> take -> at work -> done

There is room for so many, no more: what finds none is found again by the next walk or comparison.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from pulzar.limits import REPAIRS_WAITING_MAX


class Task(msgspec.Struct, frozen=True):
    """`what` is to be done about a key. `version` and `number` of a volume where that needs them;
    `source` is the volume that a copy leaves."""

    what: str
    key: bytes
    version: int = 0
    number: int = 0
    source: int = 0


class RepairQueue:
    """The tasks of one cluster. One event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Task, None] = OrderedDict()
        self._at_work: list[Task] = []
        self._more = asyncio.Event()
        self._less = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many nobody has begun."""
        return len(self._waiting)

    @property
    def left(self) -> int:
        """How many are not done."""
        return len(self._waiting) + len(self._at_work)

    def add(self, task: Task) -> bool:
        """Whether there was room for it."""
        if len(self._waiting) >= REPAIRS_WAITING_MAX:
            return False
        self._waiting[task] = None
        self._more.set()
        return True

    def has(self, what: str, number: int) -> bool:
        """Whether that is to be done, or being done, to a volume."""
        return any(
            task.what == what and task.number == number for task in (*self._waiting, *self._at_work)
        )

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Task]:
        """The next one, when there is one; at work meanwhile."""
        while not self._waiting:
            self._more.clear()
            await self._more.wait()
        task, _ = self._waiting.popitem(last=False)
        self._at_work.append(task)
        try:
            yield task
        finally:
            self._at_work.remove(task)
            self._less.set()

    async def until_half(self) -> None:
        """Wait until half of the room is free."""
        while len(self._waiting) > REPAIRS_WAITING_MAX // 2:
            await self._until_less()

    async def until_done(self) -> None:
        """Wait until nothing waits, and nothing is being done."""
        while self.left:
            await self._until_less()

    async def _until_less(self) -> None:
        self._less.clear()
        await self._less.wait()
