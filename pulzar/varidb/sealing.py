"""Sealing: give a segment its footer, after which it never changes.

Only segments that take no more records are sealed. What stands behind `segment.end` is void and
is cut off first. A crash in between leaves a segment without a trailer, which is sealed again.
"""

from collections.abc import Iterator

import msgspec

from pulzar.disk import Disk, File
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import position_in
from pulzar.varidb.footer import build_footer, read_trailer
from pulzar.varidb.log import segment_path
from pulzar.varidb.position import Position
from pulzar.varidb.recovery import Damaged
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, encode_segment_header, scan
from pulzar.varidb.survey import Segment


class SealedSegment(msgspec.Struct, frozen=True):
    """A segment with its trailer, and what was found to be damaged in it."""

    segment: Segment
    damaged: tuple[Damaged, ...]


def seal(disk: Disk, directory: str, segment: Segment) -> SealedSegment:
    """Write the footer of a segment, durable when this returns. Raises OSError."""
    damaged: list[Damaged] = []
    file = disk.open(segment_path(directory, segment.id), write=True)
    try:
        records = _records(file, segment, damaged)  # one at a time: a segment may hold a million
        footer = build_footer(segment.header, records, records_end=segment.end)
        file.truncate(segment.end)
        if segment.mended:
            file.write([encode_segment_header(segment.header)], offset=0)
        file.write([footer], offset=segment.end)
        disk.reached(CrashPoint.SEAL_WRITTEN)
        file.sync()
        disk.reached(CrashPoint.SEAL_SYNCED)
        sealed = msgspec.structs.replace(
            segment, trailer=read_trailer(file), size=file.size(), mended=False
        )
    finally:
        file.close()
    return SealedSegment(sealed, tuple(damaged))


def _records(
    file: File, segment: Segment, damaged: list[Damaged]
) -> Iterator[tuple[bytes, Position]]:
    """The keys and places of a segment's records; what is wrong goes into `damaged`."""
    next_seq = segment.header.first_seq
    for item in scan(file, start=SEGMENT_HEADER_BYTES, end=segment.end, seed=segment.header.seed):
        if not isinstance(item, Found):
            damaged.append(Damaged(segment.id, item.offset, item.end, next_seq, next_seq, None))
            continue
        seq = item.header.seq
        if item.record is None:
            damaged.append(Damaged(segment.id, item.offset, item.end, seq, seq, item.header.key))
        next_seq = seq + 1
        yield item.header.key, position_in(segment.id, item)
