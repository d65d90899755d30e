"""What the catalog tells the feed, and what it knows of changes that the feed has forgotten."""

import struct
from collections.abc import Callable

import lmdb

from pulzar.varidb.catalog_row import Newest, Row, unpack_deleted, unpack_row
from pulzar.varidb.feed import Event
from pulzar.varidb.record import Type

_VERSION = struct.Struct("<4xQ")  # of a live key's row and of a deleted one's (catalog_row.py)

FromRow = Callable[[bytes, bytes], Event]


def event_of_newest(change: Newest) -> Event:
    """What a newest record does to its key."""
    record = change.record
    if record.type == Type.DELETE:
        return Event(record.key, record.version, is_delete=True)
    return Event(
        record.key,
        record.version,
        is_delete=False,
        size=change.size,
        created_ms=record.created_ms,
        expires_s=record.expires_s,
        content_type=change.content_type,
        is_new=change.replaces is None,
    )


def event_of_known(key: bytes, known: Row | int | None, new: Row | int) -> Event | None:
    """What has happened to a key of which something else is known now; None where it is only known
    better, or was not there and is not there."""
    if isinstance(new, Row):
        if isinstance(known, Row) and known.version == new.version:
            return None
        return _event_of_row(key, new, is_new=not isinstance(known, Row))
    return Event(key, new, is_delete=True) if isinstance(known, Row) else None


def newer(
    table: "lmdb.Cursor[bytes]",
    prefix: bytes,
    version: int,
    *,
    after: bytes,
    limit: int,
    event: FromRow,
) -> tuple[list[Event], bytes | None]:
    """See `watching.History.newer`, for one table. Raises Damage."""
    events: list[Event] = []
    found = table.set_range(max(prefix, after + b"\0"))
    for number, (key, packed) in enumerate(table.iternext() if found else ()):
        if not key.startswith(prefix):
            return events, None
        if number == limit:
            return events, after
        after = key
        if _VERSION.unpack_from(packed)[0] > version:
            events.append(event(key, packed))
    return events, None


def live_event(key: bytes, packed: bytes) -> Event:
    """The last change of a live key. Raises Damage."""
    return _event_of_row(key, unpack_row(key, packed), is_new=False)


def new_event(key: bytes, packed: bytes) -> Event:
    """A key that was not known before. Raises Damage."""
    return _event_of_row(key, unpack_row(key, packed), is_new=True)


def delete_event(key: bytes, packed: bytes) -> Event:
    """The last change of a deleted key. Raises Damage."""
    return Event(key, unpack_deleted(key, packed), is_delete=True)


def _event_of_row(key: bytes, row: Row, *, is_new: bool) -> Event:
    return Event(
        key,
        row.version,
        is_delete=False,
        size=row.size,
        created_ms=row.created_ms,
        expires_s=row.expires_s,
        content_type=row.content_type.decode(),
        is_new=is_new,
    )
