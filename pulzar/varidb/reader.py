"""The reader: from an entry of the catalog to the value's bytes, every one of them checked.

The catalog names a version; the record that the index has must be of that version, or the answer
is Damage (503), never an older value. A record is read from the page cache on the event loop where
it is there, else in a thread. Compaction may move a record between look-up and read: then the
file is gone, and the index is asked again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TypeVar

import msgspec

from pulzar.disk import File
from pulzar.errors import Damage, Unavailable
from pulzar.limits import INLINE_BYTES_MAX
from pulzar.varidb.blob import Blob, check_chunk, chunk_range, decode_blob
from pulzar.varidb.entry import Entry
from pulzar.varidb.record import Record, Type, decode_meta
from pulzar.varidb.volume import Volume

T = TypeVar("T")
_TRIES = 3


class Reader:
    """Reads of one local volume. One event loop; `executor` has the threads that wait for disks."""

    def __init__(self, volume: Volume, executor: Executor) -> None:
        self._volume = volume
        self._executor = executor
        self.damaged_total = 0

    async def record(self, key: bytes, version: int) -> Record:
        """The record of a key at a version. Raises Damage, Unavailable."""
        for _ in range(_TRIES):
            position = self._volume.index.get(key)
            if position is None or position.version != version:
                break
            try:
                record = self._volume.records.read_cached(key, position)
                if record is None:
                    record = await self._in_thread(self._volume.records.read, key, position)
            except FileNotFoundError:
                continue
            except Damage:
                self.damaged_total += 1
                raise
            except OSError as error:
                raise _unreadable(error) from None
            return record
        self.damaged_total += 1
        raise Damage(f'version "{version:016x}" of this key is not on any volume that is online')

    async def value(self, key: bytes, entry: Entry) -> bytes:
        """A value that is not a blob."""
        if entry.inline is not None:
            return entry.inline
        return (await self.record(key, entry.version)).value

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """The entry with content type and inline value."""
        record = await self.record(key, entry.version)
        return completed(entry, record.type, record.meta, record.value)

    async def chunks(
        self, key: bytes, entry: Entry, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """Bytes start..end of a blob. One chunk is read ahead of the one being sent."""
        blob = decode_blob((await self.record(key, entry.version)).value)
        numbers = range(start // blob.chunk_bytes, -(-end // blob.chunk_bytes))
        try:
            file = await self._in_thread(self._volume.open_blob, blob)
        except OSError as error:
            raise _unreadable(error) from None
        ahead: asyncio.Future[bytes] | None = None
        try:
            for number in numbers:
                chunk = await (ahead or self._chunk(file, blob, number))
                ahead = self._chunk(file, blob, number + 1) if number + 1 in numbers else None
                offset, length = chunk_range(blob, number)
                low, high = max(start - offset, 0), min(end - offset, length)
                yield chunk if (low, high) == (0, length) else chunk[low:high]
        except Damage:
            self.damaged_total += 1
            raise
        except OSError as error:
            raise _unreadable(error) from None
        finally:
            if ahead is not None:
                await asyncio.wait([ahead])
                ahead.exception()
            file.close()

    def _chunk(self, file: File, blob: Blob, number: int) -> "asyncio.Future[bytes]":
        return asyncio.get_running_loop().run_in_executor(
            self._executor, _read_chunk, file, blob, number
        )

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: work(*arguments))


def completed(entry: Entry, type_: int, meta: bytes, value: bytes) -> Entry:
    """An entry with what only its record says."""
    small = type_ == Type.PUT and len(value) <= INLINE_BYTES_MAX
    said = decode_meta(meta)
    return msgspec.structs.replace(
        entry,
        content_type=said.content_type,
        inline=value if small else None,
        complete=True,
        replicas=said.replicas,
    )


def _read_chunk(file: File, blob: Blob, number: int) -> bytes:
    offset, length = chunk_range(blob, number)
    chunk = file.read(length, offset=offset)
    check_chunk(blob, number, chunk)
    return chunk


def _unreadable(error: OSError) -> Unavailable:
    return Unavailable(f"the disk could not be read: {error}")
