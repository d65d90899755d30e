"""Watching a prefix: every change of its keys from a place on, also over a restart.

    the ring of the feed, while it reaches back to the place -> every change
    else the rows of the catalog that are newer              -> the last change of each key
    else (deletes are purged, or too much has happened)      -> a mark `reset`: list, and go on

Then what the feed tells. One that takes too long to take begins again at the place of the last
event that it took. So of each key the changes come in the order of their versions, none twice, and
the last one always comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec

from pulzar.limits import CATALOG_ROWS, WATCH_CATCH_UP_MAX
from pulzar.varidb.entry import Store
from pulzar.varidb.feed import Event, Feed, Place, Watcher


class History(Protocol):
    """What is known of keys beside what they hold: when they were created, what has changed."""

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` live keys strictly behind `after`, in byte order."""

    def created_between(
        self, start_ms: int, end_ms: int, *, after: tuple[int, bytes] | None, limit: int
    ) -> list[tuple[int, bytes]]:
        """Up to `limit` keys created in start..end (exclusive), as (created ms, key) in that order,
        strictly behind `after`."""

    def is_unsure(self, version: int) -> bool:
        """Whether a watcher that was told everything up to that version, and then was away over a
        restart, may have missed what `newer` does not tell."""

    def newer(
        self, prefix: bytes, version: int, *, after: bytes, deletes: bool, limit: int
    ) -> tuple[list[Event], bytes | None]:
        """Of up to `limit` keys under a prefix strictly behind `after`, live ones or those deleted,
        the ones whose version is larger; and the last key looked at, None at the end."""


class Watchable(Protocol):
    """A store whose keys can be watched."""

    @property
    def feed(self) -> Feed:
        """What happens."""

    @property
    def history(self) -> History:
        """What has happened."""


class WatchedStore(Store, Watchable, Protocol):
    """What a front end needs of VariDB, watching too."""


class Mark(msgspec.Struct, frozen=True):
    """What is no event. ready: what follows is behind `place`. reset: what happened before `place`
    cannot be told: list the keys, then go on."""

    kind: Literal["ready", "reset"]
    place: Place


async def watch(
    feed: Feed, history: History, prefix: bytes, after: Place | None, *, ping_s: float
) -> AsyncGenerator[Sequence[Event | Mark], None]:
    """Marks and events behind a place, None for now; nothing, from time to time, where nothing
    happens. Ends when the feed is closed. Raises Unavailable, NotReady, ViewBroken."""
    watcher = feed.watch(prefix)
    try:
        place = feed.last if after is None else after
        yield [Mark("ready", place)]
        if after is not None:
            async for items in _behind(feed, history, watcher, place):
                place = items[-1].place
                yield items
        while not feed.closed:
            events = await watcher.take(ping_s)
            if watcher.behind:
                async for items in _behind(feed, history, watcher, place):
                    place = items[-1].place
                    yield items
                continue
            if events:
                place = events[-1].place
            yield events
    finally:
        feed.unwatch(watcher)


async def _behind(
    feed: Feed, history: History, watcher: Watcher, after: Place
) -> AsyncGenerator[Sequence[Event | Mark], None]:
    """What a watcher at `after` has missed; never nothing. What is told meanwhile is kept."""
    watcher.pending.clear()
    watcher.behind = False
    last = feed.last
    remembered = feed.remembered(watcher.prefix, after)
    if remembered is not None:
        if remembered:
            yield remembered
        return
    found = await _newer(history, watcher.prefix, after, last)
    if found is None:
        yield [Mark("reset", last)]
    elif found:
        yield found


async def _newer(history: History, prefix: bytes, after: Place, last: Place) -> list[Event] | None:
    """The last change of each key that has changed between two places; None where that is not
    known, or too much."""
    if history.is_unsure(after.version) or after > last:
        return None
    found: list[Event] = []
    for deletes in (False, True):
        at: bytes | None = b""
        while at is not None:
            events, at = history.newer(
                prefix, after.version, after=at, deletes=deletes, limit=CATALOG_ROWS
            )
            # What is newer than `last` is told by the feed.
            found += [event for event in events if event.version <= last.version]
            if len(found) > WATCH_CATCH_UP_MAX:
                return None
            await asyncio.sleep(0)  # requests have their turn
    found.sort(key=lambda event: event.version)
    return found
