"""What the catalog keeps of one key, its bytes, and which of two records wins. No I/O.

A live key's row, all little-endian:

      0          4         12     20           28          36      37       38             40
      +----------+---------+------+------------+-----------+-------+--------+--------------+
      | checksum | version | size | created ms | expires s | flags |holders | content type |
      |          |         |      |            |           |       | count  | length       |
      +----------+---------+------+------------+-----------+-------+--------+--------------+
      40
      +---------------------------+--------------+--------------+
      | holders: n x (number u16, | content type | inline value |
      |               stamp u64)  |              |              |
      +---------------------------+--------------+--------------+

checksum  CRC32C of the key, then everything behind the checksum.
flags     1 complete: content type and inline value are known; 2 there is an inline value;
          4 a PUT or BLOB was seen (else only a MOVED: the version is known, its size is not);
          from 8 on how many volumes are to hold it, 0 to 31, 0 for as many as the site says.
stamp     seq << 1 | moved: the newest record of this version in that volume, and whether it says
          that the volume no longer has it. Such a row is not a holder, but is remembered.

A deleted key's row: checksum, version.

`decide` takes records in any order, any number of times, and ends in the same state: the largest
version wins; at the same version a DELETE wins over a PUT; of one volume at that version the
largest seq wins. So a catalog filled from footers in any order equals the one that followed.
"""

import struct
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import NamedTuple

import google_crc32c
import msgspec

from pulzar.errors import Damage
from pulzar.limits import INLINE_BYTES_MAX
from pulzar.varidb.entry import Entry
from pulzar.varidb.position import Position
from pulzar.varidb.record import REPLICAS_MASK, Record, Type

COMPLETE = 1
INLINE = 2
SEEN = 4
REPLICAS_SHIFT = 3
_TELLING = COMPLETE | SEEN

_HEAD = struct.Struct("<QQQQBBH")  # behind the checksum
_ONE_HOLDER = struct.Struct("<QQQQBBHHQ")  # nearly every row
_HEAD_BYTES = 40
_HOLDER_BYTES = 10
_HOLDERS_AT = 37
_ENTRY = struct.Struct("<12xBB2xIIQQQQQ")  # of a position, from its type on (position.py)
_CHECKSUM_AT = 20
_NO_CHECKSUM = bytes(4)
_DELETED = struct.Struct("<IQ")

ORDER = struct.Struct(">Q")
"""A time in front of a key, so that it sorts."""

_PUT = int(Type.PUT)
_DELETE = int(Type.DELETE)
_BLOB = int(Type.BLOB)
_MOVED = int(Type.MOVED)

_crc32c = google_crc32c.extend


class Change(msgspec.Struct, frozen=True, gc=False):
    """One keyed record of a log, as far as the catalog is concerned.

    `inline`: the value, if it is one of at most INLINE_BYTES_MAX, else None. `seq` 0: not known,
    but behind everything that came before. `complete` False: content type and inline value are
    not known.
    """

    key: bytes
    type: int
    version: int
    size: int
    created_ms: int
    expires_s: int
    content_type: str = ""
    inline: bytes | None = None
    seq: int = 0
    complete: bool = True
    replicas: int = 0


class Newest(msgspec.Struct, frozen=True, gc=False):
    """A PUT, BLOB or DELETE that is newer than all records of its key.

    `size` is the value's as users see it; `replaces` what the catalog has of the key, if anything.
    """

    record: Record
    size: int
    content_type: str
    replaces: Entry | None
    replicas: int = 0


class Row(msgspec.Struct, frozen=True, gc=False):
    """A live key's row, unpacked. `holders` are (number, stamp)."""

    version: int
    size: int
    created_ms: int
    expires_s: int
    flags: int
    holders: tuple[tuple[int, int], ...]
    content_type: bytes
    inline: bytes

    @property
    def replicas(self) -> int:
        """How many volumes are to hold it; 0: as many as the site says, or not known."""
        return self.flags >> REPLICAS_SHIFT

    @property
    def copies(self) -> tuple[int, ...]:
        """The numbers of the volumes that have it."""
        return tuple(number for number, stamp in self.holders if not stamp & 1)


def times(known: Row | Entry | int | None) -> tuple[int | None, int]:
    """When a key was created, and expires; of one that is not there, nothing."""
    if known is None or isinstance(known, int):
        return None, 0
    return known.created_ms, known.expires_s


def decide(known: Row | int | None, change: Change, *, holder: int, seq: int) -> Row | int | None:
    """What is known of a key after a record: a row, the version at which it was deleted, or
    None: nothing. `known` itself where the record changes nothing."""
    version = change.version
    stamp = seq << 1 | (change.type == _MOVED)
    if isinstance(known, Row):
        if version < known.version:
            return known
        if change.type == _DELETE:
            return version
        if version == known.version:
            return _joined(known, change, holder, stamp)
    elif known is not None and version <= known:
        return known
    return version if change.type == _DELETE else _row(change, ((holder, stamp),))


