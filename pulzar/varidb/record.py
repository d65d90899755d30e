"""The record: one PUT or DELETE of one key, or one note of the log itself.

All integers are little-endian. A record begins at a multiple of 8 in its segment and is padded
with zeros to a multiple of 8.

      0      4      8    9     10         12           16            20         24
      +------+------+----+-----+----------+------------+-------------+----------+
      |magic |header|type|flags|key length|meta length |value length |body      |
      |      |crc   |    |     |          |            |             |crc       |
      +------+------+----+-----+----------+------------+-------------+----------+
      24            32             40             48               56            64
      +-------------+--------------+--------------+----------------+-------------+
      |seq          |version       |synced         |created (ms)   |expires (s)  |
      +-------------+--------------+--------------+----------------+-------------+
      64
      +-----+------+-------+--------------------+
      | key | meta | value | zeros to next 8    |
      +-----+------+-------+--------------------+

header crc   CRC32C over: the segment's seed (itself the CRC32C of salt and segment id), the
             record's offset in the file (u64), bytes 8..64 of the header, the key. So a record is
             valid at one place of one segment only; a copy of it inside a value is not.
body crc     CRC32C over meta and value.
synced       the highest seq that was durable when this record was written. It tells a torn tail
             (written, never acknowledged) from damage (was durable once).
flags        of a PUT or BLOB, bits 0 to 4: on how many volumes it is to be, 1 to 31; 0: as many as
             the site says. The other bits are 0, and ignored when read.
created      milliseconds since 1970; expires: seconds since 1970, 0 = never.
meta         empty, or JSON: {"content_type": "text/plain", "replicas": 2}. Readers ignore keys
             unknown to them.

Lengths are trusted only after the header crc holds. A deleted key is a type, never a magic value.
These constants are part of the format and should not be changed; docs/log-format.md explains
them to other readers, tests/golden/ pins them.
"""

import struct
from enum import IntEnum

import google_crc32c
import msgspec

from pulzar.limits import COUNTER_BITS

MAGIC = 0x315A5052  # "RPZ1" in the file
HEADER_BYTES = 64
ALIGNMENT = 8

_HEADER = struct.Struct("<IIBBHIIIQQQQQ")
_PREFIX = struct.Struct("<II")
_COVERED = struct.Struct("<QBBHIIIQQQQQ")  # offset, then the header from byte 8
_U64 = struct.Struct("<Q")

_crc32c = google_crc32c.extend


class Type(IntEnum):
    """What a record says. Numbers are part of the format."""

    PUT = 1  # key = value
    DELETE = 2  # key is gone
    BLOB = 3  # key = the file that the value names (see blob.py)
    MOVED = 4  # this volume no longer holds the key's version
    OPEN = 5  # the log was opened for writing; value: 16 random bytes, the id of the opening
    CHECKPOINT = 6  # nothing but a newer `synced`
    EPOCH = 7  # a promise: no version below this one will be accepted any more
    MEMBERS = 8  # the cluster's volumes; value: JSON {"generation": n, "members": [...]}
    PURGE = 9  # deletes up to this version may be gone


REPLICAS_MASK = 31  # of the flags

KEYED = frozenset({Type.PUT, Type.DELETE, Type.BLOB, Type.MOVED})
KEPT_FOREVER = frozenset({Type.EPOCH, Type.MEMBERS, Type.PURGE})


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One record. `seq` and `synced` are 0 until the log has placed it."""

    type: Type
    key: bytes = b""
    value: bytes = b""
    meta: bytes = b""
    version: int = 0
    seq: int = 0
    synced: int = 0
    created_ms: int = 0
    expires_s: int = 0
    flags: int = 0


class Header(msgspec.Struct, frozen=True, gc=False):
    """The fixed part of a record whose header crc held, and the key that it covers."""

    type: int
    flags: int
    key_length: int
    meta_length: int
    value_length: int
    body_crc: int
    seq: int
    version: int
    synced: int
    created_ms: int
    expires_s: int
    key: bytes

    @property
    def length(self) -> int:
        """Bytes of header, key, meta and value, without padding."""
        return HEADER_BYTES + self.key_length + self.meta_length + self.value_length


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a record's meta may say. Unknown members are ignored when reading."""

    content_type: str = ""
    replicas: int = 0


