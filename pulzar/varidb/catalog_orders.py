"""The two orders of the catalog: users' keys by creation, and all keys that expire by that.

A load, which meets keys in their own order, gathers the rows of the creation order and writes them
sorted, many at a time.
"""

from collections.abc import Iterable
from itertools import islice, takewhile

import lmdb

from pulzar.varidb.catalog_row import ORDER
from pulzar.varidb.index import put_sorted

FIRST_USER_KEY = b"\x01"


class Orders:
    """The tables `created` and `expiry` of one view."""

    def __init__(self, created: "lmdb._Database", expiry: "lmdb._Database") -> None:
        self.created = created
        self.expiry = expiry
        self._unsorted: dict[bytes, None] = {}  # rows of `created` that a load has not written yet

    @property
    def gathered(self) -> int:
        """How many rows a load has not written yet."""
        return len(self._unsorted)

    def expired(
        self, transaction: "lmdb.Transaction[bytes]", now_s: int, limit: int
    ) -> list[bytes]:
        """Up to `limit` keys that have expired, the oldest first."""
        rows = islice(transaction.cursor(self.expiry).iternext(values=False), limit)
        return [row[8:] for row in takewhile(lambda row: ORDER.unpack_from(row)[0] <= now_s, rows)]

    def between(
        self,
        transaction: "lmdb.Transaction[bytes]",
        start_ms: int,
        end_ms: int,
        after: tuple[int, bytes] | None,
        limit: int,
    ) -> list[tuple[int, bytes]]:
        """See `Catalog.created_between`."""
        start, end = ORDER.pack(start_ms), ORDER.pack(end_ms)
        if after is not None:
            start = max(start, ORDER.pack(after[0]) + after[1] + b"\0")
        table = transaction.cursor(self.created)
        if not table.set_range(start):
            return []
        rows = takewhile(lambda row: row < end, islice(table.iternext(values=False), limit))
        return [(ORDER.unpack_from(row)[0], row[8:]) for row in rows]

    def move(
        self,
        transaction: "lmdb.Transaction[bytes]",
        key: bytes,
        old: tuple[int | None, int],
        new: tuple[int | None, int],
    ) -> None:
        """Bring the orders to what is known of a key now: when it was created, and expires."""
        old_created, old_expires = old
        created, expires = new
        if old_created != created and key >= FIRST_USER_KEY:
            if old_created is not None:
                order = ORDER.pack(old_created) + key
                self._unsorted.pop(order, None)
                transaction.delete(order, db=self.created)
            if created is not None:
                transaction.put(ORDER.pack(created) + key, b"", db=self.created)
        if old_expires != expires:
            if old_expires:
                transaction.delete(ORDER.pack(old_expires) + key, db=self.expiry)
            if expires:
                transaction.put(ORDER.pack(expires) + key, b"", db=self.expiry)

    def gather(
        self,
        transaction: "lmdb.Transaction[bytes]",
        created: Iterable[bytes],
        expiry: Iterable[bytes],
    ) -> None:
        """Take the rows of keys that were loaded."""
        put_sorted(transaction.cursor(self.expiry), [(row, b"") for row in sorted(expiry)])
        self._unsorted.update(dict.fromkeys(created))

    def write_gathered(self, transaction: "lmdb.Transaction[bytes]") -> None:
        """Write the rows of the creation order that a load has gathered."""
        # In the order of keys they often are nearly in that of time, which sorts fast.
        rows = [(order, b"") for order in sorted(self._unsorted)]
        put_sorted(transaction.cursor(self.created), rows)
        self._unsorted.clear()
