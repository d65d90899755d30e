"""The store of a cluster: the catalog here, the bytes on the volumes.

    put, delete    writer (turn, condition, version) -> replicator -> volumes -> catalog -> answer
    get            catalog -> inline, or fetched from the best copy, the next one where that fails
    large values   go from volume to volume and from volume to client; see `elsewhere`

It implements `entry.Store`. What keeps the volumes together is master.py and repair.py.
"""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import msgspec

from pulzar.clock import Clock
from pulzar.cluster.follower import Follower
from pulzar.cluster.master import Master
from pulzar.cluster.member import Member
from pulzar.cluster.messages import (
    DAMAGED,
    FOUND,
    Committed,
    Found,
    Presence,
    UploadDone,
    UploadPlan,
    UploadWanted,
    Welcome,
)
from pulzar.cluster.repair import Repair
from pulzar.cluster.replicator import Replicator
from pulzar.errors import (
    Damage,
    MemberRefused,
    NotReady,
    OutOfSpace,
    PulzarError,
    Unavailable,
    ViewBroken,
)
from pulzar.limits import DIRECT_BYTES_MAX, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.batching import run_batch
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.condition import Condition
from pulzar.varidb.copies import Copies
from pulzar.varidb.entry import (
    Delete,
    Entry,
    Get,
    Got,
    Listing,
    Put,
    Status,
    Upload,
    Uploaded,
    Written,
)
from pulzar.varidb.expiry import expire
from pulzar.varidb.position import Cursor
from pulzar.varidb.reader import completed
from pulzar.varidb.record import Type, make_version
from pulzar.varidb.writer import Writer, is_expired

