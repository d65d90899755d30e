"""Compaction: rewrite sealed segments without their superseded records.

    plan      which segments are worth it, in groups that fit one output          (pure)
    rewrite   copy the live records of a group into one new sealed segment        (I/O)

A record is live if the index points exactly at it; anything else of that key is newer. Nothing
here looks at a clock: an expired key becomes an ordinary DELETE first. Seq and version are kept.
The inputs stay untouched, and stay in the directory for the grace, so that a copy being made of
it is whole. What is written here counts only once the volume took it in (`Volume.replace`).

DELETE records are live too. Dropping them is purge (purge.py), which tells `rewrite` which.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from pulzar.disk import Disk, File
from pulzar.errors import Damage
from pulzar.varidb import record as rec
from pulzar.varidb.blob import decode_blob
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import (
    BLOB_KEY_BYTE,
    blob_key,
    footer_of,
    index_items,
    note_key,
    position_in,
)
from pulzar.varidb.footer import build_footer, entry_place, entry_size, read_trailer
from pulzar.varidb.log import SEGMENTS, segment_path
from pulzar.varidb.position import Position, pack_position
from pulzar.varidb.record import KEPT_FOREVER, KEYED, Record, Type
from pulzar.varidb.segment import (
    KIND_COMPACTED,
    SEGMENT_HEADER_BYTES,
    Found,
    SegmentHeader,
    encode_segment_header,
    scan,
)
from pulzar.varidb.survey import Segment

_FLUSH_BYTES = 1 << 20
_PLAIN = frozenset({Type.PUT, Type.DELETE})


class Group(msgspec.Struct, frozen=True):
    """Segments to be rewritten into one, and what they hold (bytes)."""

    inputs: tuple[int, ...]
    live_bytes: int
    total_bytes: int


class Rewritten(msgspec.Struct, frozen=True, kw_only=True):
    """What a rewrite did. `output` is None where nothing was live. `names` are the index's rows,
    packed, of the notes and the blobs in the output: they are no keys of its footer."""

    inputs: tuple[int, ...]
    output: Segment | None
    blobs: tuple[str, ...]
    names: tuple[tuple[bytes, bytes], ...]
    kept: int
    dropped: int
    horizon: int


class Weight(msgspec.Struct):
    """What a segment holds, in bytes: live records; the files of live blobs, and of all blobs.
    And how many of its records are the newest of their keys, deletes too."""

    newest: int = 0
    live: int = 0
    live_blobs: int = 0
    blobs: int = 0


_NOTHING = Weight()


def weigh(rows: Iterable[tuple[bytes, bytes]]) -> dict[int, Weight]:
    """The weight of each segment, from all rows of an index.

    A DELETE weighs nothing, as purge may get rid of it. A replaced blob has its own row still.
    """
    weights: dict[int, Weight] = {}
    for key, entry in rows:
        segment, length, type_ = entry_place(entry)
        weight = weights.get(segment)
        if weight is None:
            weight = weights[segment] = Weight()
        if key[0] == BLOB_KEY_BYTE:
            weight.blobs += entry_size(entry)
            continue
        if key[0] < BLOB_KEY_BYTE:
            weight.newest += 1
        if type_ == Type.DELETE:
            continue
        weight.live += rec.padded(length)
        if type_ == Type.BLOB:
            weight.live_blobs += entry_size(entry)
    return weights


def plan(
    segments: Sequence[Segment],
    weights: Mapping[int, Weight],
    *,
    segment_bytes: int,
    records_max: int,
    live_ratio_max: float,
    always: Collection[int] = (),
) -> list[Group]:
    """Groups of segments to rewrite, oldest first.

    `segments` are sealed and not retired. One is worth it where at most `live_ratio_max` of its
    bytes are live, the files of its blobs counted in, or where it is one of several small ones
    (under a quarter of `segment_bytes`); those in `always` are. A group's live bytes fit
    `segment_bytes`, its records `records_max`.
    """
    small = [s for s in segments if s.end * 4 < segment_bytes]
    chosen = [
        segment
        for segment in sorted(segments, key=lambda one: one.id)
        if segment.id in always
        or _is_worth_it(segment, weights.get(segment.id, _NOTHING), live_ratio_max)
        or (len(small) > 1 and segment in small)
    ]
    groups: list[Group] = []
    inputs: list[int] = []
    live_sum = total_sum = records = 0
    for segment in chosen:
        size, count = weights.get(segment.id, _NOTHING).live, _record_count(segment)
        if inputs and (live_sum + size > segment_bytes or records + count > records_max):
            groups.append(Group(tuple(inputs), live_sum, total_sum))
            inputs, live_sum, total_sum, records = [], 0, 0, 0
        inputs.append(segment.id)
        live_sum += size
        total_sum += _record_bytes(segment)
        records += count
    if inputs:
        groups.append(Group(tuple(inputs), live_sum, total_sum))
    alone = {s.id for s in small} - set(always)
    return [g for g in groups if not (len(g.inputs) == 1 and _is_whole(g, alone, live_ratio_max))]


def _is_worth_it(segment: Segment, weight: Weight, live_ratio_max: float) -> bool:
    live, total = weight.live + weight.live_blobs, _record_bytes(segment) + weight.blobs
    return live <= live_ratio_max * total


def _is_whole(group: Group, small: Collection[int], live_ratio_max: float) -> bool:
    """Whether a group is one small segment that nothing is gained by rewriting."""
    whole = group.live_bytes > live_ratio_max * group.total_bytes
    return group.inputs[0] in small and whole


def _record_bytes(segment: Segment) -> int:
    return segment.end - SEGMENT_HEADER_BYTES


def _record_count(segment: Segment) -> int:
    assert segment.trailer is not None
    return segment.trailer.entries


class _Output:
    """The new segment, while it is written. Holds about 1 MiB and the positions."""

    def __init__(self, disk: Disk, directory: str, header: SegmentHeader) -> None:
        self.header = header
        self.positions: list[tuple[bytes, Position]] = []
        self.names: list[tuple[bytes, bytes]] = []
        self.end = SEGMENT_HEADER_BYTES
        self._disk = disk
        self._directory = directory
        self._path = segment_path(directory, header.segment_id)
        self._flushed = 0
        self._buffer = [encode_segment_header(header)]
        self._file: File = disk.create(self._path)

    def add(self, found: Found, record: Record) -> None:
        """Copy one record to its new place."""
        encoded = rec.encode(
            record,
            seq=record.seq,
            synced=record.synced,
            offset=self.end,
            seed=self.header.seed,
        )
        moved = msgspec.structs.replace(found, offset=self.end)
        position = position_in(self.header.segment_id, moved)
        self.positions.append((record.key, position))
        if record.type not in _PLAIN:
            items = index_items(record.key, record.value, position)
            self.names += [
                (key, pack_position(key, one)) for key, one in items if key != record.key
            ]
        self._buffer.append(encoded)
        self.end += len(encoded)
        if self.end - self._flushed > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        content = b"".join(self._buffer)
        self._file.write([content], offset=self._flushed)
        self._flushed += len(content)
        self._buffer = []

    def finish(self, inputs: Sequence[tuple[int, int]]) -> Segment:
        """Write the footer; durable when this returns."""
        self._buffer.append(
            build_footer(self.header, self.positions, records_end=self.end, inputs=inputs)
        )
        self._flush()
        self._file.sync()
        self._disk.sync_directory(f"{self._directory}/{SEGMENTS}")
        trailer, size = read_trailer(self._file), self._file.size()
        self._file.close()
        return Segment(header=self.header, trailer=trailer, size=size, end=self.end)

    def abort(self) -> None:
        """Remove the file, as far as the disk lets us; the next opening sweeps what is left."""
        self._file.close()
        try:
            self._disk.unlink(self._path)
        except OSError:
            return


def rewrite(
    disk: Disk,
    directory: str,
    inputs: Sequence[Segment],
    *,
    header: SegmentHeader,
    get: Callable[[bytes], Position | None],
    retired: Collection[int] = (),
    purge: Collection[tuple[bytes, int]] = (),
) -> Rewritten:
    """Write the live records of sealed `inputs` into a new segment, durable when this returns.

    `get` is the index. It may still point into `retired` segments, which will go: a record that
    is there too is live here. `purge` are (key, version) of DELETE records to leave out. Raises
    OSError, and Damage where an input is not whole: then nothing is left behind, and it must stay.
    """
    output = _Output(disk, directory, header)
    blobs: list[str] = []
    dropped = 0
    try:
        for segment in inputs:
            for found, record in _records(disk, directory, segment):
                if _is_live(found, record, segment.id, get, retired, purge):
                    output.add(found, record)
                    continue
                dropped += 1
                if record.type == Type.BLOB and _was_last(record, segment.id, found, get):
                    blobs.append(decode_blob(record.value).name)
        kept = len(output.positions)
        new = output.finish(_stands_for(disk, directory, inputs)) if kept else None
        if new is None:
            output.abort()
    except BaseException:  # also when the process is told to stop: no half file is left behind
        output.abort()
        raise
    disk.reached(CrashPoint.COMPACTION_WRITTEN)
    trailers = [segment.trailer for segment in inputs if segment.trailer is not None]
    return Rewritten(
        inputs=tuple(segment.id for segment in inputs),
        output=new,
        blobs=tuple(blobs),
        names=tuple(output.names),
        kept=kept,
        dropped=dropped,
        horizon=max((trailer.last_seq for trailer in trailers), default=0),
    )


def _stands_for(disk: Disk, directory: str, inputs: Sequence[Segment]) -> list[tuple[int, int]]:
    """The ids of the inputs, and of all that those stand for."""
    ranges = [(segment.id, segment.id) for segment in inputs]
    for segment in inputs:
        if segment.trailer is not None and segment.trailer.inputs:
            footer = footer_of(disk, directory, segment)
            ranges += footer.inputs if footer is not None else []
    return merge_ranges(ranges)


def _records(disk: Disk, directory: str, segment: Segment) -> Iterable[tuple[Found, Record]]:
    file = disk.open(segment_path(directory, segment.id))
    try:
        for item in scan(
            file, start=SEGMENT_HEADER_BYTES, end=segment.end, seed=segment.header.seed
        ):
            if not isinstance(item, Found) or item.record is None:
                raise Damage(f"segment {segment.id} is damaged at {item.offset}: not compacted")
            yield item, item.record
    finally:
        file.close()


def _is_live(
    found: Found,
    record: Record,
    segment_id: int,
    get: Callable[[bytes], Position | None],
    retired: Collection[int],
    purge: Collection[tuple[bytes, int]],
) -> bool:
    if record.type not in KEYED and record.type not in KEPT_FOREVER:
        return False
    position = get(record.key or note_key(record.type))
    if record.type in KEPT_FOREVER:
        return position is None or not _is_elsewhere(position, record, segment_id, found, retired)
    if position is None:
        return (record.key, record.version) not in purge
    if position.order < (record.version, record.seq):
        raise Damage(f"the index does not know the newest record of segment {segment_id}")
    if position.order > (record.version, record.seq):
        return False
    if _is_elsewhere(position, record, segment_id, found, retired):
        return False
    return (record.key, record.version) not in purge


def _is_elsewhere(
    position: Position, record: Record, segment_id: int, found: Found, retired: Collection[int]
) -> bool:
    """Whether the same record lives at another place too, which the index prefers and which
    stays."""
    same = position.order == (record.version, record.seq)
    here = (position.segment, position.offset) == (segment_id, found.offset)
    return same and not here and position.segment not in retired


def _was_last(
    record: Record, segment_id: int, found: Found, get: Callable[[bytes], Position | None]
) -> bool:
    """Whether no other copy of a superseded BLOB record names its file."""
    position = get(blob_key(decode_blob(record.value).name))
    if position is None:
        return True
    return (position.segment, position.offset) == (segment_id, found.offset)


def compacted_header(
    *, volume_id: bytes, segment_id: int, salt: bytes, opening: bytes, now_ms: int
) -> SegmentHeader:
    """The header of a segment that compaction writes."""
    return SegmentHeader(
        volume_id=volume_id,
        salt=salt,
        segment_id=segment_id,
        kind=KIND_COMPACTED,
        created_ms=now_ms,
        opening=opening,
    )


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ids in as few (first, last) ranges as possible."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
