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
only if the catalog was read before the volume was, and still says the same (`may_forget`).

Ranges of keys are compared by digest first: how many live keys there are, and the sum of a hash of
each key with its version. A sum does not depend on the order. The hash is BLAKE2b: CRC32C is
linear, so of two keys, each rewritten once, one change could take back the other. Deletes are in
no digest: a volume need not have those of keys that it does not hold. So digests are enough only
for a volume whose log was followed from its cursor to its head.

Where that could not be, every row is read before the volume is used, and `reread` tells what the
catalog has then. So a delete is found that only this volume knows. And an older copy of a directory
is made good: it gives seqs a second time, so what the catalog's rows say of its earlier records
(their stamps, catalog_row.py) would hide later ones. Such a copy is known by its log: it lacks the
place behind the last append that it acknowledged, which need not be as far back as the cursor.
With deletes purged it may hold what was deleted and forgotten; then the newest PURGE record of the
cluster is larger than its own (`purged`), and what the catalog does not name is set aside.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import blake2b

import msgspec

from pulzar.cluster.messages import Digest
from pulzar.varidb import catalog_row
from pulzar.varidb.catalog_row import Row, change_of
from pulzar.varidb.following import FIRST_NOTE_BYTE
from pulzar.varidb.footer import entry_order
from pulzar.varidb.position import ENTRY_TYPE_AT, Position
from pulzar.varidb.record import Type

_LIVE = frozenset({Type.PUT, Type.BLOB})
_MASK = (1 << 64) - 1

Known = Row | int | None
"""What the catalog has of a key: a row, the version at which it was deleted, or nothing."""


class Do(StrEnum):
    """What is to be done."""

    ADOPT = "adopt"
    HIDE = "hide"
    FORGET = "forget"
    SET_ASIDE = "set aside"


class Action(msgspec.Struct, frozen=True):
    """For HIDE, `type` and `version` are those of the record to append to the volume; for FORGET
    `version` is the one that it lacks, for SET_ASIDE the one that it has."""

    do: Do
    version: int
    type: int = 0


def decide(
    position: Position | None, known: Known, *, number: int, purged: int = 0
) -> Action | None:
    """What to do about one key of volume `number`; None: nothing.

    `purged` is the version up to which deletes were purged from the cluster's logs without this
    volume; 0 where it took part.
    """
    if position is None:
        return _forget(known, number)
    version = position.version
    at = known.version if isinstance(known, Row) else known
    if version <= purged and version != at:
        return _forget(known, number) or Action(Do.SET_ASIDE, version)
    if position.type not in _LIVE | {Type.DELETE}:
        return _forget(known, number)
    if position.type == Type.DELETE:
        # Of a PUT and a DELETE of one version the DELETE wins.
        if at is None or version > at or (version == at and isinstance(known, Row)):
            return Action(Do.ADOPT, version)
        return _forget(known, number)
    if at is None or version > at:
        return Action(Do.ADOPT, version)
    if not isinstance(known, Row):
        return Action(Do.HIDE, at, Type.DELETE)
    if version < at:
        return _forget(known, number) or Action(Do.HIDE, version, Type.MOVED)
    return Action(Do.ADOPT, version) if number not in known.copies else None


def _forget(known: Known, number: int) -> Action | None:
    if isinstance(known, Row) and number in known.copies:
        return Action(Do.FORGET, known.version)
    return None


def may_forget(then: Known, now: Known, *, number: int) -> bool:
    """Whether the catalog still says of a copy on volume `number` what it said `then`, before the
    volume was read. The version is not enough: the copy may have been made meanwhile."""
    if not isinstance(then, Row) or not isinstance(now, Row) or then.version != now.version:
        return False
    stamp = dict(now.holders).get(number)
    return stamp is not None and stamp == dict(then.holders).get(number)


def reread(key: bytes, position: Position | None, known: Known, *, number: int) -> Known:
    """What the catalog is to have of a key, once the index of volume `number` was read as a whole.

    Whatever the catalog had of that volume is replaced, so nothing may be appended to the volume
    between the reading and this.
    """
    rest = without(known, number)
    if position is None:
        return rest
    change = change_of(key, position)
    return catalog_row.decide(rest, change, holder=number, seq=position.seq)


def without(known: Known, number: int) -> Known:
    """The same, without anything about volume `number`: what FORGET means for a row.

    A stamp that says MOVED would not do: a copy that is made there later may have a smaller seq.
    """
    if not isinstance(known, Row) or all(number != holder for holder, _ in known.holders):
        return known
    holders = tuple(one for one in known.holders if one[0] != number)
    return msgspec.structs.replace(known, holders=holders)


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
    packed = blake2b(key + version.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(packed, "little")
