"""A volume as its master sees it: sessions, appends, reads, its log and its index page by page.

Implements `link.Link` over a serving volume; over the network the same calls arrive through
http/autodiscovery.py. It decides nothing about keys: versions, turns, conditions, placement and
expiry are the master's. It sees to it that only the appends of one session get into the log, in
their order.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from pulzar.clock import Clock
from pulzar.cluster.link import Link
from pulzar.cluster.membership import Members, decode_members
from pulzar.cluster.messages import (
    DAMAGED,
    FOUND,
    NOT_HERE,
    PROTOCOL,
    Append,
    Appended,
    Compacted,
    DigestPage,
    Fetch,
    Fetched,
    Found,
    LogPage,
    LogRecord,
    NewRecord,
    Presence,
    Pull,
    SessionOpened,
    SessionWanted,
    SnapshotPage,
    Staged,
)
from pulzar.cluster.reconcile import digest_of_columns
from pulzar.cluster.sessions import Session
from pulzar.cluster.staging import PeerUpload, StagedUpload, Staging
from pulzar.errors import (
    Damage,
    NotReady,
    OutcomeUnknown,
    OutOfSpace,
    PulzarError,
    StaleSession,
    Unavailable,
)
from pulzar.limits import (
    DIGEST_KEYS,
    INLINE_BYTES_MAX,
    PRESENCE_DAMAGED_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.blob import Blob, encode_blob
from pulzar.varidb.commit import Write
from pulzar.varidb.entry import Entry
from pulzar.varidb.following import Logged, note_key
from pulzar.varidb.position import Cursor
from pulzar.varidb.record import KEYED, Record, Type, epoch_of, make_version
from pulzar.varidb.serving import ServingVolume

_LIVE = frozenset({Type.PUT, Type.BLOB})


class _LastWrite(Write):
    """The last record of an append; remembers where the log's head was when it was durable."""

    __slots__ = ("_head", "cursor")

    def __init__(
        self, record: Record, done: "asyncio.Future[None]", head: Callable[[], Cursor]
    ) -> None:
        super().__init__(record, None, done, None)
        self._head = head
        self.cursor = head()

    def finish(self, error: PulzarError | None) -> None:
        self.cursor = self._head()
        super().finish(error)


