"""Scrub: reads every byte that a volume keeps, slice by slice, before somebody needs it.

    a pass     all segments, from the smallest id up to the one that was active when it began;
               with a BLOB record its blob, chunk by chunk
    a slice    some of that: what the background process reads before others have their turn

Of what does not match its checksum only that is told which the index still points at: the rest is
superseded, and goes with the next compaction. A DELETE needs nothing but what the index has of it,
so it is written again at once; a value needs another copy. `pace` is how fast a pass goes; how far
it has come is kept beside the volume, in `scrub.json`, so that a restart does not begin again:

    {"format": 1, "began_ms": 1700000000000, "until": 7, "segment": 3, "offset": 4096, "chunk": 0}

`until` is 0 when the pass is finished. The file may be removed: then the next pass is due when the
interval is over again.
"""

from collections.abc import Iterable

import msgspec

from pulzar.disk import Disk, read_file, replace_file
from pulzar.errors import Damage
from pulzar.limits import SCRUB_BYTES_PER_S_MIN, SCRUB_INTERVAL_S
from pulzar.varidb.blob import Blob, blob_path, check_chunk, chunk_range, decode_blob
from pulzar.varidb.following import FIRST_NOTE_BYTE, IndexReader, all_columns, footer_of
from pulzar.varidb.log import segment_path
from pulzar.varidb.position import Position, unpack_position
from pulzar.varidb.record import Type
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, scan, segment_name
from pulzar.varidb.survey import Segment

FORMAT = 1
NAME = "scrub.json"
_TOLD = frozenset({Type.PUT, Type.BLOB, Type.DELETE})


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pass has come: `segment` is read up to `offset`, and of the blob of the record that
    is there, the chunks before `chunk`."""

    format: int = FORMAT
    began_ms: int
    until: int = 0
    segment: int = 0
    offset: int = 0
    chunk: int = 0


class DamagedCopy(msgspec.Struct, frozen=True):
    """A record or a blob that is not what was written; `place` is its file, and where in it."""

    key: bytes
    type: int
    version: int
    seq: int
    place: str


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What a slice met. It ended at `offset` and `chunk`; `ended`: there the segment ends, too.
    `footer_holds` is False where the footer is damaged, which no read depends on."""

    offset: int
    chunk: int
    ended: bool
    read_bytes: int
    damaged: tuple[DamagedCopy, ...]
    footer_holds: bool = True


def is_due(progress: Progress, now_ms: int) -> bool:
    """Whether a pass is to begin; so it is where the last one was in the future."""
    passed_ms = now_ms - progress.began_ms
    return not progress.until and not 0 <= passed_ms < SCRUB_INTERVAL_S * 1000


def next_segment(progress: Progress, ids: Iterable[int]) -> int | None:
    """The segment to go on with; None where the pass is at its end. The one that was being read may
    have been rewritten since: then its records are in a later one."""
    rest = [one for one in ids if progress.segment <= one < progress.until]
    return min(rest, default=None)


def begun_at(progress: Progress, segment: int) -> Progress:
    """The progress when `segment` is read next."""
    if segment == progress.segment:
        return progress
    return msgspec.structs.replace(progress, segment=segment, offset=0, chunk=0)


def behind(progress: Progress, read: Slice) -> Progress:
    """The progress behind a slice."""
    if read.ended:
        return begun_at(progress, progress.segment + 1)
    return msgspec.structs.replace(progress, offset=read.offset, chunk=read.chunk)


def pace(read_bytes: int, kept_bytes: int) -> float:
    """How many seconds to wait behind so many bytes, where the file system keeps so many: a pass
    takes at most half of the interval."""
    return read_bytes / max(SCRUB_BYTES_PER_S_MIN, 2 * kept_bytes / SCRUB_INTERVAL_S)


def read_progress(disk: Disk, directory: str) -> Progress | None:
    """What is kept in `directory`; None where that is nothing that can be used. Raises OSError."""
    path = f"{directory}/{NAME}"
    if not disk.exists(path):
        return None
    try:
        progress = msgspec.json.decode(read_file(disk, path), type=Progress)
    except msgspec.DecodeError:
        return None
    return progress if progress.format == FORMAT else None


def keep_progress(disk: Disk, directory: str, progress: Progress) -> None:
    """Keep it. Raises OSError."""
    replace_file(disk, f"{directory}/{NAME}", msgspec.json.encode(progress) + b"\n")


