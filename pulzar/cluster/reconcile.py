"""What is to be done where a volume and the catalog do not say the same of a key. Pure.

A volume's index has the newest record of each key, the catalog the newest of all volumes. Of one
key, `decide` compares the two:

    the volume has...                        the catalog has...             then
    a newer record                           anything                       adopt: it was never told
    a PUT of that version                    does not list the volume       adopt: one more copy
    an older PUT                             a DELETE                       hide it by that DELETE
    an older PUT                             a newer PUT                    hide it by MOVED
    not that version (any more)              lists the volume               forget: no copy there
    anything else                                                           nothing

MOVED carries the version that it hides: inside a volume the order is (version, seq), and across
volumes it does not compete. So hiding is right whatever was written meanwhile. To forget is right
only if the catalog was read before the volume was, and still says the same.

Ranges of keys are compared by digest first: how many live keys there are, and the sum of a hash of
each key with its version. A sum does not depend on the order, and changes with every key; CRC32C
twice makes 64 bits of it: enough against chance, which is all that is against it.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import google_crc32c
import msgspec

from pulzar.cluster.messages import Digest
from pulzar.varidb.catalog_row import Row
from pulzar.varidb.following import FIRST_NOTE_BYTE
from pulzar.varidb.footer import entry_order
from pulzar.varidb.position import ENTRY_TYPE_AT, Position
from pulzar.varidb.record import Type

_LIVE = frozenset({Type.PUT, Type.BLOB})
_MASK = (1 << 64) - 1

_crc32c = google_crc32c.extend

Known = Row | int | None
"""What the catalog has of a key: a row, the version at which it was deleted, or nothing."""


class Do(StrEnum):
    """What is to be done."""

    ADOPT = "adopt"
    HIDE = "hide"
    FORGET = "forget"


class Action(msgspec.Struct, frozen=True):
    """For HIDE, `type` and `version` are those of the record to append to the volume; for FORGET
    `version` is the one that it lacks."""

    do: Do
    version: int
    type: int = 0


def decide(position: Position | None, known: Known, *, number: int) -> Action | None:
    """What to do about one key of volume `number`; None: nothing."""
    if position is None or position.type not in _LIVE | {Type.DELETE}:
        return _forget(known, number)
    version = position.version
    if position.type == Type.DELETE:
        at = known.version if isinstance(known, Row) else known
        # Of a PUT and a DELETE of one version the DELETE wins.
        if at is None or version > at or (version == at and isinstance(known, Row)):
            return Action(Do.ADOPT, version)
        return _forget(known, number)
    if known is None:
        return Action(Do.ADOPT, version)
    if not isinstance(known, Row):
        if version > known:
            return Action(Do.ADOPT, version)
        return Action(Do.HIDE, known, Type.DELETE)
    if version > known.version or (version == known.version and number not in known.copies):
        return Action(Do.ADOPT, version)
    if version < known.version:
        return _forget(known, number) or Action(Do.HIDE, version, Type.MOVED)
    return None


def _forget(known: Known, number: int) -> Action | None:
    if isinstance(known, Row) and number in known.copies:
        return Action(Do.FORGET, known.version)
    return None


def digest_of_columns(keys: Sequence[bytes], entries: Sequence[bytes]) -> Digest:
    """The digest of a range of an index: its sorted keys, and their packed entries."""
    held = (
        (key, entry_order(entry)[0])
        for key, entry in zip(keys, entries, strict=True)
        if entry[ENTRY_TYPE_AT] in _LIVE and key[0] < FIRST_NOTE_BYTE
    )
    return digest(keys[-1], held)


def digest(last: bytes, held: Iterable[tuple[bytes, int]]) -> Digest:
    """The digest of a range that ends with `last`, of which these keys and versions are held."""
    count = total = 0
    for key, version in held:
        count += 1
        total += _hash(key, version)
    return Digest(last, count, total & _MASK)


def _hash(key: bytes, version: int) -> int:
    low = _crc32c(0, key)
    high = _crc32c(low, version.to_bytes(8, "little"))
    return int(high) << 32 | int(low) ^ (version & 0xFFFFFFFF)