_log = logging.getLogger(__name__)


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be set of a cluster."""

    replicas: int = 1
    min_copies: int = 1
    lost_after_s: float = 600.0
    follow_records: int = 1000


class _Room:
    """The room of a cluster: whether a volume has some is seen when one is chosen."""

    def take(self, size: int) -> None:
        """Any size may fit somewhere."""


class ClusterStore:
    """Implements `entry.Store` over the volumes of a cluster. One event loop."""

    direct_bytes_max = DIRECT_BYTES_MAX

    master: Master

    def __init__(
        self,
        catalog: Catalog,
        *,
        clock: Clock,
        options: ClusterOptions,
        draw: Callable[[], float],
    ) -> None:
        self.options = options
        self.members: dict[int, Member] = {}
        self._catalog = catalog
        self._clock = clock
        self._closing = False
        self._serving = False  # whether data may be served
        self._ready = asyncio.Event()  # it could be, once
        self.replicator = Replicator(
            catalog,
            self.members,
            replicas=options.replicas,
            min_copies=options.min_copies,
            draw=draw,
            hidden=self._hide,
        )
        self.writer = Writer(catalog, self.replicator, clock=clock, epoch=0, room=_Room())
        self.repair = Repair(
            catalog,
            self.members,
            self.replicator,
            self.writer.turns,
            clock=clock,
            replicas=options.replicas,
            draw=draw,
        )
        self.follower = Follower(
            catalog,
            self.writer.turns,
            chunk=options.follow_records,
            superseded=self._hide,
            reread=self.repair.reread,
        )
        self.feed = catalog.feed
        self.feed.floor = self.replicator.oldest
        self.history = catalog
        self._expiry: asyncio.Task[None] | None = None
        self._is_broken = False  # the catalog is damaged, and to be filled from nothing
        self.damaged_total = 0
        self.fallen_over_total = 0

    def start(self) -> None:
        """Look for the members; begin the work beside requests."""
        self.master.start()
        self.repair.start()
        self._expiry = asyncio.create_task(self._expire())

    def changed(self) -> None:
        """A member's state may have changed: see whether data can be served, and be repaired."""
        self._serving = self.replicator.serving = self._reason() is None
        if self._serving:
            with contextlib.suppress(PulzarError):  # then nobody can watch yet
                self._catalog.start_feed(make_version(self.writer.epoch, 0))
            self._ready.set()
        self.repair.wake(serving=self._serving)

    async def served(self) -> None:
        """Waits until data can be served for the first time."""
        await self._ready.wait()

    async def _expire(self) -> None:
        await self._ready.wait()
        await expire(self._catalog, self.writer, self._clock)

    def _hide(self, key: bytes, entry: Entry, numbers: Sequence[int]) -> None:
        self.repair.hide(key, entry, numbers)

    # Whether it can serve.

    def _reason(self) -> str | None:
        if self._closing:
            return "the server is stopping"
        if self.replicator.failed is not None:
            return f"the master takes no more requests: {self.replicator.failed}"
        return self.master.not_ready()

    def _require(self) -> None:
        """Raise NotReady where an answer might be older than what a volume holds."""
        if self._closing or not self._serving or self.replicator.failed is not None:
            raise NotReady(self._reason() or "the master has just become ready: try again")

    # Reading.

    def lookup(self, key: bytes) -> Entry | None:
        """See `entry.Store`."""
        if not self._serving or self._closing or self.replicator.failed is not None:
            self._require()  # the test again, for its sentence
        try:
            return self._catalog.get(key)
        except ViewBroken as error:
            raise self._broken(error) from error

    async def confirm(self, key: bytes, entry: Entry) -> Entry | None:
        """See `entry.Store`."""
        if not is_expired(entry.expires_s, self._clock.now_ms()):
            return entry
        await self.writer.expire(key, entry.version)
        return None

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """See `entry.Store`."""
        if entry.complete or entry.size > SEGMENT_VALUE_BYTES_MAX:
            return entry
        found = await self._fetch(key, entry)
        whole = completed(entry, Type.PUT, found.meta, found.value)
        with contextlib.suppress(OutOfSpace):  # then it is fetched again the next time
            self._catalog.refill(key, whole)
        return whole

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """See `entry.Store`."""
        if entry.inline is not None:
            return entry.inline
        return (await self._fetch(key, entry)).value

    async def _fetch(self, key: bytes, entry: Entry) -> Found:
        """A value from the best copy, the next one where that fails. Raises Damage, Unavailable.

        A volume that has a newer version already does not have this one any more, although the
        write is not acknowledged yet: then its end is waited for.
        """
        try:
            return await self._fetch_now(key, entry)
        except Damage:
            if not await self._is_settled(key, entry):
                raise  # it has another version now: whoever asked looks again
            return await self._fetch_now(key, entry)

    async def _is_settled(self, key: bytes, entry: Entry) -> bool:
        """Wait for the write of a key that is under way; whether the version is the same then."""
        await self.writer.turns.take(key)
        self.writer.turns.give(key)
        now = self.lookup(key)
        return now is not None and now.version == entry.version

    async def _fetch_now(self, key: bytes, entry: Entry) -> Found:
        answered = 0
        for member in self._readable(entry):
            try:
                found = await member.fetch(key, entry.version)
            except PulzarError:
                self.fallen_over_total += 1
                continue
            if found.status == FOUND:
                return found
            answered += 1
            self.fallen_over_total += 1
            if found.status == DAMAGED:
                self.damaged_total += 1
                self.repair.damaged(key, entry.version, member.number)
        raise self._unreadable(entry, answered)

    def _readable(self, entry: Entry) -> list[Member]:
        """The members that have a value, the one of this process first, then the one with the
        least to do; none that is suspect."""
        members = self.members
        if len(entry.holders) == 1:
            member = members.get(entry.holders[0])
            return [member] if member is not None and member.online else []
        online = [members[number] for number in entry.holders if number in members]
        return sorted((m for m in online if m.online), key=lambda m: (not m.is_local, m.pending))

    def _unreadable(self, entry: Entry, answered: int) -> PulzarError:
        """Why no copy could be read, of which so many volumes said that they cannot give it."""
        names = [
            self.members[number].entry.name for number in entry.holders if number in self.members
        ]
        if not names:
            return Damage(f'every copy of version "{entry.version:016x}" of this key is lost')
        if answered < len(names):
            return Unavailable(f"no volume that has this value is online ({', '.join(names)})")
        return Damage(f'version "{entry.version:016x}" of this key could not be read anywhere')

    def elsewhere(self, entry: Entry) -> str | None:
        """See `entry.Store`."""
        member = next(iter(self._readable(entry)), None)
        if member is None or member.presence is None or member.is_local:
            return None
        return member.presence.url

    async def chunks(
        self, key: bytes, entry: Entry, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """See `entry.Store`. Goes on with another copy where one breaks off."""
        at, answered = start, 0
        for member in self._readable(entry):
            try:
                async for chunk in member.link.chunks(key, entry.version, start=at, end=end):
                    at += len(chunk)
                    yield chunk
            except Damage:
                answered += 1
                self.damaged_total += 1
                self.repair.damaged(key, entry.version, member.number)
            except PulzarError as error:
                member.break_off(error)
            if at == end:
                return
        if at == start:
            await self._is_settled(key, entry)
        raise self._unreadable(entry, answered)

    def holders(self, key: bytes) -> list[str]:
        """The names of the volumes that have a key and are online; none where it is not there."""
        entry = self.lookup(key)
        numbers = () if entry is None else entry.holders
        members = [self.members[number] for number in numbers if number in self.members]
        return [member.entry.name for member in members if member.online]

    def list_keys(
        self, prefix: bytes, *, after: bytes | None, limit: int, delimiter: bytes | None
    ) -> Listing:
        """See `entry.Store`."""
        self._require()
        now_s = self._clock.now_ms() // 1000
        page = partial(self._catalog.list_keys, prefix, after=after, limit=limit)
        try:
            return page(delimiter=delimiter, now_s=now_s)
        except ViewBroken as error:
            raise self._broken(error) from error

    # Writing.

    async def put(self, put: Put) -> Written:
        """See `entry.Store`."""
        self._require()
        return await self.writer.put(put)

    async def delete(self, delete: Delete) -> Written:
        """See `entry.Store`."""
        self._require()
        return await self.writer.delete(delete)

    def upload_elsewhere(self, size: int, replicas: int) -> str | None:
        """See `entry.Store`."""
        self._require()
        first = self._plan(size, replicas or self.options.replicas)[0]
        return None if first.is_local or first.presence is None else first.presence.url

    async def upload(self, *, size: int = 0, replicas: int = 0) -> Upload:
        """See `entry.Store`."""
        self._require()
        plan = self._plan(size, replicas or self.options.replicas)
        return await plan[0].link.upload(
            os.urandom(16).hex(), size=size or -1, peers=[_url(member) for member in plan[1:]]
        )

    def _plan(self, size: int, replicas: int, *, first: int | None = None) -> list[Member]:
        """The volumes for a large value, the one that takes it from the client first."""
        self.replicator.require_writable()
        holders = () if first is None else (first,)
        numbers = self.replicator.place(replicas, size=max(size, 0), holders=holders)
        members = [self.members[number] for number in numbers]
        enough = min(self.options.min_copies, replicas)
        if len(members) < enough or not members:
            if any(member.online for member in self.members.values()):
                raise OutOfSpace("no volume has room for this value: delete something")
            raise Unavailable("no volume is online: nothing was written; try again")
        return members

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """See `entry.Store`."""
        staged = getattr(upload, "staged", None)
        if staged is None:
            raise Unavailable("the upload is not finished")
        return await self._commit(put, staged.upload, staged.size, staged.volumes)

    async def _commit(self, put: Put, upload: str, size: int, volumes: Sequence[str]) -> Written:
        self._require()
        numbers = [
            entry.number
            for volume in volumes
            if (entry := self.master.list.members.by_id(volume)) is not None
        ]
        if not numbers:
            raise Unavailable("no volume has the uploaded bytes: nothing was written")
        return await self.writer.put(put, Uploaded(upload, size, tuple(sorted(numbers))))

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        """See `entry.Store`."""
        self._require()
        return await run_batch(self, self.writer.many, operations)

    # What volumes ask.

    async def heartbeat(self, presence: Presence, host: str) -> Welcome:
        """A volume is there. Raises MemberRefused, Unavailable."""
        if self._closing:
            raise NotReady("the server is stopping")
        try:
            welcome = await self.master.heartbeat(presence, host)
        except MemberRefused as error:
            _log.warning("refused: %s", error)  # once: the volume ends
            raise
        entry = self.master.list.members.by_id(presence.id)
        if entry is not None:
            for key, version in presence.damaged:
                self.repair.damaged(key, version, entry.number)
        return welcome

    async def plan_upload(self, wanted: UploadWanted) -> UploadPlan:
        """Where the copies of a large value go that a volume was asked to take."""
        self._require()
        entry = self.master.list.members.by_id(wanted.volume)
        if entry is None:
            raise Unavailable("this volume is no member of the cluster")
        replicas = wanted.replicas or self.options.replicas
        plan = self._plan(wanted.size, replicas, first=entry.number)
        peers = [_url(member) for member in plan if member.number != entry.number]
        return UploadPlan(os.urandom(16).hex(), peers)

    async def commit_upload(self, done: UploadDone) -> Committed:
        """Give an upload its key. Raises as `Store.put`."""
        condition = None
        if done.match is not None or done.none_match is not None:
            condition = Condition(done.match, done.match_any, done.none_match, done.none_match_any)
        elif done.match_any or done.none_match_any:
            condition = Condition(match_any=done.match_any, none_match_any=done.none_match_any)
        put = Put(done.key, b"", done.content_type, done.expires_s, condition, done.replicas)
        written = await self._commit(put, done.upload, done.size, done.volumes)
        return Committed(*msgspec.structs.astuple(written))

    # Looking after itself.

    async def failure(self) -> str:
        """Waits until the master cannot go on, and says why: a restart follows the volumes."""
        await self.replicator.has_failed.wait()
        return f"the catalog: {self.replicator.failed}"

    def copies(self) -> list[Copies]:
        """How many keys each set of volumes holds."""
        return self._catalog.copies()

    def cursor(self, number: int) -> Cursor:
        """How far the catalog has followed a volume."""
        return self._catalog.cursor(number)

    def status(self) -> Status:
        """See `entry.Store`."""
        return self._catalog.status()

    def not_ready(self) -> str | None:
        """See `entry.Store`."""
        reason = self._reason()
        if reason is not None:
            return reason
        awaited = [member.entry.name for member in self.master.awaited()]
        return f"waiting for {', '.join(awaited)}" if awaited else None

    def statistics(self) -> dict[str, float]:
        """See `entry.Store`."""
        writer = self.writer
        return {
            "keys": self._catalog.status().entries,
            "puts_total": writer.puts_total,
            "deletes_total": writer.deletes_total,
            "expired_total": writer.expired_total,
            "damaged_reads_total": self.damaged_total,
            "fallen_over_reads_total": self.fallen_over_total,
            "under_replicated_writes_total": self.replicator.under_replicated_total,
            "writes_under_way": self.replicator.pending,
            "members": len(self.members),
            "members_online": sum(member.online for member in self.members.values()),
            **self.repair.statistics(),
        }

    async def compact(self) -> dict[str, int]:
        """See `entry.Store`."""
        online = [member for member in self.members.values() if member.online]
        done: Counter[str] = Counter()
        for compacted in await asyncio.gather(*(member.link.compact() for member in online)):
            done.update(compacted.counts)
        return dict(done)

    async def close(self) -> None:
        """See `entry.Store`."""
        self._closing = True
        if self._expiry is not None:
            self._expiry.cancel()
            await asyncio.wait([self._expiry])
        await self.repair.close()
        await self.master.close()
        if self._is_broken:
            self._catalog.reset()
        self._catalog.close(clean=self.replicator.failed is None)

    def _broken(self, error: Exception) -> NotReady:
        """The catalog is damaged: only the volumes know what is true."""
        _log.error("the catalog is damaged: %s", error)
        self._is_broken = True
        self.replicator.fail(f"the catalog is damaged ({error}): a restart fills it anew")
        return NotReady(f"the catalog is damaged: {error}")


def _url(member: Member) -> str:
    assert member.presence is not None
    return member.presence.url