def _row(change: Change, holders: tuple[tuple[int, int], ...]) -> Row:
    seen = change.type != _MOVED
    complete = seen and change.complete
    inline = change.inline if complete else None
    return Row(
        change.version,
        change.size,
        change.created_ms,
        change.expires_s,
        seen * SEEN
        | complete * COMPLETE
        | (inline is not None) * INLINE
        | (change.replicas if seen else 0) << REPLICAS_SHIFT,
        holders,
        change.content_type.encode() if complete else b"",
        inline or b"",
    )


def _joined(known: Row, change: Change, holder: int, stamp: int) -> Row:
    """The row after another record of its version."""
    old = dict(known.holders)
    holders = known.holders
    if stamp >> 1 >= old.get(holder, 0) >> 1:
        holders = tuple(sorted({**old, holder: stamp}.items()))
    if _row(change, ()).flags & ~known.flags & _TELLING:
        return _row(change, holders)  # it tells more
    return known if holders == known.holders else msgspec.structs.replace(known, holders=holders)


def refilled(row: Row, content_type: str, inline: bytes | None, replicas: int = 0) -> Row:
    """The row with what only the record itself says."""
    return msgspec.structs.replace(
        row,
        flags=row.flags | COMPLETE | (inline is not None) * INLINE | replicas << REPLICAS_SHIFT,
        content_type=content_type.encode(),
        inline=inline or b"",
    )


def change_of(key: bytes, position: Position) -> Change:
    """What a position tells: everything but content type and inline value, if there are any."""
    # Of a BLOB whose record is damaged, the size is not known.
    empty = position.type == _PUT and position.meta_length == 0 and position.size == 0
    complete = empty or (position.meta_length == 0 and position.size > INLINE_BYTES_MAX)
    return Change(
        key,
        position.type,
        position.version,
        position.size,
        position.created_ms,
        position.expires_s,
        "",
        b"" if empty else None,
        position.seq,
        complete,
        position.flags & REPLICAS_MASK,
    )


def pack_row(key: bytes, row: Row) -> bytes:
    """The bytes of a row, with their checksum."""
    holders = row.holders
    if len(holders) == 1:
        ((number, stamp),) = holders
        fixed = _ONE_HOLDER.pack(
            row.version,
            row.size,
            row.created_ms,
            row.expires_s,
            row.flags,
            1,
            len(row.content_type),
            number,
            stamp,
        )
    else:
        fixed = _HEAD.pack(
            row.version,
            row.size,
            row.created_ms,
            row.expires_s,
            row.flags,
            len(holders),
            len(row.content_type),
        ) + _holders(len(holders)).pack(*chain.from_iterable(holders))
    rest = fixed + row.content_type + row.inline
    return int(_crc32c(_crc32c(0, key), rest)).to_bytes(4, "little") + rest


def pack_newest(change: Newest, holders: tuple[tuple[int, int], ...]) -> bytes:
    """What `decide` and `pack_row` make of a PUT or BLOB of a new version, only faster.

    `holders` are (number, stamp), sorted.
    """
    record, content_type = change.record, change.content_type.encode()
    # A value that was uploaded is not in the record.
    inline = record.type == _PUT and len(record.value) == change.size <= INLINE_BYTES_MAX
    flags = SEEN | COMPLETE | INLINE if inline else SEEN | COMPLETE
    if change.replicas:
        flags |= change.replicas << REPLICAS_SHIFT
    if len(holders) == 1:
        ((number, stamp),) = holders
        rest = _ONE_HOLDER.pack(
            record.version,
            change.size,
            record.created_ms,
            record.expires_s,
            flags,
            1,
            len(content_type),
            number,
            stamp,
        )
    else:
        rest = _HEAD.pack(
            record.version,
            change.size,
            record.created_ms,
            record.expires_s,
            flags,
            len(holders),
            len(content_type),
        ) + _holders(len(holders)).pack(*chain.from_iterable(holders))
    rest = b"".join((rest, content_type, record.value)) if inline else rest + content_type
    return int(_crc32c(_crc32c(0, record.key), rest)).to_bytes(4, "little") + rest


class Loaded(NamedTuple):
    """Rows made of packed positions; `counts` are keys and bytes of their values, by the number of
    volumes that are to hold them. `rest` are the ones that need a look at what is there."""

    rows: list[tuple[bytes, bytes]]
    counts: dict[int, tuple[int, int]]
    created: list[bytes]
    expiry: list[bytes]
    rest: list[tuple[bytes, bytes]]


