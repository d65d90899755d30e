"""The footer of a sealed segment: its records by key, so that nobody reads the data again.

Behind the last record of a sealed segment, all little-endian:

      records end                                                             file end - 128
      +-------------------+-----------+------+-------------------+-------+----+---------+
      | entries (n x 64)  | keys      | ends | notes (m x 64)    |inputs |bloom| trailer|
      | sorted by key     | one after | n x  | EPOCH, MEMBERS,   |p x 16 |    |         |
      |                   | another   | u32  | PURGE records     |       |    |         |
      +-------------------+-----------+------+-------------------+-------+----+---------+

entries  position entries (position.py), by key; of one key the newest (version, seq) first.
ends     where each key ends in keys.
notes    position entries with an empty key.
inputs   after compaction: ranges (first id, last id) of every segment that this one stands for.
bloom    10 bits a key, 4 probes (1.2 % false answers: Kirsch and Mitzenmacher 2006).

      trailer, 128 bytes:
      0           8      12        16        32     48    56          64         72
      +-----------+------+---------+---------+------+-----+-----------+----------+---------+
      |"PULZEND1" | crc  |body crc |volume id| salt | id  |records end| first seq| last seq|
      +-----------+------+---------+---------+------+-----+-----------+----------+---------+
      80          88             92         96           100      104      108       112
      +-----------+--------------+----------+------------+--------+--------+---------+---------+
      |max version| entries      | keys     | notes      |inputs  | bloom  | kind u16| live    |
      |           | count        | bytes    | count      |count   | bytes  | zeros   | bytes   |
      +-----------+--------------+----------+------------+--------+--------+---------+---------+

crc covers bytes 0..8 and 12..128, body crc everything from the records' end to the trailer. The
trailer repeats volume id, salt and kind, so that a damaged segment header can be told and mended.
Part of the format.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import google_crc32c
import msgspec

from pulzar.disk import Readable
from pulzar.errors import Damage
from pulzar.varidb.position import (
    ENTRY_TYPE_AT,
    POSITION_BYTES,
    Position,
    pack_position,
    unpack_position,
)
from pulzar.varidb.record import KEPT_FOREVER, KEYED, padded
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, SegmentHeader

TRAILER_MAGIC = b"PULZEND1"
TRAILER_BYTES = 128
BLOOM_BITS_PER_KEY = 10
BLOOM_PROBES = 4

_TRAILER = struct.Struct("<8sII16s16sQQQQQIIIIIHxxQ8x")
_RANGE = struct.Struct("<QQ")
_ENTRY_ORDER = struct.Struct("<24xQQ")  # seq, version of a packed position
_ENTRY_PLACE = struct.Struct("<I4xIB")
_ENTRY_SIZE = struct.Struct("<40xQ")
_BLOOM_SEED = 0x9E3779B9

_crc32c = google_crc32c.extend


class Trailer(msgspec.Struct, frozen=True, kw_only=True):
    """The last 128 bytes of a sealed segment."""

    body_crc: int
    volume_id: bytes
    salt: bytes
    segment_id: int
    records_end: int
    first_seq: int
    last_seq: int
    max_version: int
    entries: int
    keys_bytes: int
    notes: int
    inputs: int
    bloom_bytes: int
    kind: int
    record_bytes: int


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """A footer in memory. `keys` and `entries` are parallel, in the order of the file."""

    trailer: Trailer
    keys: list[bytes]
    entries: list[bytes]
    notes: list[Position]
    inputs: list[tuple[int, int]]
    bloom: bytes

    def newest(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Every entry as (key, version, type, seq), without a look at its checksum."""
        for key, entry in zip(self.keys, self.entries, strict=True):
            seq, version = _ENTRY_ORDER.unpack_from(entry)
            yield key, version, entry[ENTRY_TYPE_AT], seq

    def positions(self) -> Iterator[tuple[bytes, Position]]:
        """Every entry, unpacked. Raises Damage."""
        for key, entry in zip(self.keys, self.entries, strict=True):
            yield key, unpack_position(key, entry)


