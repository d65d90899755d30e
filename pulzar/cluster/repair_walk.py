"""Looks through the catalog for keys whose copies are not what they should be.

    for_copies   keys with too few or too many copies: to be mended
    for_balance  volumes are filled unevenly: keys are to be moved, so many as make that even

A walk goes through all keys in their order once, and no faster than they are repaired.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from pulzar.cluster.placement import Move
from pulzar.cluster.redundancy import Standing, plan_key
from pulzar.cluster.repair_queue import RepairQueue, Task
from pulzar.limits import BALANCE_BYTES_MAX, REPAIR_WALK_ROWS
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.catalog_row import Row


class RepairWalk:
    """The walks of one cluster; one at a time. One event loop."""

    def __init__(
        self,
        catalog: Catalog,
        queue: RepairQueue,
        *,
        replicas: int,
        standings: Callable[[], Mapping[int, Standing]],
    ) -> None:
        """`replicas` is how many copies a key has that does not say so itself."""
        self._catalog = catalog
        self._queue = queue
        self._replicas = replicas
        self._standings = standings

    async def for_copies(self) -> None:
        """Queue the keys whose copies are too few or too many; return when they are repaired.
        Raises ViewBroken."""
        for rows in self._pages():
            standings = self._standings()
            for key, row in rows:
                plan = plan_key(row.copies, row.replicas or self._replicas, standings)
                if plan.lacking or plan.extra:
                    self._queue.add(Task("mend", key))
            await asyncio.sleep(0)
            await self._queue.until_half()
        await self._queue.until_done()

    async def for_balance(self, move: Move) -> None:
        """Queue keys to be moved, until they are enough, or there are no more; return when that is
        done. Raises ViewBroken."""
        left = min(move.size, BALANCE_BYTES_MAX)
        for rows in self._pages():
            for key, row in rows:
                if move.source in row.copies and move.target not in row.copies and left > 0:
                    self._queue.add(Task("move", key, number=move.target, source=move.source))
                    left -= max(row.size, 1)
            await asyncio.sleep(0)
            await self._queue.until_half()
            if left <= 0:
                break
        await self._queue.until_done()

    def _pages(self) -> Iterator[Sequence[tuple[bytes, Row]]]:
        """All rows, some at a time, each as they are then."""
        after = b""
        while rows := self._catalog.rows(after, None, REPAIR_WALK_ROWS):
            yield rows
            after = rows[-1][0]
