"""The keys of a part: which ones its records are of, so that a restore can tell what is gone."""

from collections.abc import Iterable

import msgspec

from pulzar.disk import Readable
from pulzar.errors import Damage
from pulzar.varidb.footer import read_footer, read_trailer
from pulzar.varidb.record import KEYED, Type
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, decode_segment_header, scan

FIRST_USER_KEY = b"\x01"

Key = tuple[bytes, int, int, int]
"""A key, and the version, the type and the seq of its newest record."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Key])


def keys_of(file: Readable, start: int, *, sealed: bool) -> list[Key]:
    """The keys of the records of a segment from an offset on. Of a sealed one its footer tells,
    then all of them. Raises OSError, LinkBroken."""
    if sealed:
        try:
            trailer = read_trailer(file)
            if trailer is not None:
                entries = read_footer(file, trailer).newest()
                return [one for one in entries if one[0] >= FIRST_USER_KEY]
        except Damage:
            pass  # the records tell, too
    header = decode_segment_header(file.read(SEGMENT_HEADER_BYTES, offset=0))
    if header is None:
        return []
    found: dict[bytes, Key] = {}
    begin = max(start, SEGMENT_HEADER_BYTES)
    for item in scan(file, start=begin, end=file.size(), seed=header.seed):
        if isinstance(item, Found) and item.header.type in KEYED:
            key = item.header.key
            newest = found.get(key)
            if key >= FIRST_USER_KEY and (newest is None or item.header.version >= newest[1]):
                found[key] = key, item.header.version, item.header.type, item.header.seq
    return list(found.values())


def encode_keys(keys: list[Key]) -> bytes:
    """A keys file (snapshot.py)."""
    return _encoder.encode(keys)


def decode_keys(content: bytes) -> list[Key]:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(content)


class Known(msgspec.Struct, frozen=True):
    """What is known of a key that a restore does not bring back as it was. `gone`: its newest value
    is on no volume that is restored; else it was deleted, and an older value is back."""

    key: bytes
    version: int
    gone: bool


def not_restored(
    restored: Iterable[Iterable[Key]], missing: Iterable[Iterable[Key]]
) -> list[Known]:
    """What a restore without some volumes does not bring back, by key. Both are the keys of one
    volume after the other; of the records on both sides the newest decides."""
    here, there = _known(restored), _known(missing)
    found: list[Known] = []
    for key, (version, type_) in sorted(there.items()):
        known, known_type = here.get(key, (0, Type.DELETE))
        if version > known and type_ != Type.DELETE:
            found.append(Known(key, version, gone=True))
        elif version > known and known_type != Type.DELETE:
            found.append(Known(key, version, gone=False))
    return found


def _known(volumes: Iterable[Iterable[Key]]) -> dict[bytes, tuple[int, int]]:
    """The newest version of each key that some volume has, or knows to be deleted; and its type.
    Inside a volume order is (version, seq): one that was moved away at last is not there."""
    known: dict[bytes, tuple[int, int]] = {}
    for keys in volumes:
        newest: dict[bytes, tuple[int, int, int]] = {}
        for key, version, type_, seq in keys:
            if (version, seq) >= newest.get(key, (0, 0))[:2]:
                newest[key] = version, seq, type_
        for key, (version, _, type_) in newest.items():
            if type_ != Type.MOVED and version >= known.get(key, (0, 0))[0]:
                known[key] = version, type_
    return known
