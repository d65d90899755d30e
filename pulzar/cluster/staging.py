"""Bytes of a large value that are on their way to a volume, or there without a key yet.

    upload begins -> pieces, to the disk and to the other volumes at once -> finish: durable
                  -> an append names the upload: now it has a key
                  -> or nobody does for STAGED_S: the bytes are thrown away

A value that fits a record is held in memory, a larger one is a blob. What is here when the process
dies is swept by the next opening.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from pulzar.cluster.messages import Staged
from pulzar.errors import InvalidParameter, PulzarError, Unavailable
from pulzar.limits import SEGMENT_VALUE_BYTES_MAX, STAGED_MAX, STAGED_S
from pulzar.varidb.blob import Blob
from pulzar.varidb.entry import Upload
from pulzar.varidb.serving import ServingVolume
from pulzar.varidb.upload import BlobUpload


class _MemoryUpload:
    """A small value."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0
        self.value = b""

    async def write(self, chunk: bytes) -> None:
        self._pieces.append(chunk)
        self.size += len(chunk)

    async def finish(self) -> None:
        self.value = b"".join(self._pieces)

    async def abort(self) -> None:
        self._pieces.clear()


class PeerUpload:
    """The same bytes on their way to another volume. `failed` once it cannot have them."""

    def __init__(self, volume: str, upload: Upload) -> None:
        self.volume = volume
        self.failed = False
        self._upload = upload

    async def write(self, chunk: bytes) -> None:
        """Send bytes on, unless that failed before."""
        if not self.failed:
            try:
                await self._upload.write(chunk)
            except PulzarError:
                await self.abort()

    async def finish(self) -> None:
        """Wait until they are durable there."""
        if not self.failed:
            try:
                await self._upload.finish()
            except PulzarError:
                await self.abort()

    async def abort(self) -> None:
        """Give it up."""
        self.failed = True
        with contextlib.suppress(PulzarError):
            await self._upload.abort()


class StagedUpload:
    """Implements `entry.Upload`: bytes to this volume and to its peers. Nothing is held: a piece
    is taken when all of them can take more."""

    def __init__(
        self,
        upload: str,
        own: BlobUpload | _MemoryUpload,
        peers: Sequence[PeerUpload],
        *,
        volume: str,
        keep: Callable[["StagedUpload"], None],
    ) -> None:
        self.upload = upload
        self.own = own
        self.size = 0
        self.staged: Staged | None = None
        self._peers = peers
        self._volume = volume
        self._keep = keep

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises OutOfSpace, Unavailable, ValueTooLarge."""
        self.size += len(chunk)
        await asyncio.gather(self.own.write(chunk), *(peer.write(chunk) for peer in self._peers))

    async def finish(self) -> None:
        """Make them durable here, and on every peer that did not fail."""
        await asyncio.gather(self.own.finish(), *(peer.finish() for peer in self._peers))
        volumes = [self._volume, *(peer.volume for peer in self._peers if not peer.failed)]
        self.staged = Staged(self.upload, self.size, volumes)
        self._keep(self)

    async def abort(self) -> None:
        """Throw the bytes away, everywhere."""
        await asyncio.gather(self.own.abort(), *(peer.abort() for peer in self._peers))


class Staging:
    """The uploads of one volume. One event loop."""

    def __init__(self, serving: ServingVolume, *, volume: str) -> None:
        self._serving = serving
        self._volume = volume
        self._staged: dict[str, tuple[StagedUpload, asyncio.TimerHandle]] = {}
        self._aborting: set[asyncio.Task[None]] = set()

    async def begin(self, upload: str, *, size: int, peers: Sequence[PeerUpload]) -> StagedUpload:
        """Begin an upload; `size` is -1 where it is not known. Raises OutOfSpace, Unavailable."""
        if len(self._staged) >= STAGED_MAX:
            raise Unavailable(f"more than {STAGED_MAX} uploads wait for their keys: try again")
        own: BlobUpload | _MemoryUpload
        if 0 <= size <= SEGMENT_VALUE_BYTES_MAX:
            self._serving.room.require(size)
            own = _MemoryUpload()
        else:
            own = await self._serving.upload(size=max(size, 0))
        return StagedUpload(upload, own, peers, volume=self._volume, keep=self._keep)

    def take(self, upload: str) -> bytes | Blob:
        """What was staged, which is the caller's from now on. Raises InvalidParameter."""
        staged, timer = self._staged.pop(upload, (None, None))
        if staged is None or timer is None:
            raise InvalidParameter(f"there is no upload {upload} here")
        timer.cancel()
        own = staged.own
        if isinstance(own, _MemoryUpload):
            return own.value
        assert own.blob is not None
        return own.blob

    def _keep(self, upload: StagedUpload) -> None:
        timer = asyncio.get_running_loop().call_later(STAGED_S, self._expire, upload.upload)
        self._staged[upload.upload] = (upload, timer)

    def _expire(self, upload: str) -> None:
        staged, _ = self._staged.pop(upload)
        task = asyncio.ensure_future(staged.own.abort())
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    def close(self) -> None:
        """Forget them; the next opening sweeps what they left."""
        for _, timer in self._staged.values():
            timer.cancel()
        self._staged.clear()
