"""The writer: conditions, versions and turns; then the record goes to the committer.

For one key at a time, in the order of arrival: look up, evaluate the condition, take the next
version, submit, wait until it is durable and visible, answer. So reads and writes of one key are
linearizable: what a reader can see is durable, and a write is decided on what a reader can see.

The turn of a key is given on by the committer, not by the request: a client that goes away does
not let the next one in before the disk is done.

A version is epoch << 40 | counter. The epoch was promised, synced, before its first version is
used; order is by version only, never by a clock.
"""

import asyncio
from collections.abc import Sequence

from pulzar.clock import Clock
from pulzar.errors import ConditionFailed, KeyNotFound, PulzarError
from pulzar.limits import COUNTER_BITS, INLINE_BYTES_MAX
from pulzar.varidb.blob import Blob, encode_blob
from pulzar.varidb.catalog import Catalog, Change
from pulzar.varidb.commit import Committer, Write
from pulzar.varidb.condition import Condition
from pulzar.varidb.disk_room import DiskRoom
from pulzar.varidb.entry import Delete, Entry, Put, Written
from pulzar.varidb.record import Record, Type, encode_meta, epoch_of, make_version
from pulzar.varidb.turns import Turns

_COUNTER_MASK = (1 << COUNTER_BITS) - 1


def is_expired(expires_s: int, now_ms: int) -> bool:
    """Whether something that expires at `expires_s` (0: never) is gone at `now_ms`."""
    return expires_s != 0 and expires_s * 1000 <= now_ms


