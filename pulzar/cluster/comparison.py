"""Compares a volume with the catalog, range by range, and puts right what differs.

    digests of ranges of keys -> equal: on      (nearly always)
                              -> not: the rows of both sides, key by key (reconcile.py), each
                                 under the key's turn, on what the catalog has then

Done when a volume returns. Deletes come first: what they hide would come back if the catalog were
lost. While it runs, requests go on.

A volume whose log could not be followed from the catalog's cursor is read as a whole before it is
used, and what the catalog had of it is replaced (`reread`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from pulzar.cluster.follower import Superseded, user_rows
from pulzar.cluster.link import Link
from pulzar.cluster.reconcile import Action, Do, decide, digest, may_forget, reread, without
from pulzar.limits import CATALOG_ROWS, DIGEST_RANGES, SNAPSHOT_ROWS
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.catalog_row import Row, change_of
from pulzar.varidb.position import Position, unpack_position
from pulzar.varidb.turns import Turns

_log = logging.getLogger(__name__)

Hide = Callable[[int, bytes, Action], Awaitable[None]]


class Compared(msgspec.Struct):
    """What a comparison found, in keys."""

    adopted: int = 0
    hidden: int = 0
    forgotten: int = 0

    @property
    def text(self) -> str:
        """The same in words."""
        return f"{self.adopted} adopted, {self.hidden} hidden, {self.forgotten} forgotten"


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

    async def reread(self, link: Link, number: int) -> None:
        """Let the catalog know of volume `number` what its index says, and nothing else. Nothing
        is appended to the volume meanwhile. Raises LinkBroken, OutOfSpace, ViewBroken."""
        after, done = b"", Compared()
        while True:
            rows = dict(self._catalog.rows(after, None, CATALOG_ROWS))
            end = max(rows) if len(rows) == CATALOG_ROWS else None
            positions = await self._positions(link, after, end)
            for key in sorted(rows.keys() | positions.keys()):
                await self._reread_key(number, key, positions.get(key), done)
            if end is None:
                break
            after = end
        self._tell_of_age(number, done)

    async def _reread_key(
        self, number: int, key: bytes, position: Position | None, done: Compared
    ) -> None:
        await self._turns.take(key)
        try:
            known = self._catalog.known(key)
            new = reread(key, position, known, number=number)
            if new is None or new == known:
                return
            entry = self._catalog.get(key)
            self._catalog.replace(key, new)
            if isinstance(known, Row) and isinstance(new, Row) and known.version == new.version:
                done.forgotten += number in known.copies and number not in new.copies
            elif entry is not None:
                done.adopted += 1
                self._superseded(key, entry, [one for one in entry.holders if one != number])
        finally:
            self._turns.give(key)

    async def compare(self, link: Link, number: int) -> Compared:
        """Bring the catalog and volume `number` in line. Raises LinkBroken, OutOfSpace,
        ViewBroken, what `hide` raises."""
        done = Compared()
        after = b""
        hides: list[tuple[bytes, Position]] = []
        while True:
            page = await link.digests(after, limit=DIGEST_RANGES)
            for there in page.ranges:
                here = digest(there.last, await self._held(after, there.last, number))
                if (here.count, here.sum) != (there.count, there.sum):
                    hides += await self._compare_range(link, number, after, there.last, done)
                after = there.last
            if not page.ranges:
                break
        hides += await self._compare_range(link, number, after, None, done)
        hides.sort(key=lambda one: not self._is_deleted(one[0]))
        for key, position in hides:
            await self._settle(number, key, position, None, done, hide=True)
        self._tell_of_age(number, done)
        return done

    def _tell_of_age(self, number: int, done: Compared) -> None:
        if done.forgotten:
            _log.warning(
                "volume number %d lacks %d versions that it had: it is an older copy of itself",
                number,
                done.forgotten,
            )

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
                    rest = without(known, number)
                    if rest is None or not may_forget(row, known, number=number):
                        return False  # it was written meanwhile
                    self._catalog.replace(key, rest)
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
