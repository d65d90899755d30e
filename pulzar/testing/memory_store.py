"""A store in a dict: the reference for what `pulzar.varidb.entry.Store` promises.

It keeps nothing, waits for nothing and never fails, so it shows what an answer must be. The
conformance tests hold it and the real store to the same scenarios; the tests of HTTP run on it.
"""

from collections.abc import AsyncIterator, Sequence

from pulzar.clock import Clock
from pulzar.errors import ConditionFailed, KeyNotFound, NotReady, PulzarError, ValueTooLarge
from pulzar.limits import BLOB_CHUNK_BYTES, INLINE_BYTES_MAX, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Entry, Get, Got, Listing, Put, Status, Upload, Written
from pulzar.varidb.feed import Event, Feed
from pulzar.varidb.record import make_version

_HOLDER = 1


class MemoryUpload:
    """Implements `entry.Upload`."""

    def __init__(self) -> None:
        self.size = 0
        self.pieces: list[bytes] = []
        self.finished = False

    async def write(self, chunk: bytes) -> None:
        """See `entry.Upload`."""
        self.pieces.append(chunk)
        self.size += len(chunk)

    async def finish(self) -> None:
        """See `entry.Upload`."""
        self.finished = True

    async def abort(self) -> None:
        """See `entry.Upload`."""
        self.pieces.clear()