def pack_loaded(
    keys: Sequence[bytes], entries: Sequence[bytes], *, holder: int, known: Collection[bytes]
) -> Loaded:
    """What `decide` and `pack_row` make of packed positions, sorted by key, only faster: of those
    that are a PUT or BLOB of a key that is not `known`. Raises Damage."""
    rows: list[tuple[bytes, bytes]] = []
    created: list[bytes] = []
    expiry: list[bytes] = []
    rest: list[tuple[bytes, bytes]] = []
    unpack, pack, order, crc32c = _ENTRY.unpack, _ONE_HOLDER.pack, ORDER.pack, _crc32c
    special = {*known, *_repeated(keys)}
    counts: dict[int, tuple[int, int]] = {}
    size_of_all = 0
    for key, entry in zip(keys, entries, strict=True):
        try:
            type_, told, meta_length, checksum, seq, version, size, created_ms, expires_s = unpack(
                entry
            )
        except struct.error:
            raise Damage("an index entry has the wrong length") from None
        if type_ not in (_PUT, _BLOB) or key in special:
            rest.append((key, entry))
            continue
        key_crc = crc32c(0, key)
        if crc32c(key_crc, entry[:_CHECKSUM_AT] + _NO_CHECKSUM + entry[24:]) != checksum:
            raise Damage("an index entry does not match its checksum")
        flags = SEEN
        if not meta_length:
            if size > INLINE_BYTES_MAX:
                flags = SEEN | COMPLETE
            elif not size and type_ == _PUT:
                flags = SEEN | COMPLETE | INLINE
        size_of_all += size
        replicas = told & REPLICAS_MASK
        if replicas:
            flags |= replicas << REPLICAS_SHIFT
            keys_before, size_before = counts.get(replicas, (0, 0))
            counts[replicas] = keys_before + 1, size_before + size
        row = pack(version, size, created_ms, expires_s, flags, 1, 0, holder, seq << 1)
        rows.append((key, crc32c(key_crc, row).to_bytes(4, "little") + row))
        created.append(order(created_ms) + key)
        if expires_s:
            expiry.append(order(expires_s) + key)
    others = sum(keys for keys, _ in counts.values()), sum(size for _, size in counts.values())
    counts[0] = len(rows) - others[0], size_of_all - others[1]
    return Loaded(rows, counts, created, expiry, rest)


def _repeated(keys: Sequence[bytes]) -> set[bytes]:
    """Those of sorted keys that are there more than once."""
    if len(set(keys)) == len(keys):
        return set()
    return {key for key, following in pairwise(keys) if key == following}


def unpack_row(key: bytes, packed: bytes) -> Row:
    """The row in `packed`. Raises Damage where it is not one of `key`."""
    _check(key, packed)
    version, size, created_ms, expires_s, flags, count, length = _HEAD.unpack_from(packed, 4)
    flat = _holders(count).unpack_from(packed, _HEAD_BYTES)
    at = _HEAD_BYTES + count * _HOLDER_BYTES
    return Row(
        version,
        size,
        created_ms,
        expires_s,
        flags,
        tuple(zip(flat[::2], flat[1::2], strict=True)),
        packed[at : at + length],
        packed[at + length :],
    )


def unpack_entry(key: bytes, packed: bytes) -> Entry:
    """The entry in `packed`. Raises Damage where it is not one of `key`."""
    _check(key, packed)
    if packed[_HOLDERS_AT] == 1:
        version, size, created_ms, expires_s, flags, _, length, number, stamp = (
            _ONE_HOLDER.unpack_from(packed, 4)
        )
        holders: tuple[int, ...] = () if stamp & 1 else (number,)
        at = _HEAD_BYTES + _HOLDER_BYTES
    else:
        row = unpack_row(key, packed)
        version, size, flags, length = row.version, row.size, row.flags, len(row.content_type)
        created_ms, expires_s = row.created_ms, row.expires_s
        holders = tuple(number for number, stamp in row.holders if not stamp & 1)
        at = _HEAD_BYTES + len(row.holders) * _HOLDER_BYTES
    return Entry(
        version,
        size,
        created_ms,
        expires_s,
        packed[at : at + length].decode() if length else "",
        holders,
        packed[at + length :] if flags & INLINE else None,
        flags & COMPLETE == COMPLETE,
        flags >> REPLICAS_SHIFT,
    )


def pack_deleted(key: bytes, version: int) -> bytes:
    """The bytes that remember a deleted key's version."""
    rest = version.to_bytes(8, "little")
    return int(_crc32c(_crc32c(0, key), rest)).to_bytes(4, "little") + rest


def unpack_deleted(key: bytes, packed: bytes) -> int:
    """The version at which a key was deleted. Raises Damage."""
    if len(packed) != _DELETED.size:
        raise Damage("a deleted key's row has the wrong length")
    checksum, version = _DELETED.unpack(packed)
    if _crc32c(_crc32c(0, key), packed[4:]) != checksum:
        raise Damage("a deleted key's row does not match its checksum")
    return int(version)


def _check(key: bytes, packed: bytes) -> None:
    if len(packed) < _HEAD_BYTES:
        raise Damage("a catalog entry is too short")
    if _crc32c(_crc32c(0, key), packed[4:]) != int.from_bytes(packed[:4], "little"):
        raise Damage("a catalog entry does not match its checksum")


@lru_cache(maxsize=256)
def _holders(count: int) -> struct.Struct:
    return struct.Struct("<" + "HQ" * count)
