"""How many keys, and bytes, each set of volumes holds: a table of the catalog.

      key    replicas u8 (0: as many as the site says), then the numbers of the volumes, u16 each,
             in their order; little-endian
      value  keys u64 | bytes u64

So it is known at any time how redundant the least redundant byte is, and what a volume that leaves
takes with it, without a look at the keys. Counts change with the rows, in the same transaction.
"""

import struct
from collections.abc import Iterator

import lmdb
import msgspec

from pulzar.errors import Damage

_COUNTS = struct.Struct("<QQ")


class Copies(msgspec.Struct, frozen=True, gc=False):
    """Keys of which just these volumes have a copy."""

    replicas: int
    numbers: tuple[int, ...]
    keys: int
    size: int


class Tally:
    """What the rows of one transaction change of the counts."""

    def __init__(self) -> None:
        self._keys: dict[tuple[int, tuple[int, ...]], int] = {}
        self._sizes: dict[tuple[int, tuple[int, ...]], int] = {}

    def add(self, replicas: int, numbers: tuple[int, ...], keys: int, size: int) -> None:
        """Count so many keys, and all their bytes; negative ones are gone."""
        group = (replicas, numbers)
        self._keys[group] = self._keys.get(group, 0) + keys
        self._sizes[group] = self._sizes.get(group, 0) + size

    def write(self, transaction: "lmdb.Transaction[bytes]", table: "lmdb._Database") -> None:
        """Bring the table to it."""
        for (replicas, numbers), keys in self._keys.items():
            size = self._sizes[replicas, numbers]
            if not keys and not size:
                continue
            row = struct.pack(f"<B{len(numbers)}H", replicas, *numbers)
            packed = transaction.get(row, None, table)
            old_keys, old_size = _COUNTS.unpack(packed) if packed is not None else (0, 0)
            if keys + old_keys:
                transaction.put(row, _COUNTS.pack(keys + old_keys, size + old_size), db=table)
            else:
                transaction.delete(row, db=table)


def read_copies(
    transaction: "lmdb.Transaction[bytes]", table: "lmdb._Database"
) -> Iterator[Copies]:
    """Every row of the table. Raises Damage."""
    for row, packed in transaction.cursor(table):
        try:
            replicas, *numbers = struct.unpack(f"<B{(len(row) - 1) // 2}H", row)
            yield Copies(replicas, tuple(numbers), *_COUNTS.unpack(packed))
        except struct.error:
            raise Damage("a count of copies has the wrong length") from None