class MemoryStore:
    """Implements `entry.Store`."""

    direct_bytes_max = SEGMENT_VALUE_BYTES_MAX

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[bytes, tuple[Entry, bytes]] = {}
        self._version = make_version(1, 0)
        self._deleted: dict[bytes, int] = {}
        self._closed = False
        self.feed = Feed()
        self.feed.start(self._version)
        self.puts_total = 0
        self.deletes_total = 0

    def lookup(self, key: bytes) -> Entry | None:
        """See `entry.Store`."""
        found = self._entries.get(key)
        return None if found is None else found[0]

    async def confirm(self, key: bytes, entry: Entry) -> Entry | None:
        """See `entry.Store`."""
        if not self._is_expired(entry):
            return entry
        if self.lookup(key) is entry:
            self._remove(key)
        return None

    async def complete(self, key: bytes, entry: Entry) -> Entry:  # the protocol
        """See `entry.Store`."""
        return entry

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """See `entry.Store`."""
        return self._value(key, entry)

    async def chunks(
        self, key: bytes, entry: Entry, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """See `entry.Store`."""
        value = self._value(key, entry)
        for at in range(start, end, BLOB_CHUNK_BYTES):
            yield value[at : min(at + BLOB_CHUNK_BYTES, end)]

    async def put(self, put: Put) -> Written:
        """See `entry.Store`."""
        return self._put(put, put.value)

    async def delete(self, delete: Delete) -> Written:
        """See `entry.Store`."""
        return self._delete(delete)

    def elsewhere(self, _entry: Entry) -> None:
        """See `entry.Store`."""

    def upload_elsewhere(self, _size: int, _replicas: int) -> None:
        """See `entry.Store`."""

    async def upload(self, *, size: int = 0, replicas: int = 0) -> Upload:
        """See `entry.Store`."""
        self._require_open()
        return MemoryUpload()

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """See `entry.Store`."""
        if not isinstance(upload, MemoryUpload) or not upload.finished:
            raise AssertionError("only a finished upload of this store can be put")
        return self._put(put, b"".join(upload.pieces))

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        """See `entry.Store`."""
        results: list[Written | Got | Exception] = []
        for operation in operations:
            try:
                results.append(self._do(operation))
            except PulzarError as error:
                results.append(error)
        return results

    def list_keys(
        self, prefix: bytes, *, after: bytes | None, limit: int, delimiter: bytes | None
    ) -> Listing:
        """See `entry.Store`."""
        entries: list[tuple[bytes, Entry]] = []
        prefixes: list[bytes] = []
        last = after
        for key in sorted(self._entries):
            entry = self._entries[key][0]
            group = _group(key, prefix, delimiter)
            if not key.startswith(prefix) or self._is_expired(entry):
                continue
            if last is not None and (key <= last or group == last):
                continue
            if len(entries) + len(prefixes) == limit:
                return Listing(entries, prefixes, last)
            if group is None:
                entries.append((key, entry))
            else:
                prefixes.append(group)
            last = group or key
        return Listing(entries, prefixes, None)

    def status(self) -> Status:
        """See `entry.Store`."""
        return Status(4096, 1, 0, 1, 0, len(self._entries))

    def not_ready(self) -> str | None:
        """See `entry.Store`."""
        return "the server is stopping" if self._closed else None

    def statistics(self) -> dict[str, float]:
        """See `entry.Store`."""
        return {
            "keys": len(self._entries),
            "puts_total": self.puts_total,
            "deletes_total": self.deletes_total,
        }

    async def compact(self) -> dict[str, int]:
        """See `entry.Store`."""
        return {}

    async def close(self) -> None:
        """See `entry.Store`."""
        self._closed = True

    @property
    def history(self) -> "MemoryStore":
        """See `watching.Watchable`."""
        return self

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        """See `watching.History`."""
        return sorted(key for key in self._entries if key > after)[:limit]

    def created_between(
        self, start_ms: int, end_ms: int, *, after: tuple[int, bytes] | None, limit: int
    ) -> list[tuple[int, bytes]]:
        """See `watching.History`."""
        rows = sorted((entry.created_ms, key) for key, (entry, _) in self._entries.items())
        return [
            row for row in rows if start_ms <= row[0] < end_ms and (after is None or row > after)
        ][:limit]

    def is_unsure(self, version: int) -> bool:
        """See `watching.History`."""
        return version < make_version(1, 0)

    def newer(
        self, prefix: bytes, version: int, *, after: bytes, deletes: bool, limit: int
    ) -> tuple[list[Event], bytes | None]:
        """See `watching.History`."""
        if deletes:
            events = [Event(key, gone, is_delete=True) for key, gone in self._deleted.items()]
        else:
            events = [_event(key, entry) for key, (entry, _) in self._entries.items()]
        keys = sorted(event.key for event in events if event.key.startswith(prefix))
        looked = [key for key in keys if key > after][:limit]
        found = [event for event in events if event.key in looked and event.version > version]
        return found, looked[-1] if len(looked) == limit else None

    def _remove(self, key: bytes) -> None:
        self._version += 1
        del self._entries[key]
        self._deleted[key] = self._version
        self.feed.landed([Event(key, self._version, is_delete=True)])

    def _do(self, operation: Put | Delete | Get) -> Written | Got:
        if isinstance(operation, Put):
            return self._put(operation, operation.value)
        if isinstance(operation, Delete):
            return self._delete(operation)
        entry = self._live(operation.key)
        if entry is None:
            raise KeyNotFound("there is no such key")
        _require(operation.condition, entry)
        if entry.size > SEGMENT_VALUE_BYTES_MAX:
            raise ValueTooLarge("the value is too large for a batch: read it by GET")
        return Got(entry, self._value(operation.key, entry))

    def _put(self, put: Put, value: bytes) -> Written:
        self._require_open()
        entry = self._live(put.key)
        _require(put.condition, entry)
        self._version += 1
        new = Entry(
            version=self._version,
            size=len(value),
            created_ms=self._clock.now_ms(),
            expires_s=put.expires_s,
            content_type=put.content_type,
            holders=(_HOLDER,),
            inline=value if len(value) <= INLINE_BYTES_MAX else None,
        )
        self._entries[put.key] = (new, value)
        self._deleted.pop(put.key, None)
        self.feed.landed([_event(put.key, new)])
        self.puts_total += 1
        return Written(new.version, new.size, new.expires_s, 1, 1, created=entry is None)

    def _delete(self, delete: Delete) -> Written:
        self._require_open()
        entry = self._live(delete.key)
        _require(delete.condition, entry)
        if entry is None:
            raise KeyNotFound("there is no such key")
        self._remove(delete.key)
        self.deletes_total += 1
        return Written(self._version, 0, 0, 1, 1, created=False)

    def _live(self, key: bytes) -> Entry | None:
        entry = self.lookup(key)
        if entry is not None and self._is_expired(entry):
            self._remove(key)  # a clock that is set back must not bring it back
            return None
        return entry

    def _value(self, key: bytes, entry: Entry) -> bytes:
        now, value = self._entries[key]
        if now.version != entry.version:
            raise AssertionError("a value is read before anything else may happen to its key")
        return value

    def _is_expired(self, entry: Entry) -> bool:
        return entry.expires_s != 0 and entry.expires_s * 1000 <= self._clock.now_ms()

    def _require_open(self) -> None:
        if self._closed:
            raise NotReady("the server is stopping")


def _event(key: bytes, entry: Entry) -> Event:
    return Event(
        key,
        entry.version,
        is_delete=False,
        size=entry.size,
        created_ms=entry.created_ms,
        expires_s=entry.expires_s,
        content_type=entry.content_type,
    )


def _require(condition: Condition | None, entry: Entry | None) -> None:
    if condition is not None and not condition.holds(None if entry is None else entry.version):
        raise ConditionFailed("the condition does not hold")


def _group(key: bytes, prefix: bytes, delimiter: bytes | None) -> bytes | None:
    """The group that stands for `key`; None where it stands for itself."""
    if delimiter is None:
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]