def position_of(found: Found, *, segment_id: int, size: int) -> Position:
    """The position of a record that a scan found."""
    header = found.header
    return Position(
        segment_id,
        found.offset,
        header.length,
        header.type,
        header.flags,
        header.key_length,
        header.meta_length,
        header.seq,
        header.version,
        size,
        header.created_ms,
        header.expires_s,
    )


def build_footer(
    header: SegmentHeader,
    records: Iterable[tuple[bytes, Position]],
    *,
    records_end: int,
    inputs: Sequence[tuple[int, int]] = (),
) -> bytes:
    """The footer of a segment that holds `records` (keyed ones and notes, in any order)."""
    keyed: list[tuple[bytes, int, int, bytes]] = []
    notes: list[bytes] = []
    first_seq, last_seq = header.first_seq, max(header.first_seq - 1, 0)
    max_version = record_bytes = 0
    for key, position in records:
        first_seq = position.seq if not record_bytes else min(first_seq, position.seq)
        last_seq = max(last_seq, position.seq)
        max_version = max(max_version, position.version)
        record_bytes += padded(position.length)
        packed = pack_position(key, position)
        if position.type in KEYED:
            keyed.append((key, -position.version, -position.seq, packed))
        elif position.type in KEPT_FOREVER:
            notes.append(packed)
    keyed.sort()
    keys = b"".join(item[0] for item in keyed)
    ends = _ends(item[0] for item in keyed)
    bloom = _build_bloom([item[0] for item in keyed])
    body = b"".join(
        [
            *(item[3] for item in keyed),
            keys,
            struct.pack(f"<{len(ends)}I", *ends),
            *notes,
            *(_RANGE.pack(*pair) for pair in inputs),
            bloom,
        ]
    )
    trailer = Trailer(
        body_crc=_crc32c(0, body),
        volume_id=header.volume_id,
        salt=header.salt,
        segment_id=header.segment_id,
        records_end=records_end,
        first_seq=first_seq,
        last_seq=last_seq,
        max_version=max_version,
        entries=len(keyed),
        keys_bytes=len(keys),
        notes=len(notes),
        inputs=len(inputs),
        bloom_bytes=len(bloom),
        kind=header.kind,
        record_bytes=record_bytes,
    )
    return body + _encode_trailer(trailer)


def _ends(keys: Iterable[bytes]) -> list[int]:
    ends: list[int] = []
    end = 0
    for key in keys:
        end += len(key)
        ends.append(end)
    return ends


def _encode_trailer(trailer: Trailer) -> bytes:
    packed = _TRAILER.pack(TRAILER_MAGIC, 0, *msgspec.structs.astuple(trailer))
    crc = _crc32c(_crc32c(0, packed[:8]), packed[12:])
    return packed[:8] + struct.pack("<I", crc) + packed[12:]


def read_trailer(file: Readable) -> Trailer | None:
    """The trailer of a segment, or None where the file does not end with one."""
    size = file.size()
    if size < SEGMENT_HEADER_BYTES + TRAILER_BYTES:
        return None
    packed = file.read(TRAILER_BYTES, offset=size - TRAILER_BYTES)
    if len(packed) != TRAILER_BYTES or packed[:8] != TRAILER_MAGIC:
        return None
    fields = _TRAILER.unpack(packed)
    if _crc32c(_crc32c(0, packed[:8]), packed[12:]) != fields[1]:
        return None
    trailer = Trailer(
        **dict(zip(Trailer.__struct_fields__, fields[2:], strict=True)),
    )
    return trailer if trailer.records_end + _body_bytes(trailer) + TRAILER_BYTES == size else None


