"""What a master needs of a volume, over the network or in the same process.

Implemented by `served.ServedVolume` (the volume itself) and `remote.RemoteVolume` (HTTP). Every
method raises only PulzarError: LinkBroken where it is not known whether the volume did what it was
asked, every other one where it is known that it did not.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from pulzar.cluster.messages import (
    Append,
    Appended,
    Compacted,
    DigestPage,
    Fetch,
    Fetched,
    LogPage,
    Presence,
    Pull,
    SessionOpened,
    SessionWanted,
    SnapshotPage,
    Staged,
)
from pulzar.varidb.entry import Upload
from pulzar.varidb.position import Cursor


class Link(Protocol):
    """One volume, as its master sees it."""

    async def hello(self) -> Presence:
        """Who it is and how it is."""

    async def alive(self, wait_s: float) -> Presence:
        """As `hello`, after so long: whoever waits learns at once that the volume has gone.
        Raises NotReady when it is about to stop."""

    async def open_session(self, wanted: SessionWanted) -> SessionOpened:
        """Promise the epoch, end the session before, wait for what that wrote.

        A volume whose disk has failed promises nothing and takes no append: it is only read from.
        Raises StaleSession where a larger epoch is promised, LinkBroken.
        """

    async def append(self, append: Append) -> Appended:
        """Make records durable. Raises StaleSession, OutOfSpace, WritesStopped (nothing was
        written), LinkBroken."""

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Values of at most SEGMENT_VALUE_BYTES_MAX. Raises LinkBroken."""

    async def log(self, after: Cursor, *, limit: int, wait_s: float) -> LogPage:
        """Keyed records behind a cursor; at the head, wait so long for one.

        Raises HistoryTrimmed, LinkBroken.
        """

    async def snapshot(self, after: bytes, *, limit: int) -> SnapshotPage:
        """Rows of the index strictly behind a key. Raises LinkBroken."""

    async def digests(self, after: bytes, *, limit: int) -> DigestPage:
        """What it holds, summed up range by range, behind a key. Raises LinkBroken."""

    async def pull(self, pull: Pull) -> Staged:
        """Let it copy a value from another volume. Raises Damage, OutOfSpace, LinkBroken."""

    async def compact(self) -> Compacted:
        """Let it rewrite what holds superseded records. Raises OutOfSpace, Unavailable."""

    async def upload(self, upload: str, *, size: int, peers: list[str]) -> Upload:
        """Begin to send the bytes of a value. Raises OutOfSpace, LinkBroken."""

    def chunks(self, key: bytes, version: int, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes start..end (exclusive) of a value. Raises Damage, LinkBroken."""

    async def close(self) -> None:
        """Free what it holds."""
