"""The segment: one append-only file of records.

      0                                                   128
      +----------------------------------------------------+--------+--------+-- ... --+--------+
      | segment header                                     | record | record |         | footer |
      +----------------------------------------------------+--------+--------+-- ... --+--------+

Segment header, little-endian, zeros to 128 bytes:

      0           8      12      14    16        32     48    56         64          72        80
      +-----------+------+-------+-----+---------+------+-----+----------+-----------+---------+
      |"PULZSEG1" | crc  |format |kind |volume id| salt | id  | previous | previous  | first   |
      |           |      |       |     |         |      |     | id       | end       | seq     |
      +-----------+------+-------+-----+---------+------+-----+----------+-----------+---------+
      80             88           104
      +--------------+------------+
      | created (ms) | opening id |
      +--------------+------------+

crc is the CRC32C of bytes 0..8 and 12..128. kind is 0 for a segment of the log, 1 for one written
by compaction. opening id names the opening of the log that wrote it. A segment of the log says
where the one before it ends: what stands behind that offset there is void, however valid it
looks. This holds once the segment is *born*: once a record in it has `synced` >= first seq - 1
(recovery.py). The footer (footer.py) exists in sealed segments only.

`scan` reads records one behind the other and, behind bytes that are not a record, searches on at
the next multiple of 8: a record's crc covers its place, so one inside a value is never found. A
header with one flipped bit is mended from its checksum: CRC32C has a Hamming distance of at least
4 up to 5,243 bits (Koopman 2002), so the mending is unique, and `find_flipped_bit` tries them all.
These constants are part of the format.
"""

import struct
from collections.abc import Iterator

import google_crc32c
import msgspec

from pulzar.disk import Readable
from pulzar.limits import KEY_BYTES_MAX, MIB
from pulzar.varidb import record as rec
from pulzar.varidb.record import Header, Record

SEGMENT_MAGIC = b"PULZSEG1"
SEGMENT_HEADER_BYTES = 128
FORMAT = 1
KIND_LOG = 0
KIND_COMPACTED = 1
SALT_BYTES = 16

_HEADER = struct.Struct("<8sIHH16s16sQQQQQ16s24x")
_MAGIC_BYTES = struct.pack("<I", rec.MAGIC)
_WINDOW_BYTES = 1 * MIB

_crc32c = google_crc32c.extend


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first 128 bytes of a segment."""

    volume_id: bytes
    salt: bytes
    segment_id: int
    kind: int = KIND_LOG
    previous_id: int = 0
    previous_end: int = 0
    first_seq: int = 0
    created_ms: int = 0
    opening: bytes = bytes(16)
    format: int = FORMAT

    @property
    def seed(self) -> int:
        """The start value of every header crc in this segment."""
        return rec.segment_seed(self.salt, self.segment_id)


class Found(msgspec.Struct, frozen=True, gc=False):
    """A place whose record header holds. `record` is None where the body crc does not.

    `mended` is whether one flipped bit of the header was put right.
    """

    offset: int
    header: Header
    record: Record | None
    mended: bool = False

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + rec.padded(self.header.length)


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Bytes that are no record: from `offset` up to `end`, where the next one begins, if any."""

    offset: int
    end: int


def segment_name(segment_id: int) -> str:
    """The file name of a segment."""
    return f"{segment_id:08d}.seg"


