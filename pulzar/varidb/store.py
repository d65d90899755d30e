"""The store of one machine: a local volume, its catalog, and everything around them.

    DATA/volume/          the volume: the log is the database
    DATA/volume.views/    its index           (may be deleted while the process is down)
    DATA/catalog.views/   the catalog         (may be deleted while the process is down)

`open_store` opens the volume (recovery), lets the catalog catch up with its log, promises a new
epoch, and starts the committer and the background process. It implements `entry.Store`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import repeat

import msgspec

from pulzar.clock import Clock
from pulzar.disk import Disk
from pulzar.errors import (
    HistoryTrimmed,
    OpenError,
    OutcomeUnknown,
    OutOfSpace,
    PulzarError,
    Unavailable,
    ViewBroken,
)
from pulzar.limits import (
    BATCH_RECORDS_MAX,
    INLINE_BYTES_MAX,
    LOAD_ROWS_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.batching import run_batch
from pulzar.varidb.catalog import BadRows, Catalog, Change, Newest
from pulzar.varidb.catalog_row import change_of
from pulzar.varidb.entry import Delete, Entry, Get, Got, Listing, Put, Status, Upload, Written
from pulzar.varidb.expiry import expire
from pulzar.varidb.feed import Feed
from pulzar.varidb.following import FIRST_NOTE_BYTE, UNSURE_KEY, Logged, note_key
from pulzar.varidb.index import Index
from pulzar.varidb.position import Cursor
from pulzar.varidb.record import KEYED, Record, Type, decode_meta, make_version
from pulzar.varidb.serving import ServingVolume, StoreOptions, open_volume, views_of
from pulzar.varidb.upload import BlobUpload
from pulzar.varidb.volume import Volume, cannot_open
from pulzar.varidb.watching import History
from pulzar.varidb.writer import Writer, is_expired

_log = logging.getLogger(__name__)
_HOLDER = 1


async def open_store(
    directory: str,
    *,
    disk: Disk,
    clock: Clock,
    options: StoreOptions | None = None,
    token: Callable[[int], bytes] = os.urandom,
    alone: bool = True,
) -> "LocalStore":
    """Open the store in `directory`, or begin one there. Raises OpenError.

    Where it is not `alone`, or its volume was a member of a cluster once, it is to be handed over
    to a cluster at once: nothing is deleted here that other machines may know better, or need, and
    the catalog is left to the cluster.
    """
    options = options or StoreOptions()
    async with AsyncExitStack() as undo:  # where it fails, nothing may stay open or locked
        volume = open_volume(directory, disk=disk, clock=clock, options=options, token=token)
        undo.callback(volume.abandon)
        try:
            catalog = Catalog.open(f"{directory}/catalog.views", identity=volume.id)
            undo.callback(catalog.close, clean=False)
            alone = alone and volume.index.get(note_key(Type.MEMBERS)) is None
            if volume.is_other or not (alone or catalog.generation()):
                catalog.reset()
            if alone:
                fill_catalog(catalog, volume, holder=_HOLDER)
            store = LocalStore(
                directory,
                volume,
                catalog,
                disk=disk,
                clock=clock,
                options=options,
                token=token,
                alone=alone,
            )
            undo.push_async_callback(store.stop)
            await store.start()
        except OSError as error:
            raise cannot_open(directory, error) from error
        except OutcomeUnknown as error:
            raise OpenError(f"{directory} cannot be opened: {error}") from error
        undo.pop_all()
    return store


def fill_catalog(catalog: Catalog, volume: Volume, *, holder: int) -> None:
    """Bring a catalog to the head of a volume's log: from its cursor, or from nothing.

    Where this raises, `catalog.filling` stays: nothing may be read of it.
    """
    catalog.filling = True
    cursor = catalog.cursor(holder)
    try:
        while True:
            logged, cursor = volume.follow(cursor, limit=BATCH_RECORDS_MAX)
            if not logged:
                break
            catalog.apply([_change(one) for one in logged if _is_keyed(one)], holder, cursor)
    except HistoryTrimmed:
        try:
            _load_catalog(catalog, volume, holder)
        except BadRows:  # an index that is damaged is made anew, too
            volume.rebuild_index()
            _load_catalog(catalog, volume, holder)
        cursor = volume.index.cursor()
    catalog.apply([], holder, cursor)
    catalog.filling = False


def _load_catalog(catalog: Catalog, volume: Volume, holder: int) -> None:
    """Fill a catalog from the index."""
    catalog.reset()
    after = b""
    while True:
        keys, entries = volume.index.columns(after, LOAD_ROWS_MAX)
        if not keys:
            return
        after = keys[-1]
        users = len(keys)
        while users and keys[users - 1][0] >= FIRST_NOTE_BYTE:
            users -= 1
        catalog.load(keys[:users], entries[:users], holder)


def _is_keyed(logged: Logged) -> bool:
    return logged.position.type in KEYED


def _change(logged: Logged) -> Change:
    record, position = logged.record, logged.position
    if record is None:
        return change_of(logged.key, position)
    small = record.type == Type.PUT and len(record.value) <= INLINE_BYTES_MAX
    said = decode_meta(record.meta)
    return Change(
        key=record.key,
        type=record.type,
        version=record.version,
        size=position.size,
        created_ms=record.created_ms,
        expires_s=record.expires_s,
        content_type=said.content_type,
        inline=record.value if small else None,
        replicas=said.replicas,
    )


class LocalStore:
    """Implements `entry.Store` over one local volume. `alone`: it is not handed over at once."""

    direct_bytes_max = SEGMENT_VALUE_BYTES_MAX

    def __init__(
        self,
        directory: str,
        volume: Volume,
        catalog: Catalog,
        *,
        disk: Disk,
        clock: Clock,
        options: StoreOptions,
        token: Callable[[int], bytes],
        alone: bool,
    ) -> None:
        self.alone = alone
        self._volume = volume
        self.catalog = catalog
        self._clock = clock
        self.serving = ServingVolume(
            directory,
            volume,
            disk=disk,
            clock=clock,
            options=options,
            token=token,
            take_superseded=self._take_superseded,
            follow=self._follow if alone else None,
            purged=catalog.drop_deletes if alone else None,
        )
        self._committer = self.serving.committer
        self._reader = self.serving.reader
        self._closing = False
        self._epoch = volume.promised_epoch() + 1
        self._writer = Writer(
            catalog, self._committer, clock=clock, epoch=self._epoch, room=self.serving.room
        )
        self._expiry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Promise the epoch, before its first version is used; start the work beside requests."""
        now_ms = self._clock.now_ms()
        version = make_version(self._epoch, 0)
        await self._committer.write(Record(type=Type.EPOCH, version=version, created_ms=now_ms))
        await self.serving.start()
        if self.alone:
            self.catalog.start_feed(version)
            self._expiry = asyncio.create_task(expire(self.catalog, self._writer, self._clock))

    async def hand_over(self) -> None:
        """End every write; from now on volume and catalog are somebody else's. The caller sees to
        it that no other write begins."""
        await self._end_expiry()
        while self._writer.turns.busy:
            await self._committer.write(Record(type=Type.CHECKPOINT))

    async def failure(self) -> str:
        """Waits until the store cannot go on, and says why: then the process must end."""
        return await self.serving.failure()

    @property
    def feed(self) -> Feed:
        """See `watching.Watchable`."""
        return self.catalog.feed

    @property
    def history(self) -> History:
        """See `watching.Watchable`."""
        return self.catalog

    # Reading.

    def lookup(self, key: bytes) -> Entry | None:
        """See `entry.Store`."""
        try:
            return self.catalog.get(key)
        except ViewBroken as error:
            self._heal(error)
            return self.catalog.get(key)

    async def confirm(self, key: bytes, entry: Entry) -> Entry | None:
        """See `entry.Store`."""
        if not is_expired(entry.expires_s, self._clock.now_ms()):
            return entry
        await self._writer.expire(key, entry.version)
        return None

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """See `entry.Store`."""
        if entry.complete:
            return entry
        whole = await self._reader.complete(key, entry)
        with contextlib.suppress(OutOfSpace):  # then the record is read again the next time
            self.catalog.refill(key, whole)
        return whole

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """See `entry.Store`."""
        return await self._reader.value(key, entry)

    def chunks(self, key: bytes, entry: Entry, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See `entry.Store`."""
        return self._reader.chunks(key, entry, start=start, end=end)

    def list_keys(
        self, prefix: bytes, *, after: bytes | None, limit: int, delimiter: bytes | None
    ) -> Listing:
        """See `entry.Store`."""
        now_s = self._clock.now_ms() // 1000
        page = partial(
            self.catalog.list_keys,
            prefix,
            after=after,
            limit=limit,
            delimiter=delimiter,
            now_s=now_s,
        )
        try:
            return page()
        except ViewBroken as error:
            self._heal(error)
            return page()

    # Writing.

    async def put(self, put: Put) -> Written:
        """See `entry.Store`."""
        try:
            return await self._writer.put(put)
        except ViewBroken as error:  # nothing was decided yet
            self._heal(error)
            return await self._writer.put(put)

    async def delete(self, delete: Delete) -> Written:
        """See `entry.Store`."""
        try:
            return await self._writer.delete(delete)
        except ViewBroken as error:  # nothing was decided yet
            self._heal(error)
            return await self._writer.delete(delete)

    def elsewhere(self, _entry: Entry) -> None:
        """See `entry.Store`: everything is here."""

    def upload_elsewhere(self, _size: int, _replicas: int) -> None:
        """See `entry.Store`: everything comes here."""

    async def upload(self, *, size: int = 0, replicas: int = 0) -> Upload:
        """See `entry.Store`."""
        return await self.serving.upload(size=size)

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """See `entry.Store`."""
        if not isinstance(upload, BlobUpload) or upload.blob is None:
            raise Unavailable("the upload is not finished")
        try:
            return await self._writer.put(put, upload.blob)
        except OutcomeUnknown:
            raise  # the record may name the file: it must stay
        except PulzarError:
            await upload.abort()
            raise

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        """See `entry.Store`."""
        return await run_batch(self, self._writer.many, operations)

    # Looking after itself.

    def status(self) -> Status:
        """See `entry.Store`."""
        return self.catalog.status()

    def not_ready(self) -> str | None:
        """See `entry.Store`."""
        if self._closing:
            return "the server is stopping"
        if self._volume.log.failed is not None:
            return f"the volume takes no more writes: {self._volume.log.failed}"
        return None

    def statistics(self) -> dict[str, float]:
        """See `entry.Store`."""
        writer = self._writer
        return {
            "keys": self.catalog.status().entries,
            "puts_total": writer.puts_total,
            "deletes_total": writer.deletes_total,
            "expired_total": writer.expired_total,
            **self.serving.statistics(),
        }

    async def compact(self) -> dict[str, int]:
        """See `entry.Store`."""
        return await self.serving.compact()

    async def close(self) -> None:
        """See `entry.Store`."""
        await self.stop()
        try:
            self.serving.close()
            if self.alone and self._volume.log.failed is None:  # else it may lack what the log has
                self.catalog.apply([], _HOLDER, self._volume.log.cursor())
        except PulzarError:
            self.catalog.close(clean=False)
            raise
        self.catalog.close(clean=self._volume.log.failed is None)

    async def stop(self) -> None:
        """End what runs beside requests, after the writes under way."""
        self._closing = True
        await self._end_expiry()
        await self.serving.stop()

    async def _end_expiry(self) -> None:
        expiry, self._expiry = self._expiry, None
        if expiry is not None:
            expiry.cancel()
            await asyncio.wait([expiry])

    def _follow(self, changes: list[Newest], cursor: Cursor) -> None:
        places = repeat(((_HOLDER, cursor.seq << 1),))
        self.catalog.append(changes, places, ((_HOLDER, cursor),))

    def _take_superseded(self) -> int:
        return self._writer.take_superseded()

    def _heal(self, error: Exception) -> None:
        """A view is damaged: throw it away and rebuild it from the log, here and now."""
        _log.error("the catalog is damaged and is rebuilt from the log: %s", error)
        feed = self.catalog.feed
        feed.pause()
        self.catalog.reset()
        fill_catalog(self.catalog, self._volume, holder=_HOLDER)
        self.catalog.start_feed(feed.last.version)


class Rebuilt(msgspec.Struct, frozen=True):
    """What a rebuild made: live keys, all index entries, damaged places found on the way."""

    keys: int
    index_entries: int
    damaged: int


def rebuild(directory: str, *, disk: Disk, clock: Clock) -> Rebuilt:
    """Make the views of the store in `directory` anew from its log, while its server is down.

    Raises OpenError.
    """
    views = views_of(directory)
    volume = Volume.open(
        f"{directory}/volume",
        disk=disk,
        open_index=lambda volume_id: _emptied(Index.open(views, identity=volume_id)),
        token=os.urandom,
        now_ms=clock.now_ms(),
    )
    catalog = Catalog.open(f"{directory}/catalog.views", identity=volume.id)
    catalog.reset()
    fill_catalog(catalog, volume, holder=_HOLDER)
    entries = volume.index.count()
    unsure = volume.index.get(UNSURE_KEY) is not None
    volume.close(now_ms=clock.now_ms())
    catalog.apply([], _HOLDER, volume.log.cursor())
    rebuilt = Rebuilt(catalog.status().entries, entries, max(len(volume.damaged), int(unsure)))
    catalog.close(clean=True)
    return rebuilt


def _emptied(index: Index) -> Index:
    index.reset()
    return index
