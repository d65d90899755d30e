"""Compares a volume with the catalog, range by range, and puts right what differs.

    digests of ranges of keys -> equal: on      (nearly always)
                              -> not: the rows of both sides, key by key (reconcile.py), each
                                 under the key's turn, on what the catalog has then

Done when a volume returns, and for one that comes without a cursor. Deletes come first: what they
hide would come back if the catalog were lost. While it runs, requests go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from pulzar.cluster.follower import SNAPSHOT_ROWS, Superseded, user_rows
from pulzar.cluster.link import Link
from pulzar.cluster.reconcile import Action, Do, decide, digest
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.catalog_row import Change, Row, change_of
from pulzar.varidb.position import Position, unpack_position
from pulzar.varidb.record import Type
from pulzar.varidb.turns import Turns

_log = logging.getLogger(__name__)

RANGES = 16
"""Ranges in one answer."""

CATALOG_ROWS = 4096
"""Rows of the catalog read at once; between two reads requests have their turn."""

Hide = Callable[[int, bytes, Action], Awaitable[None]]


class Compared(msgspec.Struct):
    """What a comparison found, in keys."""

    adopted: int = 0
    hidden: int = 0
    forgotten: int = 0


class Comparison:
    """Compares volumes with one catalog. One event loop.

    `hide(number, key, action)` makes the record of an action durable on a volume.
    """

    def __init__(
        self, catalog: Catalog, turns: Turns, *, superseded: Superseded, hide: Hide
    ) -> None:
        self._catalog = catalog
        self._turns = turns
        self._superseded = superseded
        self._hide = hide

    async def compare(self, link: Link, number: int, *, adopt_only: bool = False) -> Compared:
        """Bring the catalog and volume `number` in line. Raises LinkBroken, OutOfSpace,
        ViewBroken, what `hide` raises.

        `adopt_only`: nothing is appended to the volume yet, the catalog alone is put right.
        """
        done = Compared()
        after = b""
        hides: list[tuple[bytes, Position]] = []
        while True:
            page = await link.digests(after, limit=RANGES)
            for there in page.ranges:
                here = digest(there.last, await self._held(after, there.last, number))
                if (here.count, here.sum) != (there.count, there.sum):
                    hides += await self._compare_range(link, number, after, there.last, done)
                after = there.last
            if not page.ranges:
                break
        hides += await self._compare_range(link, number, after, None, done)
        if not adopt_only:
            hides.sort(key=lambda one: not self._is_deleted(one[0]))
            for key, position in hides:
                await self._settle(number, key, position, None, done, hide=True)
        if done.forgotten:
            _log.warning(
                "volume number %d lacks %d versions that it had: is it an older copy of itself?",
                number,
                done.forgotten,
            )
        return done

    def _is_deleted(self, key: bytes) -> bool:
        return isinstance(self._catalog.known(key), int)

    async def _held(self, after: bytes, last: bytes, number: int) -> list[tuple[bytes, int]]:
        """What the catalog says that a volume holds in a range."""
        held: list[tuple[bytes, int]] = []
        while rows := self._catalog.rows(after, last, CATALOG_ROWS):
            held += [(key, row.version) for key, row in rows if number in row.copies]
            after = rows[-1][0]
            await asyncio.sleep(0)
        return held

    async def _compare_range(
        self, link: Link, number: int, after: bytes, last: bytes | None, done: Compared
    ) -> list[tuple[bytes, Position]]:
        """Adopt and forget; what is to be hidden is returned."""
        hides: list[tuple[bytes, Position]] = []
        while True:  # the catalog first: see reconcile.py on FORGET
            rows = dict(self._catalog.rows(after, last, CATALOG_ROWS))
            end = last if len(rows) < CATALOG_ROWS else max(rows)
            positions = await self._positions(link, after, end)
            for key in sorted(rows.keys() | positions.keys()):
                position = positions.get(key)
                row = rows.get(key)
                if decide(position, row or self._catalog.known(key), number=number) is None:
                    continue
                if await self._settle(number, key, position, row, done, hide=False):
                    assert position is not None
                    hides.append((key, position))
            if end == last:
                return hides
            assert end is not None
            after = end

    async def _positions(
        self, link: Link, after: bytes, last: bytes | None
    ) -> dict[bytes, Position]:
        """What a volume's index has in a range."""
        found: dict[bytes, Position] = {}
        while True:
            page = await link.snapshot(after, limit=SNAPSHOT_ROWS)
            keys, entries = user_rows(page)
            for key, entry in zip(keys, entries, strict=True):
                if last is None or key <= last:
                    found[key] = unpack_position(key, entry)
            if len(keys) < SNAPSHOT_ROWS or (last is not None and keys[-1] >= last):
                return found
            after = keys[-1]

    async def _settle(
        self,
        number: int,
        key: bytes,
        position: Position | None,
        row: Row | None,
        done: Compared,
        *,
        hide: bool,
    ) -> bool:
        """Do what is to be done about a key, with its turn. `row` is what the catalog had of it
        before the volume was read. True where it is still to be hidden."""
        await self._turns.take(key)
        try:
            entry = self._catalog.get(key)
            while True:
                known = self._catalog.known(key)
                action = decide(position, known, number=number)
                if action is None:
                    return False
                if action.do == Do.HIDE:
                    if not hide:
                        return True
                    await self._hide(number, key, action)
                    done.hidden += 1
                    return False
                if action.do == Do.FORGET:
                    if row is None or not isinstance(known, Row) or known.version != row.version:
                        return False  # it was written meanwhile
                    self._catalog.apply([_gone(key, known, number)], number, None)
                    done.forgotten += 1
                    continue
                assert position is not None
                self._catalog.apply([change_of(key, position)], number, None)
                if self._catalog.known(key) == known:
                    return False  # a later record of that volume was met already
                done.adopted += 1
                if entry is not None and entry.version < position.version:
                    others = [one for one in entry.holders if one != number]
                    self._superseded(key, entry, others)
        finally:
            self._turns.give(key)


def _gone(key: bytes, row: Row, number: int) -> Change:
    """What tells the catalog that a volume does not have a version; if it has it after all, its
    record says so again."""
    seq = max(stamp >> 1 for holder, stamp in row.holders if holder == number)
    return Change(
        key,
        Type.MOVED,
        row.version,
        row.size,
        row.created_ms,
        row.expires_s,
        seq=seq,
    )
