"""Reading a log in the order of its seq, and filling views from it.

A follower at a cursor gets the records behind it (`LogReader.records_behind`); one without a
cursor, or with one below the horizon, gets a snapshot: every sealed segment's footer, newest
record of each key, in any order (`load_segments`), which a view merges by (version, seq).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from pulzar.disk import Disk
from pulzar.errors import Damage
from pulzar.limits import FOLLOW_PLACES_MAX, LOAD_ROWS_MAX
from pulzar.varidb.blob import decode_blob
from pulzar.varidb.footer import Footer, position_of, read_footer
from pulzar.varidb.log import Batch, segment_path
from pulzar.varidb.position import (
    ENTRY_TYPE_AT,
    Cursor,
    Position,
    pack_place,
    pack_position,
    unpack_position,
)
from pulzar.varidb.record import KEPT_FOREVER, KEYED, Record, Type, record_length
from pulzar.varidb.segment import KIND_LOG, SEGMENT_HEADER_BYTES, Found, read_record, scan
from pulzar.varidb.survey import Segment

FIRST_NOTE_BYTE = 0xFE
"""Index keys from here on are not users' keys: those are UTF-8, which has no such byte."""

_PLAIN = frozenset({Type.PUT, Type.DELETE})

BLOB_KEY_BYTE = 0xFE
_COLUMNS = 65_536  # rows of an index read at once

Item: TypeAlias = tuple[bytes, Position]


class IndexReader(Protocol):
    """What can be read of an index, also by another process."""

    def get(self, key: bytes) -> Position | None:
        """The newest position of a key, deletes included."""

    def columns(self, after: bytes, limit: int) -> tuple[list[bytes], list[bytes]]:
        """Keys strictly behind `after` and their packed entries, in key order."""


def all_columns(index: IndexReader) -> Iterator[tuple[bytes, bytes]]:
    """Every key of an index, and its packed entry."""
    after = b""
    while True:
        keys, entries = index.columns(after, _COLUMNS)
        if not keys:
            return
        yield from zip(keys, entries, strict=True)
        after = keys[-1]


class IndexView(IndexReader, Protocol):
    """What a volume needs of its index (index.py; pulzar.testing has one of a dict)."""

    def cursor(self) -> Cursor:
        """How far it has followed; NOWHERE when it is empty or not to be trusted."""

    def place(self) -> bytes:
        """The bytes given with the last cursor."""

    def apply(self, items: Sequence[Item], cursor: Cursor, place: bytes = b"") -> None:
        """Take in positions; the larger (version, seq) wins. The cursor goes with them."""

    def append(
        self, rows: Sequence[tuple[bytes, bytes]], cursor: Cursor, place: bytes = b""
    ) -> None:
        """As apply, for packed positions of which each is newer than all that are there."""

    def load(self, keys: Sequence[bytes], entries: Sequence[bytes]) -> None:
        """As apply, for the columns of a footer, without a cursor."""

    def swap(self, items: Sequence[tuple[bytes, Position, Position]]) -> int:
        """Replace old by new where old is still there; how many."""

    def drop(self, items: Sequence[tuple[bytes, tuple[int, int]]]) -> int:
        """Remove entries that still have that (version, seq); how many."""

    def count(self) -> int:
        """All entries, deletes and notes included."""

    def reset(self) -> None:
        """Throw everything away."""

    def close(self, *, clean: bool) -> None:
        """Close it; a clean one is trusted by the next opening."""


class Logged(msgspec.Struct, frozen=True):
    """A record as a follower gets it, with its seq in `position`; None where its body is damaged:
    then it says at least that its key changed."""

    key: bytes
    position: Position
    record: Record | None


class Loaded(msgspec.Struct, frozen=True):
    """What loading a segment met: its largest version, and whether every record was readable."""

    version_max: int
    whole: bool


def note_key(type_: int) -> bytes:
    """The index key of the newest EPOCH, MEMBERS or PURGE; no user's key begins with 0xff."""
    return bytes((0xFF, type_))


UNSURE_KEY = b"\xff\x00"
"""The index key that says: a record could not be read, so some blobs may not be listed."""


def blob_key(name: str) -> bytes:
    """The index key of a blob's record; no user's key begins with 0xfe."""
    return bytes((BLOB_KEY_BYTE,)) + name.encode()


def position_in(segment_id: int, found: Found) -> Position:
    """The position of a found record, with the size that users see."""
    record = found.record
    size = found.header.value_length
    if found.header.type == Type.BLOB:
        size = decode_blob(record.value).size if record is not None else 0
    return position_of(found, segment_id=segment_id, size=size)


def found_records(
    disk: Disk, directory: str, segment: Segment, *, start: int = SEGMENT_HEADER_BYTES
) -> Iterator[Found]:
    """The records of a segment whose header holds, from an offset on. Raises OSError."""
    file = disk.open(segment_path(directory, segment.id))
    try:
        for item in scan(file, start=start, end=segment.end, seed=segment.header.seed):
            if isinstance(item, Found):
                yield item
    finally:
        file.close()


def footer_of(disk: Disk, directory: str, segment: Segment) -> Footer | None:
    """The footer of a segment; None where it has none, or a damaged one. Raises OSError."""
    if segment.trailer is None:
        return None
    file = disk.open(segment_path(directory, segment.id))
    try:
        return read_footer(file, segment.trailer)
    except Damage:
        return None
    finally:
        file.close()


def index_items(key: bytes, value: bytes | None, position: Position) -> list[Item]:
    """What the index keeps of one record. `value` is None where its body is damaged: the record
    still says that its key changed."""
    items = [(key or note_key(position.type), position)]
    if position.type == Type.BLOB and value is not None:
        items.append((blob_key(decode_blob(value).name), position))
    return items


