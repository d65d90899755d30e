"""A large value on its way into a blob: bytes in from the event loop, out to the disk in a thread.

One piece is being written while the next one gathers; `write` waits for the one before, so a fast
sender is held back and memory stays at two pieces.
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from pulzar.errors import OutOfSpace, PulzarError, Unavailable
from pulzar.limits import UPLOAD_PIECE_BYTES
from pulzar.varidb.blob import Blob, BlobWriter
from pulzar.varidb.disk_room import DiskRoom

T = TypeVar("T")


class BlobUpload:
    """Implements `entry.Upload` over a local volume."""

    def __init__(self, writer: BlobWriter, executor: Executor, *, room: DiskRoom) -> None:
        self._writer = writer
        self._executor = executor
        self._room = room
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self.size = 0
        self.blob: Blob | None = None

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises OutOfSpace, Unavailable, ValueTooLarge."""
        self._gathered.append(chunk)
        self._gathered_bytes += len(chunk)
        self.size += len(chunk)
        if self._gathered_bytes >= UPLOAD_PIECE_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Make the bytes durable, under a name that nothing refers to yet."""
        await self._flush()
        await self._written()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._executor, self._finish)
        await self._written()

    def _finish(self) -> None:
        self.blob = self._writer.finish()

    async def abort(self) -> None:
        """Throw the bytes away."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()
            self._writing = None
        await self._in_thread(self._writer.abort)

    async def _flush(self) -> None:
        await self._written()
        self._room.take(self._gathered_bytes)
        piece = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._executor, self._writer.write, piece)

    async def _written(self) -> None:
        """Wait for the piece that is being written."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            # Not cancelled with the request: the thread uses the file until it is done.
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._writing = writing
            raise
        except OSError as error:
            raise _disk_error(error) from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _disk_error(error: OSError) -> PulzarError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace("the disk is full: delete something, or add room")
    return Unavailable(f"the disk could not be written: {error}")
