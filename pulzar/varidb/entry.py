"""The small frozen values that travel between the catalog, the writer, the reader and HTTP."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from pulzar.varidb.condition import Condition


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the catalog knows of one live key.

    `size` is the value's bytes, `created_ms` when it was written, `expires_s` 0 for never,
    `content_type` "" for the default. `holders` are the numbers of the volumes that have it.
    `inline` is the value itself where the catalog has it, else None. `complete` is False in a
    rebuilt catalog until the record was read once: content type and inline value are then unknown.
    `replicas` is how many volumes are to hold it, 0 for as many as the site says.
    """

    version: int
    size: int
    created_ms: int
    expires_s: int
    content_type: str
    holders: tuple[int, ...]
    inline: bytes | None
    complete: bool = True
    replicas: int = 0


class Written(msgspec.Struct, frozen=True, gc=False):
    """What a durable write did. `created` is whether the key did not exist before."""

    version: int
    size: int
    expires_s: int
    copies: int
    wanted: int
    created: bool


class Put(msgspec.Struct, frozen=True, gc=False):
    """A value of at most SEGMENT_VALUE_BYTES_MAX to write."""

    key: bytes
    value: bytes
    content_type: str = ""
    expires_s: int = 0
    condition: Condition | None = None
    replicas: int = 0


class Uploaded(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a value that are durable on volumes (numbers) under the name of an upload."""

    upload: str
    size: int
    volumes: tuple[int, ...]


class Delete(msgspec.Struct, frozen=True, gc=False):
    """A key to delete."""

    key: bytes
    condition: Condition | None = None


class Get(msgspec.Struct, frozen=True, gc=False):
    """A key to read in a batch."""

    key: bytes
    condition: Condition | None = None


class Got(msgspec.Struct, frozen=True, gc=False):
    """A value read in a batch."""

    entry: Entry
    value: bytes


class Listing(msgspec.Struct, frozen=True, gc=False):
    """One page of keys, in byte order. `next` is the `after` of the next page, None at the end.

    With a delimiter, `prefixes` are the groups ("directories") that stand for the keys below
    them; entries and prefixes together are at most the limit.
    """

    entries: list[tuple[bytes, Entry]]
    prefixes: list[bytes]
    next: bytes | None


class Status(msgspec.Struct, frozen=True, gc=False):
    """The stat of the catalog's key table, as /admin/status shows it."""

    psize: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int


class Upload(Protocol):
    """A large value on its way into a blob. Bytes given to it are never held in memory."""

    size: int

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; returns when it can take more (backpressure)."""

    async def finish(self) -> None:
        """Make the bytes durable. They are visible only after `Store.put_upload`."""

    async def abort(self) -> None:
        """Throw the bytes away. Harmless after `put_upload` took them."""


class Values(Protocol):
    """Keys and their values. One event loop; every method raises only PulzarError.

    Writes return when they are durable. Reads see every acknowledged write. `direct_bytes_max`: a
    larger value may be on another machine, see `elsewhere`, or too large to be read in one piece.
    """

    @property
    def direct_bytes_max(self) -> int:
        """Bytes."""

    def lookup(self, key: bytes) -> Entry | None:
        """The entry of a key, which may have expired (then ask `confirm`)."""

    async def confirm(self, key: bytes, entry: Entry) -> Entry | None:
        """`entry` while it has not expired; else None, after its DELETE is durable."""

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """`entry` with content type and inline value filled in from its record."""

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """A value of at most SEGMENT_VALUE_BYTES_MAX, checked. Raises Damage."""

    def chunks(self, key: bytes, entry: Entry, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes start..end (exclusive) of a larger value, checked, about 1 MiB at a time."""

    async def put(self, put: Put) -> Written:
        """Write a value. Raises ConditionFailed, OutOfSpace, Unavailable, OutcomeUnknown."""

    async def delete(self, delete: Delete) -> Written:
        """Delete a key. Raises KeyNotFound, and as `put`."""

    def elsewhere(self, entry: Entry) -> str | None:
        """The URL of the machine from which a client should read a value; None: from here."""

    def upload_elsewhere(self, size: int, replicas: int) -> str | None:
        """The URL of the machine to which a client should send so many bytes; None: here.
        Raises OutOfSpace, Unavailable."""

    async def upload(self, *, size: int = 0, replicas: int = 0) -> Upload:
        """Begin a value of any size; `size` is what was announced, `replicas` how many volumes
        are to hold it, 0 for as many as the site says. Raises OutOfSpace, Unavailable."""

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """Give the finished upload its key; `put.value` is empty. Version and condition are
        taken now, not when the upload began."""


class Store(Values, Protocol):
    """What a front end needs of VariDB: values, and what looks after them."""

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        """Many operations, those of one key in their order; not atomic. Errors are results."""

    def list_keys(
        self, prefix: bytes, *, after: bytes | None, limit: int, delimiter: bytes | None
    ) -> Listing:
        """Live keys under a prefix in byte order, strictly behind `after`. Expired keys are
        left out."""

    def status(self) -> Status:
        """The stat of the key table; `entries` counts the users' live keys."""

    def not_ready(self) -> str | None:
        """Why it cannot serve now, in one sentence; None when it can."""

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name (snake case, unit last; counters end in _total)."""

    async def compact(self) -> dict[str, int]:
        """Rewrite every sealed segment that holds superseded records; returns what was done."""

    async def close(self) -> None:
        """Finish the writes under way, write a checkpoint, close cleanly."""
