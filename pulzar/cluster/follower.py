"""Brings the catalog to the head of one volume's log: from its cursor, or from nothing.

From a cursor, the log is read page by page. Without one, or where the log does not know it any more
(410), the rows of the volume's index are taken instead: as they are where nothing was known of that
volume, else key by key, in place of what was known (comparison.py); then the log from where they
were read. A volume that lacks the place behind the last append that it acknowledged is an older
copy of itself, also where the log knows the cursor.

A record that changes what readers see of a key takes the key's turn, like a write.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from pulzar.cluster.link import Link
from pulzar.cluster.messages import LogRecord, SnapshotPage
from pulzar.errors import HistoryTrimmed
from pulzar.limits import SNAPSHOT_ROWS
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.catalog_row import Change
from pulzar.varidb.entry import Entry
from pulzar.varidb.following import FIRST_NOTE_BYTE
from pulzar.varidb.position import NOWHERE, POSITION_BYTES, Cursor
from pulzar.varidb.record import REPLICAS_MASK, decode_meta
from pulzar.varidb.turns import Turns

_log = logging.getLogger(__name__)

Superseded = Callable[[bytes, Entry, Sequence[int]], None]


class Progress:
    """How far a volume was followed, in records of its log or rows of its index."""

    def __init__(self) -> None:
        self.followed = 0
        self.total = 0


class Follower:
    """Follows volumes into one catalog. One event loop.

    `superseded` is told of the volumes that hold an older version than one that was met; `reread`
    replaces what the catalog knows of a volume by what its index says.
    """

    def __init__(
        self,
        catalog: Catalog,
        turns: Turns,
        *,
        chunk: int,
        superseded: Superseded,
        reread: Callable[[Link, int], Awaitable[None]],
    ) -> None:
        self._catalog = catalog
        self._turns = turns
        self._chunk = chunk
        self._superseded = superseded
        self._reread = reread

    async def follow(
        self, link: Link, number: int, head: Cursor, progress: Progress, *, acknowledged: Cursor
    ) -> None:
        """Follow volume `number` to `head`; `acknowledged` is behind the last append that it took,
        as far as is known. Raises LinkBroken, OutOfSpace, ViewBroken."""
        cursor = self._catalog.cursor(number)
        met = self._catalog.met(number)
        known = await self._has(link, met) and await self._has(link, acknowledged)
        if cursor == NOWHERE or not known:
            cursor = await self._snapshot(link, number, progress)
        while cursor != head:
            try:
                page = await link.log(cursor, limit=self._chunk, wait_s=0)
            except HistoryTrimmed as trimmed:
                _log.info("volume number %d: %s: its index is read instead", number, trimmed)
                cursor = await self._snapshot(link, number, progress)
                continue
            behind = Cursor(page.opening, page.seq)
            await self._take_in([_change(one) for one in page.records], number, behind)
            progress.total = max(progress.total, page.head)
            progress.followed = page.seq
            if behind == cursor or (behind.opening == head.opening and behind.seq >= head.seq):
                return
            cursor = behind

    async def _has(self, link: Link, place: Cursor) -> bool:
        """Whether a volume's log has a place."""
        if place == NOWHERE:
            return True
        try:
            await link.log(place, limit=1, wait_s=0)
        except HistoryTrimmed:
            return False
        return True

    async def _take_in(self, changes: Sequence[Change], number: int, cursor: Cursor) -> None:
        """Take in a page of the log, with the turns of its keys."""
        keys = sorted(
            {change.key for change in changes}
        )  # in one order: no two wait for each other
        held: list[bytes] = []
        try:
            for key in keys:
                if not self._turns.try_take(key):
                    await self._turns.take(key)
                held.append(key)
            entries = dict(zip(keys, self._catalog.get_many(keys), strict=True))
            self._catalog.apply(changes, number, cursor)
        finally:
            for key in held:
                self._turns.give(key)
        for key, version in {change.key: change.version for change in changes}.items():
            entry = entries[key]
            if entry is not None and entry.version < version:
                self._superseded(key, entry, [one for one in entry.holders if one != number])

    async def _snapshot(self, link: Link, number: int, progress: Progress) -> Cursor:
        """Take in the index; the cursor of when it was begun to be read."""
        first = await link.snapshot(b"", limit=SNAPSHOT_ROWS)
        cursor = Cursor(first.opening, first.seq)
        # Of a member without a cursor nothing was known yet, and nothing is served meanwhile.
        if self._catalog.cursor(number) == NOWHERE and not self._turns.busy:
            await self._load(link, number, first, progress)
        else:
            await self._reread(link, number)
        self._catalog.begin_again(number, cursor)
        return cursor

    async def _load(self, link: Link, number: int, first: SnapshotPage, progress: Progress) -> None:
        """Load every row; the next page is on its way while one is loaded."""
        page = first
        progress.followed = 0
        while page.keys:
            progress.total = page.total
            coming = asyncio.ensure_future(link.snapshot(page.keys[-1], limit=SNAPSHOT_ROWS))
            try:
                await asyncio.sleep(0)  # so that it is sent
                keys, entries = user_rows(page)
                self._catalog.load(keys, entries, number)
            except BaseException:  # whatever it is, nothing is left waiting
                coming.cancel()
                raise
            progress.followed += len(page.keys)
            page = await coming


def user_rows(page: SnapshotPage) -> tuple[list[bytes], list[bytes]]:
    """The keys of a page, without the notes of the log, and their packed entries."""
    keys, packed = page.keys, page.entries
    users = len(keys)
    while users and keys[users - 1][0] >= FIRST_NOTE_BYTE:
        users -= 1
    ends = range(0, users * POSITION_BYTES, POSITION_BYTES)
    return keys[:users], [packed[at : at + POSITION_BYTES] for at in ends]


def _change(record: LogRecord) -> Change:
    said = decode_meta(record.meta)
    return Change(
        key=record.key,
        type=record.type,
        version=record.version,
        size=record.size,
        created_ms=record.created_ms,
        expires_s=record.expires_s,
        content_type=said.content_type,
        inline=record.inline,
        seq=record.seq,
        complete=record.complete,
        replicas=said.replicas or record.flags & REPLICAS_MASK,
    )
