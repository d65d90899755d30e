"""The position: where the latest record of a key is, as the index and the footers keep it.

One fixed entry serves both, byte for byte, so that an index is rebuilt by copying footers:

      0         4        8        12     13      14           16          20         24
      +---------+--------+--------+------+-------+------------+-----------+----------+
      | segment | offset | length | type | flags | key length | meta len. | checksum |
      +---------+--------+--------+------+-------+------------+-----------+----------+
      24        32       40       48             56           64
      +---------+--------+--------+--------------+------------+
      | seq     | version| size   | created (ms) | expires (s)|
      +---------+--------+--------+--------------+------------+

length is the record's without padding; size is the value's as users see it (a blob's own size).
checksum is the CRC32C of the key, then the entry with this field zero. Little-endian. Part of the
format.
"""

import struct

import google_crc32c
import msgspec

from pulzar.errors import Damage
from pulzar.varidb.record import HEADER_BYTES, Record

POSITION_BYTES = 64
ENTRY_TYPE_AT = 12

_ENTRY = struct.Struct("<IIIBBHIIQQQQQ")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = 20
_NO_CHECKSUM = bytes(4)

_crc32c = google_crc32c.extend


class Position(msgspec.Struct, frozen=True, gc=False):
    """Where a record is and what its header says. `type` is a `record.Type` number."""

    segment: int
    offset: int
    length: int
    type: int
    flags: int
    key_length: int
    meta_length: int
    seq: int
    version: int
    size: int
    created_ms: int
    expires_s: int

    @property
    def order(self) -> tuple[int, int]:
        """What decides between two records of one key in one volume."""
        return (self.version, self.seq)


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """How far a view has followed a log: the id of that opening, and the last seq it has."""

    opening: bytes
    seq: int


NOWHERE = Cursor(b"", 0)


def pack_position(key: bytes, position: Position) -> bytes:
    """The entry of `key`, with its checksum."""
    (
        segment,
        offset,
        length,
        type_,
        flags,
        key_length,
        meta_length,
        seq,
        version,
        size,
        created_ms,
        expires_s,
    ) = msgspec.structs.astuple(position)
    entry = _ENTRY.pack(
        segment,
        offset,
        length,
        type_,
        flags,
        key_length,
        meta_length,
        0,
        seq,
        version,
        size,
        created_ms,
        expires_s,
    )
    checksum = _CHECKSUM.pack(_crc32c(_crc32c(0, key), entry))
    return entry[:_CHECKSUM_AT] + checksum + entry[_CHECKSUM_AT + 4 :]


def pack_place(record: Record, *, segment: int, offset: int, seq: int) -> bytes:
    """The entry of a PUT or DELETE record at its place: as `pack_position`, only faster."""
    key, value = record.key, record.value
    size = len(value)
    entry = _ENTRY.pack(
        segment,
        offset,
        HEADER_BYTES + len(key) + len(record.meta) + size,
        record.type,
        record.flags,
        len(key),
        len(record.meta),
        0,
        seq,
        record.version,
        size,
        record.created_ms,
        record.expires_s,
    )
    checksum = _CHECKSUM.pack(_crc32c(_crc32c(0, key), entry))
    return entry[:_CHECKSUM_AT] + checksum + entry[_CHECKSUM_AT + 4 :]


def unpack_position(key: bytes, entry: bytes) -> Position:
    """The position in `entry`. Raises Damage where the entry is not one of `key`."""
    if len(entry) != POSITION_BYTES:
        raise Damage("an index entry has the wrong length")
    fields = _ENTRY.unpack(entry)
    bare = entry[:_CHECKSUM_AT] + _NO_CHECKSUM + entry[_CHECKSUM_AT + 4 :]
    if _crc32c(_crc32c(0, key), bare) != fields[7]:
        raise Damage("an index entry does not match its checksum")
    return Position(*fields[:7], *fields[8:])