def padded(length: int) -> int:
    """The space that a record of `length` bytes takes in its segment."""
    return (length + 7) & ~7


def record_length(record: Record) -> int:
    """Bytes of header, key, meta and value, without padding."""
    return HEADER_BYTES + len(record.key) + len(record.meta) + len(record.value)


def segment_seed(salt: bytes, segment_id: int) -> int:
    """The start value of every header crc of one segment."""
    return int(_crc32c(0, salt + _U64.pack(segment_id)))


def encode(record: Record, *, seq: int, synced: int, offset: int, seed: int) -> bytes:
    """The bytes of `record` for one place of one segment, padding included."""
    key, meta, value = record.key, record.meta, record.value
    body = meta + value if meta else value
    covered = _COVERED.pack(
        offset,
        record.type,
        record.flags,
        len(key),
        len(meta),
        len(value),
        _crc32c(0, body),
        seq,
        record.version,
        synced,
        record.created_ms,
        record.expires_s,
    )
    prefix = _PREFIX.pack(MAGIC, _crc32c(seed, covered + key))
    padding = -(HEADER_BYTES + len(key) + len(body)) & 7
    return b"".join((prefix, covered[8:], key, body, bytes(padding)))


def decode_header(buffer: bytes, at: int, *, offset: int, seed: int) -> Header | None:
    """The header at `buffer[at:]`, or None where its bytes are not those of one.

    `offset` is where the record begins in the segment. The key must be in the buffer too.
    """
    if at + HEADER_BYTES > len(buffer):
        return None
    magic, crc, *fields = _HEADER.unpack_from(buffer, at)
    if magic != MAGIC:
        return None
    key_end = at + HEADER_BYTES + fields[2]
    covered = _U64.pack(offset) + buffer[at + 8 : key_end]
    if key_end > len(buffer) or _crc32c(seed, covered) != crc:
        return None
    return Header(*fields, buffer[at + HEADER_BYTES : key_end])  # type: ignore[call-arg]


def decode_body(header: Header, body: bytes) -> Record | None:
    """The whole record, `body` being meta and value; None where the body crc does not hold."""
    if len(body) != header.meta_length + header.value_length:
        return None
    if _crc32c(0, body) != header.body_crc:
        return None
    return Record(
        type=Type(header.type),
        key=header.key,
        value=body[header.meta_length :] if header.meta_length else body,
        meta=body[: header.meta_length],
        version=header.version,
        seq=header.seq,
        synced=header.synced,
        created_ms=header.created_ms,
        expires_s=header.expires_s,
        flags=header.flags,
    )


def decode(buffer: bytes, at: int, *, offset: int, seed: int) -> Record | None:
    """The record at `buffer[at:]`, or None where any byte of it is not what was written."""
    header = decode_header(buffer, at, offset=offset, seed=seed)
    if header is None:
        return None
    start = at + HEADER_BYTES + header.key_length
    return decode_body(header, buffer[start : start + header.meta_length + header.value_length])


def encode_meta(content_type: str, replicas: int = 0) -> bytes:
    """The meta of a value; empty where it says nothing."""
    if not content_type and not replicas:
        return b""
    return msgspec.json.encode(Meta(content_type=content_type, replicas=replicas))


def decode_meta(meta: bytes) -> Meta:
    """What `meta` says."""
    return msgspec.json.decode(meta, type=Meta) if meta else Meta()


def make_version(epoch: int, counter: int) -> int:
    """The version that orders by epoch first, then by counter."""
    return epoch << COUNTER_BITS | counter


def epoch_of(version: int) -> int:
    """The epoch of a version."""
    return version >> COUNTER_BITS