class ServedVolume:
    """One volume. One event loop. `connect(url)` gives the link to another volume.

    It takes the serving volume over: its log is followed by nobody else from now on, and no delete
    is purged, since other volumes may need it.
    """

    def __init__(
        self,
        serving: ServingVolume,
        *,
        name: str,
        url: str,
        instance: str,
        clock: Clock,
        connect: Callable[[str], Link],
    ) -> None:
        self.serving = serving
        self.name = name
        self.url = url
        self.instance = instance
        self.id = serving.volume.id.hex()
        self._volume = serving.volume
        self._committer = serving.committer
        self._clock = clock
        self._connect = connect
        self._session = Session()
        self._opening = asyncio.Lock()
        self._promised = serving.volume.promised_epoch()
        self._promised_to = self._note(Type.EPOCH)
        self._staging = Staging(serving, volume=self.id)
        self._superseded_bytes = 0
        self._grown = asyncio.Event()
        self._leaving = asyncio.Event()
        serving.committer.follow = self._grow
        serving.maintenance.take_superseded = self._take_superseded
        serving.maintenance.purged = None
        self.appends_total = 0
        self.fetches_total = 0

    # Who it is.

    def presence(self) -> Presence:
        """See `Presence`. Raises Unavailable where the disk does not say how full it is."""
        members = self.members()
        head = self._volume.log.cursor()
        try:
            used = self.serving.disk.used_bytes(self.serving.directory)
            free = self.serving.disk.free_bytes(self.serving.directory)
        except OSError as error:
            raise Unavailable(f"the disk does not say how full it is: {error}") from None
        damaged = self.serving.maintenance.damaged()
        return Presence(
            protocol=PROTOCOL,
            id=self.id,
            instance=self.instance,
            name=self.name,
            url=self.url,
            cluster=members.cluster if members is not None else "",
            generation=members.generation if members is not None else 0,
            epoch=self._promised,
            entries=self._volume.index.count(),
            opening=head.opening,
            seq=head.seq,
            total_bytes=used + free,
            used_bytes=used,
            room_bytes=max(0, free - self.serving.room.reserve_bytes),
            now_ms=self._clock.now_ms(),
            failed=self._volume.log.failed or "",
            members=self._note(Type.MEMBERS),
            damaged=[(copy.key, copy.version) for copy in damaged[:PRESENCE_DAMAGED_MAX]],
        )

    def members(self) -> Members | None:
        """The newest list of members in the log, None where there is none."""
        return decode_members(self._note(Type.MEMBERS))

    def _note(self, type_: Type) -> bytes:
        """The value of the log's newest record of that type; empty where there is none, or where
        it is damaged."""
        position = self._volume.index.get(note_key(type_))
        if position is None:
            return b""
        try:
            return self._volume.records.read(b"", position).value
        except (Damage, OSError):
            return b""

    async def hello(self) -> Presence:
        """See `Link`."""
        return self.presence()

    async def alive(self, wait_s: float) -> Presence:
        """See `Link`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._leaving.wait()
        if self._leaving.is_set():
            raise NotReady("the volume is stopping")
        return self.presence()

    def leave(self) -> None:
        """It is about to stop: let go of whoever waits for something to happen."""
        self._leaving.set()
        self._grown.set()

    # Writing.

    async def open_session(self, wanted: SessionWanted) -> SessionOpened:
        """See `Link`."""
        async with self._opening:
            new = wanted.epoch > self._promised
            if not new and (wanted.epoch, wanted.master) != (self._promised, self._promised_to):
                raise StaleSession(
                    f"epoch {self._promised} is promised to another master; yours is {wanted.epoch}"
                )
            self._session.end()
            if self._volume.log.failed is None:
                await self._promise(wanted, new=new)
            # Else it is only read from: nothing gets into its log any more, in any session.
            self._session.begin(wanted.epoch, wanted.session)
            head = self._volume.log.cursor()
            failed = self._volume.log.failed or ""
            return SessionOpened(head.opening, head.seq, self._note(Type.MEMBERS), failed)

    async def _promise(self, wanted: SessionWanted, *, new: bool) -> None:
        """Write the promise of an epoch, or anything at all: behind everything that earlier
        sessions submitted, so that it is known what became of that."""
        now_ms = self._clock.now_ms()
        if not new:
            await self._committer.write(Record(type=Type.CHECKPOINT, created_ms=now_ms))
            return
        await self._committer.write(
            Record(
                type=Type.EPOCH,
                version=make_version(wanted.epoch, 0),
                value=wanted.master,
                created_ms=now_ms,
            )
        )
        self._promised, self._promised_to = wanted.epoch, wanted.master

    async def append(self, append: Append) -> Appended:
        """See `Link`."""
        self._session.take(append)
        staged = {new.upload: await self._staged(new) for new in append.records if new.upload}
        self._session.require(append)  # and no wait from here to the committer
        size = sum(len(new.value) for new in append.records)
        if size:
            self.serving.room.take(size)
        records = [_record(new, staged) for new in append.records]
        writes = [Write(record, None, None, None) for record in records[:-1]]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        last = _LastWrite(records[-1], done, self._volume.log.cursor)
        self._committer.submit_many([*writes, last])
        self.appends_total += 1
        self._superseded_bytes += append.superseded_bytes
        with contextlib.suppress(PulzarError):
            await done
        error = _error_of([write.error for write in (*writes, last)])
        if error is not None:
            raise error
        for record in records:
            if record.type == Type.EPOCH and epoch_of(record.version) > self._promised:
                self._promised, self._promised_to = epoch_of(record.version), record.value
        return Appended(last.cursor.opening, last.cursor.seq)

    async def _staged(self, new: NewRecord) -> bytes | Blob:
        """The bytes that an append names. A small one is a value, whatever it was uploaded as."""
        staged = self._staging.take(new.upload)
        if isinstance(staged, Blob) and new.type == Type.PUT:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.serving.executor, self._unblobbed, staged)
        return staged

    def _unblobbed(self, blob: Blob) -> bytes:
        file = self._volume.open_blob(blob)
        try:
            return file.read(blob.size, offset=0)
        finally:
            file.close()

    async def upload(self, upload: str, *, size: int, peers: list[str]) -> StagedUpload:
        """See `Link`. A peer that cannot take it is left out."""
        begun = await asyncio.gather(
            *(self._begin_peer(upload, size, url) for url in peers), return_exceptions=True
        )
        others = [peer for peer in begun if isinstance(peer, PeerUpload)]
        return await self._staging.begin(upload, size=size, peers=others)

    async def _begin_peer(self, upload: str, size: int, url: str) -> PeerUpload:
        link = self._connect(url)
        presence = await link.hello()
        return PeerUpload(presence.id, await link.upload(upload, size=size, peers=[]))

    async def pull(self, pull: Pull) -> Staged:
        """See `Link`."""
        upload = await self._staging.begin(pull.upload, size=pull.size, peers=())
        try:
            link = self._connect(pull.url)
            async for chunk in link.chunks(pull.key, pull.version, start=0, end=pull.size):
                await upload.write(chunk)
            await upload.finish()
        except BaseException:  # cancellation too: the bytes must not stay on the disk
            await upload.abort()
            raise
        assert upload.staged is not None
        return upload.staged

    async def compact(self) -> Compacted:
        """See `Link`."""
        return Compacted(await self.serving.compact())

    # Reading.

    async def fetch(self, fetch: Fetch) -> Fetched:
        """See `Link`."""
        self.fetches_total += 1
        return Fetched(
            [await self._fetch(key, version, verify=fetch.verify) for key, version in fetch.wanted]
        )

    async def _fetch(self, key: bytes, version: int, *, verify: bool) -> Found:
        position = self._volume.index.get(key)
        if position is None or position.version != version or position.type not in _LIVE:
            return Found(NOT_HERE)
        try:
            record = await self.serving.reader.record(key, version)
            if verify:
                async for _ in self.chunks(key, version, start=0, end=position.size):
                    pass
        except Damage:
            return Found(DAMAGED)
        return Found(FOUND, record.meta, record.value if record.type == Type.PUT else b"")

    def entry(self, key: bytes, version: int | None) -> Entry | None:
        """What the index has of a live key; None where it is not here, or at another version."""
        position = self._volume.index.get(key)
        if position is None or position.type not in _LIVE:
            return None
        if version is not None and position.version != version:
            return None
        return Entry(
            position.version,
            position.size,
            position.created_ms,
            position.expires_s,
            "",
            (),
            None,
            complete=False,
        )

    async def chunks(
        self, key: bytes, version: int, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """See `Link`."""
        entry = self.entry(key, version)
        if entry is None:
            raise Damage(f'version "{version:016x}" of this key is not on this volume')
        if entry.size <= SEGMENT_VALUE_BYTES_MAX:
            yield (await self.serving.reader.record(key, version)).value[start:end]
            return
        async for chunk in self.serving.reader.chunks(key, entry, start=start, end=end):
            yield chunk

    # Being followed.

    async def log(self, after: Cursor, *, limit: int, wait_s: float) -> LogPage:
        """See `Link`."""
        logged, cursor = self._volume.follow(after, limit=limit)
        if not logged and wait_s and not self._leaving.is_set():
            self._grown.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._grown.wait(), wait_s)
            logged, cursor = self._volume.follow(after, limit=limit)
        records = [_log_record(one) for one in logged if one.position.type in KEYED]
        return LogPage(cursor.opening, cursor.seq, self._volume.log.durable_seq, records)

    def _grow(self, _changes: object, _cursor: Cursor) -> None:
        """The log has more: whoever waits at its head goes on."""
        self._grown.set()

    async def snapshot(self, after: bytes, *, limit: int) -> SnapshotPage:
        """See `Link`."""
        head = self._volume.log.cursor()
        keys, entries = self._volume.index.columns(after, limit)
        total = self._volume.index.count()
        return SnapshotPage(head.opening, head.seq, total, keys, b"".join(entries))

    async def digests(self, after: bytes, *, limit: int) -> DigestPage:
        """See `Link`."""
        ranges = []
        for _ in range(limit):
            keys, entries = self._volume.index.columns(after, DIGEST_KEYS)
            if not keys:
                break
            ranges.append(digest_of_columns(keys, entries))
            after = keys[-1]
            await asyncio.sleep(0)  # requests go first
        return DigestPage(ranges)

    # Its end.

    def _take_superseded(self) -> int:
        taken, self._superseded_bytes = self._superseded_bytes, 0
        return taken

    async def close(self) -> None:
        """Take no more appends; let go of whoever waits at the log's head."""
        self.leave()
        self._session.end()
        self._staging.close()