def _body_bytes(trailer: Trailer) -> int:
    return (
        (trailer.entries + trailer.notes) * POSITION_BYTES
        + trailer.keys_bytes
        + trailer.entries * 4
        + trailer.inputs * _RANGE.size
        + trailer.bloom_bytes
    )


def read_body(file: Readable, trailer: Trailer) -> bytes:
    """Everything between records end and trailer. Raises Damage where it does not hold."""
    body = file.read(_body_bytes(trailer), offset=trailer.records_end)
    if len(body) != _body_bytes(trailer) or _crc32c(0, body) != trailer.body_crc:
        raise Damage(f"the footer of segment {trailer.segment_id} does not match its checksum")
    return body


def columns(
    body: bytes, trailer: Trailer, *, start: int, stop: int
) -> tuple[list[bytes], list[bytes]]:
    """Keys and entries number start..stop of a footer's body."""
    stop = min(stop, trailer.entries)
    keys_at = trailer.entries * POSITION_BYTES
    ends_at = keys_at + trailer.keys_bytes
    first = max(start - 1, 0)
    ends = struct.unpack_from(f"<{stop - first}I", body, ends_at + first * 4)
    bounds = (0, *ends) if start == 0 else ends
    return (
        [body[keys_at + low : keys_at + high] for low, high in pairwise(bounds)],
        [
            body[at : at + POSITION_BYTES]
            for at in range(start * POSITION_BYTES, stop * POSITION_BYTES, POSITION_BYTES)
        ],
    )


def read_footer(file: Readable, trailer: Trailer) -> Footer:
    """The footer that `trailer` describes. Raises Damage where its checksum does not hold."""
    body = read_body(file, trailer)
    keys, entries = columns(body, trailer, start=0, stop=trailer.entries)
    notes_at = trailer.entries * (POSITION_BYTES + 4) + trailer.keys_bytes
    inputs_at = notes_at + trailer.notes * POSITION_BYTES
    bloom_at = inputs_at + trailer.inputs * _RANGE.size
    return Footer(
        trailer=trailer,
        keys=keys,
        entries=entries,
        notes=[
            unpack_position(b"", body[at : at + POSITION_BYTES])
            for at in range(notes_at, inputs_at, POSITION_BYTES)
        ],
        inputs=list(_RANGE.iter_unpack(body[inputs_at:bloom_at])),
        bloom=body[bloom_at:],
    )


def entry_order(entry: bytes) -> tuple[int, int]:
    """(version, seq) of a packed position, without checking it."""
    seq, version = _ENTRY_ORDER.unpack_from(entry)
    return version, seq


def entry_place(entry: bytes) -> tuple[int, int, int]:
    """(segment, length, type) of a packed position, without checking it."""
    segment, length, type_ = _ENTRY_PLACE.unpack_from(entry)
    return segment, length, type_


def entry_size(entry: bytes) -> int:
    """The value's size in a packed position, without checking it."""
    return int(_ENTRY_SIZE.unpack_from(entry)[0])


def entry_type(entry: bytes) -> int:
    """The record type of a packed position, without checking it."""
    return entry[ENTRY_TYPE_AT]


def _probes(key: bytes, bits: int) -> Iterator[int]:
    first = _crc32c(0, key)
    second = _crc32c(_BLOOM_SEED, key) | 1
    return ((first + probe * second) % bits for probe in range(BLOOM_PROBES))


def _build_bloom(keys: Sequence[bytes]) -> bytes:
    bits = (len(keys) * BLOOM_BITS_PER_KEY + 7) & ~7
    bloom = bytearray(bits // 8)
    for key in keys:
        for bit in _probes(key, bits):
            bloom[bit >> 3] |= 1 << (bit & 7)
    return bytes(bloom)


def bloom_may_hold(bloom: bytes, key: bytes) -> bool:
    """False where the segment certainly holds no record of `key`."""
    if not bloom:
        return False
    return all(bloom[bit >> 3] >> (bit & 7) & 1 for bit in _probes(key, len(bloom) * 8))
