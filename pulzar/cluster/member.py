"""One member as the master works with it: its session, and what waits to be sent and read.

    queue -> one append at a time, of all that has gathered -> acknowledged, in order
    wanted -> up to FETCHES_MAX fetches at a time, each of all that has gathered

A session ends with the first answer that leaves something open. Then everything that was on its
way is given back to the replicator, which finds other volumes for it; the member is suspect until
a new session is open and its log was followed to the head.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from pulzar.cluster.flight import Flight, Tracker
from pulzar.cluster.link import Link
from pulzar.cluster.membership import Entry, State
from pulzar.cluster.messages import Append, Fetch, Found, NewRecord, Presence
from pulzar.cluster.placement import Candidate
from pulzar.errors import LinkBroken, OutOfSpace, PulzarError, Unavailable
from pulzar.limits import (
    BATCH_BYTES_MAX,
    BATCH_RECORDS_MAX,
    FETCH_KEYS,
    FETCHES_MAX,
    RECORD_OVERHEAD_BYTES,
    WATCH_S,
)
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.record import Type

_log = logging.getLogger(__name__)


class Member:
    """One member. One event loop. `acknowledged` and `given_back` are the replicator's."""

    def __init__(
        self,
        entry: Entry,
        link: Link,
        *,
        host: str,
        acknowledged: Callable[["Member", Sequence[Flight], Tracker], None],
        given_back: Callable[["Member", Sequence[Flight], Sequence[Flight], PulzarError], None],
    ) -> None:
        self.entry = entry
        self.link = link
        self.host = host
        self.presence: Presence | None = None
        self.heard_s = 0.0  # monotonic; of the last word from it
        self.heard_at_ms = 0  # by the clock on the wall here
        self.state = State.JOINING
        self.followed = False  # to its head, at some time since the master started
        self.is_local = False  # in this process
        self.told = 0  # the generation of the list that it was told, in this session
        self.trackers: deque[Tracker] = deque()
        self.unlanded: list[Tracker] = []  # of sessions before: some record waits for other volumes
        self.acknowledged = NOWHERE  # the place behind its last append
        self.broken = asyncio.Event()
        self.broken.set()
        self._acknowledged = acknowledged
        self._given_back = given_back
        self._epoch = 0
        self._session = 0
        self._number = 0
        self._queue: deque[Flight] = deque()
        self._sent: list[Flight] = []  # the append that is under way
        self._sending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._wanted: deque[tuple[bytes, int, asyncio.Future[Found]]] = deque()
        self._fetching: set[asyncio.Task[None]] = set()
        self._gathering = False

    @property
    def number(self) -> int:
        """Its number in the catalog's rows."""
        return self.entry.number

    @property
    def online(self) -> bool:
        """Whether it may be read from."""
        return not self.broken.is_set()

    @property
    def writable(self) -> bool:
        """Whether it may be written to: a volume whose disk has failed is only read from."""
        return self.online and not self._has_failed

    @property
    def keeps(self) -> bool:
        """Whether it will go on having what it has. Not where its disk has failed: what was written
        last, a MOVED too, may be there or not when it is started again."""
        return not self.draining and not self._has_failed

    @property
    def _has_failed(self) -> bool:
        return self.presence is not None and bool(self.presence.failed)

    @property
    def draining(self) -> bool:
        """Whether its copies are to go elsewhere."""
        return self.entry.draining

    @property
    def candidate(self) -> Candidate | None:
        """It as a place for new copies; None where it takes none."""
        presence = self.presence
        if not self.writable or presence is None or self.draining:
            return None
        return Candidate(
            number=self.number,
            host=self.host,
            total_bytes=presence.total_bytes,
            used_bytes=presence.used_bytes,
            room_bytes=presence.room_bytes,
            pending=self.pending,
        )

    @property
    def pending(self) -> int:
        """How much waits for it."""
        return len(self._queue) + len(self._wanted)

    @property
    def is_landed(self) -> bool:
        """Whether the catalog has all that it acknowledged in earlier sessions."""
        self.unlanded = [one for one in self.unlanded if one.missing]
        return not self.unlanded

    # The session.

    def begin(self, epoch: int, session: int, sent: int) -> None:
        """A session is open, `sent` appends of it are used, and the log was followed to the head:
        use it."""
        self._epoch, self._session, self._number = epoch, session, sent
        self.followed = True
        self.broken.clear()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Notice at once that the volume has gone, also where nobody asks anything of it."""
        try:
            while self.online:
                await self.link.alive(WATCH_S)
        except PulzarError as error:
            self._watching = None
            self.break_off(error)

    def break_off(self, error: PulzarError) -> None:
        """The session is over: give everything back. Harmless where none is open."""
        if self.broken.is_set():
            return
        self._end_session()
        _log.info("volume %s: the session ended: %s", self.entry.name, error)
        if self._sending is not None:
            self._sending.cancel()
            return  # `_ended` gives everything back
        self._give_back([], error)

    def _end_session(self) -> None:
        self.broken.set()
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
        self.unlanded += [one for one in self.trackers if one.missing]
        self.trackers.clear()  # its log will be followed again, from the catalog's cursor

    def _give_back(self, sent: Sequence[Flight], error: PulzarError) -> None:
        queued = list(self._queue)
        self._queue.clear()
        wanted, self._wanted = self._wanted, deque()
        for _, _, future in wanted:
            if not future.done():
                future.set_exception(LinkBroken(f"volume {self.entry.name}: {error}"))
        self._given_back(self, sent, queued, error)

    # Writing.

    def enqueue(self, flight: Flight) -> None:
        """Send a record with the next append. The member is online."""
        flight.waiting += 1
        flight.tried.add(self.entry.number)
        self._queue.append(flight)
        if self._sending is None:
            self._start_sending()

    async def _send(self) -> None:
        """Send what is queued until nothing is. Raises what ends the session."""
        while self._queue and self.online:
            self._sent = self._take()
            append = self._append_of(self._sent)
            self._number += 1
            try:
                appended = await self.link.append(append)
            except OutOfSpace as full:
                refused, self._sent = self._sent, []
                self._refused(refused, full)
                continue
            acknowledged, self._sent = self._sent, []
            self.acknowledged = Cursor(appended.opening, appended.seq)
            tracker = Tracker(self.acknowledged, len(acknowledged))
            self.trackers.append(tracker)
            self._acknowledged(self, acknowledged, tracker)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Nothing is being sent any more; what still is here is given back."""
        self._sending = None
        sent, self._sent = self._sent, []
        error = None if task.cancelled() else task.exception()
        if error is not None and self.online:
            self._end_session()
            _log.warning("volume %s: the session ended: %s", self.entry.name, error)
            if not isinstance(error, PulzarError):
                _log.error("a bug met volume %s", self.entry.name, exc_info=error)
        broken = error if isinstance(error, PulzarError) else Unavailable("the session ended")
        if not self.online:
            self._give_back(sent, broken)
            return
        if sent:  # of a session before this one
            self._given_back(self, sent, [], broken)
        if self._queue and self._sending is None:
            self._start_sending()

    def _start_sending(self) -> None:
        self._sending = asyncio.get_running_loop().create_task(self._send())
        self._sending.add_done_callback(self._ended)

    def _take(self) -> list[Flight]:
        """The next append: as much as one may hold."""
        taken: list[Flight] = []
        size = 0
        while self._queue and len(taken) < BATCH_RECORDS_MAX:
            size += self._queue[0].size + RECORD_OVERHEAD_BYTES
            if taken and size > BATCH_BYTES_MAX:
                break
            taken.append(self._queue.popleft())
        return taken

    def _append_of(self, flights: Sequence[Flight]) -> Append:
        number = self.entry.number
        records: list[NewRecord] = [flight.record for flight in flights]
        superseded = sum(f.replaces[1] for f in flights if number in f.replaces[0])
        return Append(self._epoch, self._session, self._number, records, superseded)

    def _refused(self, sent: Sequence[Flight], error: OutOfSpace) -> None:
        """It has no room: nothing was written. What needs none is sent again, first."""
        small = [flight for flight in sent if flight.record.type != Type.PUT]
        large = [flight for flight in sent if flight.record.type == Type.PUT]
        if not large:
            for flight in small:
                flight.error = error
            self._given_back(self, [], small, error)
            return
        self._queue.extendleft(reversed(small))
        self._given_back(self, [], large, error)

    # Reading.

    async def fetch(self, key: bytes, version: int) -> Found:
        """What it has of a key at a version. Raises LinkBroken."""
        if not self.online:
            raise LinkBroken(f"volume {self.entry.name} is not online")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        self._wanted.append((key, version, future))
        if not self._gathering and len(self._fetching) < FETCHES_MAX:
            self._gathering = True
            loop.call_soon(self._start_fetch)  # behind the other requests of this turn of the loop
        return await future

    async def verify(self, key: bytes, version: int) -> Found:
        """As `fetch`, when every byte of it was read; of a large value too. Raises LinkBroken,
        also where the session ends meanwhile."""
        asked = asyncio.ensure_future(self.link.fetch(Fetch([(key, version)], verify=True)))
        broken = asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait((asked, broken), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise LinkBroken(f"volume {self.entry.name} is not online")
            fetched = asked.result()
        finally:
            for one in (asked, broken):
                one.cancel()
            await asyncio.gather(asked, broken, return_exceptions=True)
        if len(fetched.found) != 1:
            raise LinkBroken(f"volume {self.entry.name} answered {len(fetched.found)} keys")
        return fetched.found[0]

    def _start_fetch(self) -> None:
        self._gathering = False
        if self._wanted and len(self._fetching) < FETCHES_MAX:
            task = asyncio.get_running_loop().create_task(self._fetch())
            self._fetching.add(task)
            task.add_done_callback(self._fetched)

    def _fetched(self, task: "asyncio.Task[None]") -> None:
        self._fetching.discard(task)
        self._start_fetch()

    async def _fetch(self) -> None:
        wanted = [self._wanted.popleft() for _ in range(min(len(self._wanted), FETCH_KEYS))]
        try:
            fetched = await self.link.fetch(Fetch([(key, version) for key, version, _ in wanted]))
            if len(fetched.found) != len(wanted):
                raise LinkBroken(f"volume {self.entry.name} answered {len(fetched.found)} keys")
        except PulzarError as error:
            for _, _, future in wanted:
                if not future.done():
                    future.set_exception(error)
            self.break_off(error)
            return
        for (_, _, future), found in zip(wanted, fetched.found, strict=True):
            if not future.done():
                future.set_result(found)

    async def close(self) -> None:
        """Let go of it."""
        self.break_off(Unavailable("the master is stopping"))
        tasks = [task for task in (self._sending, *self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.link.close()