def read_slice(
    disk: Disk,
    directory: str,
    index: IndexReader,
    segment: Segment,
    *,
    offset: int,
    chunk: int,
    bytes_max: int,
) -> Slice:
    """Read on in a segment, where the last slice ended. Raises OSError, ViewBroken."""
    damaged: list[DamagedCopy] = []
    read_bytes = 0
    name = f"segments/{segment_name(segment.id)}"
    file = disk.open(segment_path(directory, segment.id))
    try:
        start = max(offset, SEGMENT_HEADER_BYTES)
        for item in scan(file, start=start, end=segment.end, seed=segment.header.seed):
            if read_bytes >= bytes_max:
                return _ended_early(item.offset, 0, read_bytes, damaged)
            read_bytes += item.end - item.offset
            place = f"{name}:{item.offset}"
            if not isinstance(item, Found):
                found = _between(index, segment.id, item.offset, item.end)
                damaged += [_damaged(key, position, place) for key, position in found]
                continue
            if not item.header.key:  # a note of the log
                continue
            position = index.get(item.header.key)
            if position is None or (position.segment, position.offset) != (segment.id, item.offset):
                continue
            if position.type not in _TOLD:
                continue
            if item.record is None or item.mended:
                damaged.append(_damaged(item.header.key, position, place))
            elif item.record.type == Type.BLOB:
                blob = _read_blob(
                    disk,
                    directory,
                    decode_blob(item.record.value),
                    first=chunk if item.offset == offset else 0,
                    bytes_max=bytes_max - read_bytes,
                )
                read_bytes += blob.read_bytes
                if blob.damage:
                    damaged.append(_damaged(item.header.key, position, blob.damage))
                elif blob.next is not None:
                    return _ended_early(item.offset, blob.next, read_bytes, damaged)
    finally:
        file.close()
    holds = segment.trailer is None or footer_of(disk, directory, segment) is not None
    return Slice(
        offset=segment.end,
        chunk=0,
        ended=True,
        read_bytes=read_bytes + segment.size - segment.end,
        damaged=tuple(damaged),
        footer_holds=holds,
    )


class _BlobSlice(msgspec.Struct, frozen=True):
    """Some chunks of a blob: so many bytes. `next` is the chunk behind them, if there is one;
    `damage` the place of a chunk that is damaged: then the others do not matter."""

    read_bytes: int
    next: int | None = None
    damage: str = ""


def _read_blob(disk: Disk, directory: str, blob: Blob, *, first: int, bytes_max: int) -> _BlobSlice:
    """Read on in a blob, from chunk `first`; one chunk at least. Raises OSError."""
    place = blob_path("", blob.name).removeprefix("/")
    try:
        file = disk.open(blob_path(directory, blob.name))
    except FileNotFoundError:
        return _BlobSlice(0, damage=place)
    read_bytes = 0
    try:
        for number in range(first, len(blob.crcs)):
            if read_bytes and read_bytes >= bytes_max:
                return _BlobSlice(read_bytes, next=number)
            offset, length = chunk_range(blob, number)
            read_bytes += length
            try:
                check_chunk(blob, number, file.read(length, offset=offset))
            except Damage:
                return _BlobSlice(read_bytes, damage=f"{place}:{offset}")
    finally:
        file.close()
    return _BlobSlice(read_bytes)


def _ended_early(offset: int, chunk: int, read_bytes: int, damaged: Iterable[DamagedCopy]) -> Slice:
    return Slice(
        offset=offset, chunk=chunk, ended=False, read_bytes=read_bytes, damaged=tuple(damaged)
    )


def _damaged(key: bytes, position: Position, place: str) -> DamagedCopy:
    version, seq = position.order
    return DamagedCopy(key, position.type, version, seq, place)


def _between(
    index: IndexReader, segment: int, start: int, end: int
) -> Iterable[tuple[bytes, Position]]:
    """What the index has between two offsets of a segment: of bytes that are no record, nothing
    else says whose they were."""
    for key, entry in all_columns(index):
        position = unpack_position(key, entry)
        is_inside = position.segment == segment and start <= position.offset < end
        if is_inside and position.type in _TOLD and key[0] < FIRST_NOTE_BYTE:
            yield key, position