class Writer:
    """Writes of one master. One event loop."""

    def __init__(
        self,
        catalog: Catalog,
        committer: Committer,
        *,
        clock: Clock,
        epoch: int,
        room: DiskRoom,
    ) -> None:
        """`epoch` was promised, durably, and never used before."""
        self._catalog = catalog
        self._committer = committer
        self._clock = clock
        self._turns = Turns()
        self._version = make_version(epoch, 0)
        self._room = room
        self.puts_total = 0
        self.deletes_total = 0
        self.expired_total = 0
        self.superseded_bytes = 0

    async def put(self, put: Put, blob: Blob | None = None) -> Written:
        """Write a value, or the name of a finished blob. See `Store.put`."""
        if not self._turns.try_take(put.key):
            await self._turns.take(put.key)
        record, change, written = self._decide(put, blob)
        await self._submit(record, change)
        return written

    async def delete(self, delete: Delete) -> Written:
        """Delete a key. See `Store.delete`."""
        if not self._turns.try_take(delete.key):
            await self._turns.take(delete.key)
        record, change, written = self._decide(delete, None)
        await self._submit(record, change)
        if written.created:
            raise KeyNotFound("there is no such key: it had expired")
        return written

    async def expire(self, key: bytes, version: int) -> None:
        """Delete a key that has expired, if it is still at `version`."""
        await self._turns.take(key)
        entry = self._catalog.get(key)
        if entry is None or entry.version != version:
            self._turns.give(key)
            return
        self.expired_total += 1
        self.superseded_bytes += entry.size
        record, change = self._delete_record(key, entry)
        await self._submit(record, change)

    async def many(self, operations: Sequence[Put | Delete]) -> list[Written | PulzarError]:
        """Writes in this order, as one wave to the disk. Errors are results."""
        results: list[Written | PulzarError] = []
        begun: list[tuple[int, Write]] = []
        wave: list[Write] = []
        for operation in operations:
            if not self._turns.try_take(operation.key):
                # Never wait for a turn with turns in hand that the disk does not know of.
                self._submit_wave(wave)
                wave = []
                await self._turns.take(operation.key)
            try:
                record, change, written = self._decide(operation, None)
            except PulzarError as error:
                results.append(error)
                continue
            write = Write(record, change, None, self._turns)
            begun.append((len(results), write))
            wave.append(write)
            expired = isinstance(operation, Delete) and written.created
            results.append(KeyNotFound("there is no such key") if expired else written)
        self._submit_wave(wave)
        if begun and not begun[-1][1].finished:
            # Writes end in the order in which they were submitted.
            last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            begun[-1][1].done = last
            await asyncio.wait([last])
            last.exception()
        for number, write in begun:
            if write.error is not None:
                results[number] = write.error
        return results

    def _submit_wave(self, wave: Sequence[Write]) -> None:
        try:
            self._committer.submit_many(wave)
        except PulzarError as error:
            for write in wave:
                write.finish(error)

    async def _submit(self, record: Record, change: Change) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit_wave([Write(record, change, done, self._turns)])
        await done

    def _decide(self, operation: Put | Delete, blob: Blob | None) -> tuple[Record, Change, Written]:
        """What to write. The caller has the turn; it is given on where this raises."""
        try:
            entry = self._catalog.get(operation.key)
            expired = entry is not None and is_expired(entry.expires_s, self._clock.now_ms())
            version = None if entry is None or expired else entry.version
            condition = operation.condition
            if condition is not None and not condition.holds(version):
                raise _failed_condition(condition, version)
            if isinstance(operation, Put):
                record, change = self._put_record(operation, blob, entry)
                self.puts_total += 1
            elif entry is None:
                raise KeyNotFound("there is no such key")
            else:
                record, change = self._delete_record(operation.key, entry)
                self.deletes_total += 1
        except BaseException:  # the turn must go on, whatever it was
            self._turns.give(operation.key)
            raise
        if entry is not None:
            self.superseded_bytes += entry.size
        return record, change, _written(record, change, created=version is None)

    def _put_record(
        self, put: Put, blob: Blob | None, entry: Entry | None
    ) -> tuple[Record, Change]:
        self._room.take(len(put.value))
        value = put.value if blob is None else encode_blob(blob)
        size = len(put.value) if blob is None else blob.size
        record = Record(
            type=Type.PUT if blob is None else Type.BLOB,
            key=put.key,
            value=value,
            meta=encode_meta(put.content_type),
            version=self._next_version(),
            created_ms=self._clock.now_ms(),
            expires_s=put.expires_s,
        )
        inline = value if blob is None and size <= INLINE_BYTES_MAX else None
        return record, _change(record, size, put.content_type, inline, entry)

    def _delete_record(self, key: bytes, entry: Entry) -> tuple[Record, Change]:
        record = Record(
            type=Type.DELETE,
            key=key,
            version=self._next_version(),
            created_ms=self._clock.now_ms(),
        )
        return record, _change(record, 0, "", None, entry)

    def _next_version(self) -> int:
        if self._version & _COUNTER_MASK == _COUNTER_MASK:
            self._version = make_version(epoch_of(self._version) + 1, 0)
            # In front of its first use in the log, so durable before that is acknowledged.
            promise = Record(type=Type.EPOCH, version=self._version)
            self._committer.submit_many([Write(promise, None, None, None)])
        self._version += 1
        return self._version


def _failed_condition(condition: Condition, version: int | None) -> ConditionFailed:
    if version is None:
        return ConditionFailed("If-Match names a version, but there is no such key")
    if not condition.none_match_holds(version) and condition.none_match_any:
        return ConditionFailed(f'the key exists already, at version "{version:016x}"')
    return ConditionFailed(f'the key is at version "{version:016x}"')


def _change(
    record: Record,
    size: int,
    content_type: str,
    inline: bytes | None,
    entry: Entry | None,
) -> Change:
    """For the catalog. `entry` is what it has of the key: the turn keeps that so until then."""
    return Change(
        record.key,
        record.type,
        record.version,
        size,
        record.created_ms,
        record.expires_s,
        content_type,
        inline,
        newest=True,
        replaces=entry,
    )


def _written(record: Record, change: Change, *, created: bool) -> Written:
    return Written(
        version=record.version,
        size=change.size,
        expires_s=record.expires_s,
        copies=1,
        wanted=1,
        created=created,
    )