def _error_of(errors: Sequence[PulzarError | None]) -> PulzarError | None:
    """What became of an append whose writes ended like that. OutOfSpace says that nothing of it
    was written, and the session goes on."""
    error = next((error for error in errors if error is not None), None)
    if isinstance(error, OutOfSpace) and not all(isinstance(one, OutOfSpace) for one in errors):
        return OutcomeUnknown(f"a part of the append was written: {error}")
    return error


def _record(new: NewRecord, staged: dict[str, bytes | Blob]) -> Record:
    value = new.value
    if new.upload:
        bytes_ = staged[new.upload]
        value = encode_blob(bytes_) if isinstance(bytes_, Blob) else bytes_
    return Record(
        type=Type(new.type),
        key=new.key,
        value=value,
        meta=new.meta,
        version=new.version,
        created_ms=new.created_ms,
        expires_s=new.expires_s,
        flags=new.flags,
    )


def _log_record(logged: Logged) -> LogRecord:
    record, position = logged.record, logged.position
    small = record is not None and record.type == Type.PUT and len(record.value) <= INLINE_BYTES_MAX
    return LogRecord(
        logged.key,
        position.type,
        position.version,
        position.seq,
        position.size,
        position.created_ms,
        position.expires_s,
        record.meta if record is not None else b"",
        record.value if record is not None and small else None,
        record is not None,
        position.flags,
    )
