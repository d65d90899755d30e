"""The feed: what happens to users' keys, told in the order of versions, to whoever listens.

It follows the catalog: whatever changes the version at which a key is known is told here, after it
is durable and visible, and before it is acknowledged. So a listener that has been told everything
up to a write knows of every write that was acknowledged before it.

    catalog -> landed -> who waits for this key is woken, followers are told
                      -> held back while an older version is under way -> told: watchers, ring

An event is told under its version, which so is the place from which a watcher goes on. An event
that comes when newer ones were told already (a volume that was away had a write that nobody knew
of) is told under the place of the newest one, with a number of its own: `VERSION.1`.

The last FEED_EVENTS events stay in a ring, for watchers that were away for a moment, or are slow.
What is older is found in the catalog (watching.py).
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import NamedTuple, Protocol

import msgspec

from pulzar.errors import NotReady, Unavailable
from pulzar.limits import FEED_EVENTS, WATCH_PENDING_MAX, WATCHERS_MAX
from pulzar.varidb.catalog_orders import FIRST_USER_KEY


class Place(NamedTuple):
    """Where a watcher is: behind the event told under that version, and with that number."""

    version: int
    late: int

    def __str__(self) -> str:
        return f"{self.version:016x}.{self.late}" if self.late else f"{self.version:016x}"


class Event(msgspec.Struct, frozen=True, gc=False):
    """A key has another value now, or none. `under` and `late` are its place."""

    key: bytes
    version: int
    is_delete: bool
    size: int = 0
    created_ms: int = 0
    expires_s: int = 0
    content_type: str = ""
    under: int = 0
    late: int = 0
    is_new: bool = False

    @property
    def place(self) -> Place:
        """Where a watcher is that knows of it."""
        return Place(self.under or self.version, self.late)


class Watcher:
    """What is told of keys under one prefix, until it is taken. One that takes nothing for too long
    is `behind`: then nothing more is kept for it."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.behind = False
        self.pending: list[Event] = []
        self._wake: asyncio.Future[None] | None = None

    def push(self, event: Event) -> None:
        """It is told."""
        if self.behind:
            return
        if len(self.pending) >= WATCH_PENDING_MAX:
            self.behind = True
            self.pending.clear()
        else:
            self.pending.append(event)
        self.wake()

    def wake(self) -> None:
        """Let go of whoever waits in `take`."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def take(self, timeout_s: float) -> list[Event]:
        """What was told since the last call; waits until there is something, or the time is up."""
        if not self.pending and not self.behind:
            self._wake = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._wake
        taken, self.pending = self.pending, []
        return taken


class Follower(Protocol):
    """Who is told of everything, and must not wait."""

    def landed(self, events: Sequence[Event]) -> None:
        """These are visible now, and not acknowledged yet."""

    def skipped(self) -> None:
        """Something has happened that nobody can list."""


class Feed:
    """See the module. One event loop. Nothing is told before `start`.

    `floor` gives the smallest version that is under way, None for none.
    """

    def __init__(self) -> None:
        self.floor: Callable[[], int | None] = _nothing_under_way
        self.last = Place(0, 0)
        self.is_running = False
        self.events_total = 0
        self._closed = False
        self._ring: deque[Event] = deque()
        self._trimmed = Place(0, 0)  # the place in front of the ring
        self._held: list[tuple[int, int, Event]] = []
        self._order = count()
        self._followers: list[Follower] = []
        self._watchers: dict[bytes, set[Watcher]] = {}
        self._lengths: tuple[int, ...] = ()  # of the prefixes
        self._waiting: dict[bytes, set[asyncio.Future[None]]] = {}
        self._listening = 0

    # What the catalog tells.

    def start(self, version: int) -> None:
        """Begin: everything up to `version` has happened before."""
        if not self.is_running:
            self.last = self._trimmed = max(self.last, Place(version, 0))
            self.is_running = True

    def pause(self) -> None:
        """Tell nothing until `start`: what happens meanwhile is no news."""
        if self.is_running:
            self.skip()
            self.is_running = False

    def landed(self, events: Sequence[Event]) -> None:
        """These are visible now; of one key they come in the order of their versions."""
        if not self.is_running:
            return
        if self._waiting:
            for event in events:
                for future in self._waiting.pop(event.key, ()):
                    if not future.done():
                        future.set_result(None)
        for follower in self._followers:
            follower.landed(events)
        if not self._held and self.floor() is None:
            for event in events:
                self._tell(event)
            return
        for event in events:
            heapq.heappush(self._held, (event.version, next(self._order), event))
        self.settle()

    def settle(self) -> None:
        """A write has ended: tell what was held back for it."""
        if self._held:
            floor = self.floor()
            while self._held and (floor is None or self._held[0][0] < floor):
                self._tell(heapq.heappop(self._held)[2])

    def skip(self) -> None:
        """Something has happened that nobody can list: every watcher is behind, and the ring is of
        no use any more."""
        self._ring.clear()
        self.last = self._trimmed = Place(self.last.version, self.last.late + 1)
        for follower in self._followers:
            follower.skipped()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.behind = True
                watcher.pending.clear()
                watcher.wake()

    def _tell(self, event: Event) -> None:
        if event.key < FIRST_USER_KEY:
            return
        version, late = self.last
        if event.version <= version:
            event = msgspec.structs.replace(event, under=version, late=late + 1)
        self.last = event.place
        self.events_total += 1
        self._ring.append(event)
        if len(self._ring) > FEED_EVENTS:
            self._trimmed = self._ring.popleft().place
        for length in self._lengths:
            if length <= len(event.key):
                for watcher in self._watchers.get(event.key[:length], ()):
                    watcher.push(event)

    # Who listens.

    def statistics(self) -> dict[str, float]:
        """Counts by name."""
        return {"watchers": self._listening, "changes_total": self.events_total}

    def follow(self, follower: Follower) -> None:
        """Tell this of everything that lands from now on, in the order in which it does."""
        self._followers.append(follower)

    def remembered(self, prefix: bytes, after: Place) -> list[Event] | None:
        """What was told behind a place, of keys under a prefix; None where it is not known any
        more."""
        if not self._trimmed <= after <= self.last:
            return None
        ring = self._ring
        return [event for event in ring if event.place > after and event.key.startswith(prefix)]

    def watch(self, prefix: bytes) -> Watcher:
        """Begin to keep what is told of keys under a prefix. Raises Unavailable, NotReady."""
        self._begin_to_listen()
        watcher = Watcher(prefix)
        self._watchers.setdefault(prefix, set()).add(watcher)
        self._lengths = tuple({len(known) for known in self._watchers})
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """It is not watched any more."""
        self._listening -= 1
        watchers = self._watchers[watcher.prefix]
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[watcher.prefix]
            self._lengths = tuple({len(known) for known in self._watchers})

    def wait(self, key: bytes) -> "asyncio.Future[None]":
        """Done when something happens to a key. Give it back to `unwait`. Raises Unavailable,
        NotReady."""
        self._begin_to_listen()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        return future

    def unwait(self, key: bytes, future: "asyncio.Future[None]") -> None:
        """Nobody waits for that any more."""
        self._listening -= 1
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[key]

    def _begin_to_listen(self) -> None:
        if self._closed:
            raise NotReady("the server is stopping")
        if not self.is_running:
            raise NotReady("it is not known yet what has happened last: try again")
        if self._listening >= WATCHERS_MAX:
            raise Unavailable(f"{WATCHERS_MAX} requests wait for changes already: try again later")
        self._listening += 1

    @property
    def closed(self) -> bool:
        """Whether whoever listens is to let go."""
        return self._closed

    def close(self) -> None:
        """Let go of everybody who listens."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake()
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)


def _nothing_under_way() -> int | None:
    return None