def segment_id_of(name: str) -> int | None:
    """The id in a segment's file name; None where the name is not one."""
    stem, dot, suffix = name.partition(".")
    return int(stem) if dot and suffix == "seg" and stem.isdecimal() else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The 128 bytes of a segment header."""
    packed = _HEADER.pack(
        SEGMENT_MAGIC,
        0,
        header.format,
        header.kind,
        header.volume_id,
        header.salt,
        header.segment_id,
        header.previous_id,
        header.previous_end,
        header.first_seq,
        header.created_ms,
        header.opening,
    )
    crc = _crc32c(_crc32c(0, packed[:8]), packed[12:])
    return packed[:8] + struct.pack("<I", crc) + packed[12:]


def decode_segment_header(buffer: bytes) -> SegmentHeader | None:
    """The header in the first 128 bytes of a file, or None where they are not one."""
    if len(buffer) < SEGMENT_HEADER_BYTES:
        return None
    packed = buffer[:SEGMENT_HEADER_BYTES]
    fields = _HEADER.unpack(packed)
    if fields[0] != SEGMENT_MAGIC or _crc32c(_crc32c(0, packed[:8]), packed[12:]) != fields[1]:
        return None
    return SegmentHeader(
        format=fields[2],
        kind=fields[3],
        volume_id=fields[4],
        salt=fields[5],
        segment_id=fields[6],
        previous_id=fields[7],
        previous_end=fields[8],
        first_seq=fields[9],
        created_ms=fields[10],
        opening=fields[11],
    )


def read_record(file: Readable, *, offset: int, length: int, seed: int) -> Record | None:
    """The record of `length` bytes at `offset`, or None where its bytes do not hold."""
    return rec.decode(file.read(length, offset=offset), 0, offset=offset, seed=seed)


def header_at(file: Readable, *, offset: int, seed: int) -> Header | None:
    """The header of the record that begins at `offset`; None where there is none."""
    buffer = file.read(rec.HEADER_BYTES + KEY_BYTES_MAX, offset=offset)
    header = rec.decode_header(buffer, 0, offset=offset, seed=seed)
    return header or find_flipped_bit(buffer, 0, offset=offset, seed=seed)


class _Window:
    """A sliding buffer over a file, so that a scan holds at most a window and one record."""

    def __init__(self, file: Readable, *, end: int) -> None:
        self._file = file
        self._end = end
        self.start = 0
        self.buffer = b""

    def at(self, offset: int, length: int) -> int:
        """Make `length` bytes at `offset` available (fewer at the end); their buffer index."""
        have_end = self.start + len(self.buffer)
        if offset < self.start or offset + length > have_end:
            want = min(max(length, _WINDOW_BYTES), self._end - offset)
            self.buffer = self._file.read(want, offset=offset) if want > 0 else b""
            self.start = offset
        return offset - self.start


def scan(file: Readable, *, start: int, end: int, seed: int) -> Iterator[Found | Gap]:
    """Every record between two offsets of a segment, and the gaps between them, in order.

    `start` is a multiple of 8. Reads about 1 MiB at a time. Raises OSError.
    """
    window = _Window(file, end=end)
    offset = start
    while offset < end:
        found = _record_at(window, offset, seed=seed, mend=True)
        if found is None:
            resumed = _next_record(window, offset + rec.ALIGNMENT, end=end, seed=seed)
            yield Gap(offset, resumed)
            offset = resumed
        else:
            yield found
            offset = found.end


def _record_at(window: _Window, offset: int, *, seed: int, mend: bool) -> Found | None:
    at = window.at(offset, rec.HEADER_BYTES + KEY_BYTES_MAX)
    header = rec.decode_header(window.buffer, at, offset=offset, seed=seed)
    mended = False
    if header is None:
        if not mend:
            return None
        header = find_flipped_bit(window.buffer, at, offset=offset, seed=seed)
        if header is None:
            return None
        mended = True
    at = window.at(offset, header.length)
    body_start = at + rec.HEADER_BYTES + header.key_length
    body = window.buffer[body_start : body_start + header.meta_length + header.value_length]
    return Found(offset, header, rec.decode_body(header, body), mended)


def _next_record(window: _Window, offset: int, *, end: int, seed: int) -> int:
    """The offset of the next valid record at or behind `offset`; `end` where there is none."""
    while offset < end:
        at = window.at(offset, rec.HEADER_BYTES)
        hit = window.buffer.find(_MAGIC_BYTES, at)
        if hit < 0:
            # The magic may straddle the window's end; multiples of 8 cannot.
            offset = min(end, window.start + (len(window.buffer) & ~7) or end)
            if len(window.buffer) < rec.ALIGNMENT:
                return end
            continue
        offset = window.start + hit
        if offset % rec.ALIGNMENT:
            offset += rec.ALIGNMENT - offset % rec.ALIGNMENT
            continue
        if _record_at(window, offset, seed=seed, mend=False) is not None:
            return offset
        offset += rec.ALIGNMENT
    return end


def find_flipped_bit(buffer: bytes, at: int, *, offset: int, seed: int) -> Header | None:
    """The header at `buffer[at:]` where exactly one bit of it, or of its key, was flipped.

    Only tried where at most one bit of the magic differs, so that a scan over other data is fast.
    """
    prefix = buffer[at : at + rec.HEADER_BYTES + KEY_BYTES_MAX]
    difference = int.from_bytes(prefix[:4], "little") ^ rec.MAGIC
    if len(prefix) < rec.HEADER_BYTES or difference.bit_count() > 1:
        return None
    key_length = int.from_bytes(prefix[10:12], "little")
    bits = max(rec.HEADER_BYTES, min(len(prefix), rec.HEADER_BYTES + key_length)) * 8
    for bit in range(bits):
        mended = bytearray(prefix)
        mended[bit >> 3] ^= 1 << (bit & 7)
        header = rec.decode_header(bytes(mended), 0, offset=offset, seed=seed)
        if header is not None:
            return header
    return None
