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
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pulzar.clock import Clock
from pulzar.errors import ConditionFailed, KeyNotFound, PulzarError
from pulzar.limits import COUNTER_BITS, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.blob import Blob, encode_blob
from pulzar.varidb.catalog import Catalog, Newest
from pulzar.varidb.commit import Write
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Entry, Put, Uploaded, Written
from pulzar.varidb.record import Record, Type, encode_meta, epoch_of, make_version
from pulzar.varidb.turns import Turns

_COUNTER_MASK = (1 << COUNTER_BITS) - 1


def is_expired(expires_s: int, now_ms: int) -> bool:
    """Whether something that expires at `expires_s` (0: never) is gone at `now_ms`."""
    return expires_s != 0 and expires_s * 1000 <= now_ms


class Sink(Protocol):
    """Makes records durable: the committer of one volume, or what reaches many."""

    def submit_many(self, writes: Sequence[Write]) -> None:
        """Take records; each one's `finish` is called. Raises WritesStopped: none was taken."""


class Room(Protocol):
    """How much may still be stored."""

    def take(self, size: int) -> None:
        """Count `size` bytes that will be written. Raises OutOfSpace, Unavailable."""


class Writer:
    """Writes of one master. One event loop. `sink` and `room` may be replaced by others.
    `keep_epoch` makes an epoch durable that is begun when the one before is used up, where the log
    that `sink` writes is not enough to remember it."""

    def __init__(
        self,
        catalog: Catalog,
        sink: Sink,
        *,
        clock: Clock,
        epoch: int,
        room: Room,
    ) -> None:
        """`epoch` was promised, durably, and never used before."""
        self._catalog = catalog
        self.sink = sink
        self._clock = clock
        self.turns = Turns()
        self._version = make_version(epoch, 0)
        self.keep_epoch: Callable[[int], None] | None = None
        self.room = room
        self.puts_total = 0
        self.deletes_total = 0
        self.expired_total = 0
        self._superseded_bytes = 0

    def take_superseded(self) -> int:
        """How many bytes were superseded since the last call."""
        taken, self._superseded_bytes = self._superseded_bytes, 0
        return taken

    def begin_epoch(self, epoch: int) -> None:
        """Go on with the versions of an epoch that was promised, and is larger."""
        self._version = max(self._version, make_version(epoch, 0))

    @property
    def epoch(self) -> int:
        """The epoch of the next version."""
        return epoch_of(self._version)

    async def put(self, put: Put, blob: Blob | Uploaded | None = None) -> Written:
        """Write a value, or the name of a finished blob. See `Store.put`."""
        if not self.turns.try_take(put.key):
            await self.turns.take(put.key)
        change, outcome = self._decide(put, blob)
        is_put = change.record.type != Type.DELETE
        write = await self._submit(change, blob if is_put and isinstance(blob, Uploaded) else None)
        return _told(outcome, write)

    async def delete(self, delete: Delete) -> Written:
        """Delete a key. See `Store.delete`."""
        if not self.turns.try_take(delete.key):
            await self.turns.take(delete.key)
        change, outcome = self._decide(delete, None)
        return _told(outcome, await self._submit(change))

    async def expire(self, key: bytes, version: int) -> None:
        """Delete a key that has expired, if it is still at `version`."""
        await self.turns.take(key)
        try:
            entry = self._catalog.get(key)
            if entry is None or entry.version != version:
                self.turns.give(key)
                return
            change = self._delete(key, entry, self._clock.now_ms())
        except BaseException:  # the turn must go on, whatever it was
            self.turns.give(key)
            raise
        self.expired_total += 1
        self._superseded_bytes += entry.size
        await self._submit(change)

    async def many(self, operations: Sequence[Put | Delete]) -> list[Written | PulzarError]:
        """Writes in this order, as few waves to the disk as possible. Errors are results."""
        results: list[Written | PulzarError] = []
        begun: list[tuple[int, Write]] = []
        wave: list[Put | Delete] = []
        for operation in operations:
            if not self.turns.try_take(operation.key):
                # Never wait for a turn with turns in hand that the disk does not know of.
                self._begin(wave, results, begun)
                wave = []
                try:
                    await self.turns.take(operation.key)
                except PulzarError as error:
                    results.append(error)
                    continue
            wave.append(operation)
        self._begin(wave, results, begun)
        # Writes that were taken end in the order in which they were submitted.
        last = next((write for _, write in reversed(begun) if not write.finished), None)
        if last is not None:
            last.done = asyncio.get_running_loop().create_future()
            await asyncio.wait([last.done])
            last.done.exception()
        for number, write in begun:
            done = results[number]
            if write.error is not None:
                results[number] = write.error
            elif isinstance(done, Written):
                results[number] = _told(done, write)
        return results

    def _begin(
        self,
        wave: Sequence[Put | Delete],
        results: list[Written | PulzarError],
        begun: list[tuple[int, Write]],
    ) -> None:
        """Decide and submit operations whose turns were taken; a result for each."""
        writes: list[Write] = []
        try:
            entries = self._catalog.get_many([operation.key for operation in wave])
        except PulzarError as error:  # the turns must go on, and what was begun has results
            for operation in wave:
                self.turns.give(operation.key)
                results.append(error)
            return
        for operation, entry in zip(wave, entries, strict=True):
            try:
                change, outcome = self._decide_on(operation, None, entry)
            except PulzarError as error:
                results.append(error)
                continue
            write = Write(change.record, change, None, self.turns)
            write.wanted = change.replicas or 1
            begun.append((len(results), write))
            writes.append(write)
            results.append(outcome)
        self._submit_all(writes)

    def _submit_all(self, writes: Sequence[Write]) -> None:
        try:
            self.sink.submit_many(writes)
        except PulzarError as error:
            for write in writes:
                write.finish(error)

    async def _submit(self, change: Newest, uploaded: Uploaded | None = None) -> Write:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        write = Write(change.record, change, done, self.turns, uploaded)
        write.wanted = change.replicas or 1
        self._submit_all([write])
        await done
        return write

    def _decide(
        self, operation: Put | Delete, blob: Blob | Uploaded | None
    ) -> tuple[Newest, Written | PulzarError]:
        """As `_decide_on`, looking the key up first."""
        try:
            entry = self._catalog.get(operation.key)
        except BaseException:  # the turn must go on, whatever it was
            self.turns.give(operation.key)
            raise
        return self._decide_on(operation, blob, entry)

    def _decide_on(
        self, operation: Put | Delete, blob: Blob | Uploaded | None, entry: Entry | None
    ) -> tuple[Newest, Written | PulzarError]:
        """What to write, and what to answer then. The caller has the turn; it is given on where
        this raises.

        `entry` is what the catalog has of the key: the turn keeps that so. Where it has expired,
        and is not replaced, its DELETE is written before the client is told that nothing is there:
        a clock that is set back must not bring it back.
        """
        try:
            now_ms = self._clock.now_ms()
            is_gone = entry is not None and is_expired(entry.expires_s, now_ms)
            version = None if entry is None or is_gone else entry.version
            refusal = _refusal(operation, version)
            if refusal is None and isinstance(operation, Put):
                change = self._put(operation, blob, entry, now_ms)
                self.puts_total += 1
            elif entry is None or (refusal is not None and not is_gone):
                raise refusal or KeyNotFound("there is no such key")
            else:
                change = self._delete(operation.key, entry, now_ms)
                self.deletes_total += not is_gone
                self.expired_total += is_gone
        except BaseException:  # the turn must go on, whatever it was
            self.turns.give(operation.key)
            raise
        if entry is not None:
            self._superseded_bytes += entry.size
        record = change.record
        created = version is None
        written = Written(record.version, change.size, record.expires_s, 1, 1, created)
        return change, refusal or written

    def _put(
        self, put: Put, blob: Blob | Uploaded | None, entry: Entry | None, now_ms: int
    ) -> Newest:
        value = put.value
        size = len(value)
        self.room.take(size)
        type_ = Type.PUT
        if isinstance(blob, Blob):
            type_, value, size = Type.BLOB, encode_blob(blob), blob.size
        elif blob is not None:
            size = blob.size
            type_ = Type.BLOB if size > SEGMENT_VALUE_BYTES_MAX else Type.PUT
        record = Record(
            type=type_,
            key=put.key,
            value=value,
            meta=encode_meta(put.content_type, put.replicas),
            version=self._next_version(),
            created_ms=now_ms,
            expires_s=put.expires_s,
            flags=put.replicas,
        )
        return Newest(record, size, put.content_type, entry, put.replicas)

    def _delete(self, key: bytes, entry: Entry, now_ms: int) -> Newest:
        version = self._next_version()
        record = Record(type=Type.DELETE, key=key, version=version, created_ms=now_ms)
        return Newest(record, 0, "", entry)

    def _next_version(self) -> int:
        if self._version & _COUNTER_MASK == _COUNTER_MASK:
            epoch = epoch_of(self._version) + 1
            if self.keep_epoch is not None:
                self.keep_epoch(epoch)
            version = make_version(epoch, 0)
            # In front of its first use in the log, so durable before that is acknowledged.
            promise = Record(type=Type.EPOCH, version=version)
            self.sink.submit_many([Write(promise, None, None, None)])
            self._version = version
        self._version += 1
        return self._version


def _told(outcome: Written | PulzarError, write: Write) -> Written:
    """What a write did, with the copies that it has. Raises the outcome that is an error."""
    if isinstance(outcome, PulzarError):
        raise outcome
    if write.copies == outcome.copies and write.wanted == outcome.wanted:
        return outcome
    return msgspec.structs.replace(outcome, copies=write.copies, wanted=write.wanted)


def _refusal(operation: Put | Delete, version: int | None) -> PulzarError | None:
    """Why an operation on a key at that version, None for no key, is not done; None where it is."""
    condition = operation.condition
    if condition is not None and not condition.holds(version):
        return _failed_condition(condition, version)
    if isinstance(operation, Delete) and version is None:
        return KeyNotFound("there is no such key")
    return None


def _failed_condition(condition: Condition, version: int | None) -> ConditionFailed:
    if version is None:
        return ConditionFailed("If-Match names a version, but there is no such key")
    if not condition.none_match_holds(version) and condition.none_match_any:
        return ConditionFailed(f'the key exists already, at version "{version:016x}"')
    return ConditionFailed(f'the key is at version "{version:016x}"')