def batch_rows(batch: Batch) -> list[tuple[bytes, bytes]]:
    """The rows of the index, packed, that a batch of the log makes."""
    rows: list[tuple[bytes, bytes]] = []
    segment, offset, seq = batch.segment, batch.offset, batch.first_seq
    for record, buffer in zip(batch.records, batch.buffers, strict=True):
        if record.type in _PLAIN:
            row = pack_place(record, segment=segment, offset=offset, seq=seq)
            rows.append((record.key, row))
        elif record.type in KEYED or record.type in KEPT_FOREVER:
            position = _position(record, segment=segment, offset=offset, seq=seq)
            items = index_items(record.key, record.value, position)
            rows += [(key, pack_position(key, one)) for key, one in items]
        offset += len(buffer)
        seq += 1
    return rows


def _position(record: Record, *, segment: int, offset: int, seq: int) -> Position:
    value = record.value
    return Position(
        segment,
        offset,
        record_length(record),
        record.type,
        record.flags,
        len(record.key),
        len(record.meta),
        seq,
        record.version,
        decode_blob(value).size if record.type == Type.BLOB else len(value),
        record.created_ms,
        record.expires_s,
    )


def blob_items(
    disk: Disk, directory: str, segment: Segment, keys: Sequence[bytes], entries: Sequence[bytes]
) -> tuple[list[Item], bool]:
    """What the index keeps of the blobs that a footer's entries name, and whether that is all of
    it: a damaged record does not tell its blob. Raises OSError, Damage."""
    file = disk.open(segment_path(directory, segment.id))
    items: list[Item] = []
    whole = True
    try:
        for number in [n for n, entry in enumerate(entries) if entry[ENTRY_TYPE_AT] == Type.BLOB]:
            position = unpack_position(keys[number], entries[number])
            record = read_record(
                file,
                offset=position.offset,
                length=position.length,
                seed=segment.header.seed,
            )
            if record is None:
                whole = False
            else:
                items.append((blob_key(decode_blob(record.value).name), position))
    finally:
        file.close()
    return items, whole


def load_segment(
    disk: Disk,
    directory: str,
    segment: Segment,
    index: IndexView,
    cursor: Cursor,
    place: bytes,
    *,
    start: int = SEGMENT_HEADER_BYTES,
) -> Loaded:
    """Tell the index everything from an offset of a segment on; by its footer if it can be."""
    footer = footer_of(disk, directory, segment) if start == SEGMENT_HEADER_BYTES else None
    if footer is not None:
        trailer = footer.trailer
        index.load(footer.keys, footer.entries)
        items = [(note_key(note.type), note) for note in footer.notes]
        blobs, whole = blob_items(disk, directory, segment, footer.keys, footer.entries)
        index.apply(items + blobs, cursor, place)
        gap = trailer.records_end - SEGMENT_HEADER_BYTES != trailer.record_bytes
        return Loaded(trailer.max_version, whole and not gap)
    newest: dict[bytes, Position] = {}
    version_max, expected, whole = 0, start, True
    for found in found_records(disk, directory, segment, start=start):
        whole = whole and found.offset == expected and found.record is not None
        expected = found.end
        version_max = max(version_max, found.header.version)
        if found.header.type in KEYED or found.header.type in KEPT_FOREVER:
            value = found.record.value if found.record is not None else None
            for key, position in index_items(
                found.header.key, value, position_in(segment.id, found)
            ):
                present = newest.get(key)
                if present is None or position.order > present.order:
                    newest[key] = position
        if len(newest) >= LOAD_ROWS_MAX:
            _load(index, newest)
    _load(index, newest)
    index.apply([], cursor, place)
    return Loaded(version_max, whole and expected == segment.end)


def _load(index: IndexView, newest: dict[bytes, Position]) -> None:
    """Tell the index what was gathered, sorted, in one piece."""
    keys = sorted(newest)
    index.load(keys, [pack_position(key, newest[key]) for key in keys])
    newest.clear()


class LogReader:
    """Reads the log of one volume in order. Remembers places, so that following is linear."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        segments: Mapping[int, Segment],
        active: Callable[[], Segment],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._segments = segments
        self._active = active
        self._places: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def records_behind(self, seq: int, *, limit: int) -> list[Logged]:
        """Up to `limit` records behind `seq`, which is not below the horizon."""
        logged: list[Logged] = []
        for segment, start in self._route(seq):
            found = found_records(self._disk, self._directory, segment, start=start)
            for item in found:
                if item.header.seq <= seq:
                    continue
                position = position_in(segment.id, item)
                logged.append(Logged(item.header.key, position, item.record))
                if len(logged) == limit:
                    self._remember(item.header.seq, (segment.id, item.end))
                    return logged
        return logged

    def _route(self, seq: int) -> Iterator[tuple[Segment, int]]:
        """The segments that may hold what is behind `seq`, and where to begin in each."""
        logs = [s for s in list(self._segments.values()) if s.header.kind == KIND_LOG]
        logs = [*sorted(logs, key=lambda s: s.id), self._active()]
        place = self._places.pop(seq, None)
        for number, segment in enumerate(logs):
            later = logs[number + 1 :]
            if place is not None and segment.id < place[0]:
                continue
            # A record behind the next segment's first seq is not in this one.
            if place is None and later and _first_seq_bound(later[0]) <= seq + 1:
                continue
            start = place[1] if place and place[0] == segment.id else SEGMENT_HEADER_BYTES
            yield segment, start

    def _remember(self, seq: int, place: tuple[int, int]) -> None:
        self._places[seq] = place
        while len(self._places) > FOLLOW_PLACES_MAX:
            self._places.popitem(last=False)


def _first_seq_bound(segment: Segment) -> int:
    """Every record of seq >= this one is in this segment or a later one."""
    return segment.header.first_seq
