"""Reading the catalog; what it is, and how it is written, is in catalog.py."""

from collections.abc import Sequence
from itertools import islice

import lmdb

from pulzar.errors import Damage, ViewBroken
from pulzar.varidb.catalog_history import delete_event, live_event, newer
from pulzar.varidb.catalog_orders import FIRST_USER_KEY, Orders
from pulzar.varidb.catalog_page import page, rows_between
from pulzar.varidb.catalog_row import Row, unpack_deleted, unpack_entry, unpack_row
from pulzar.varidb.copies import Copies, read_copies
from pulzar.varidb.entry import Entry, Listing, Status
from pulzar.varidb.feed import Event
from pulzar.varidb.position import Cursor
from pulzar.varidb.view import View

GENERATION = b"generation"
FORGOTTEN = b"forgotten"  # deletes up to that version may not be known any more
LATE = b"late"  # what became known late: the smallest such version,
LATE_BEHIND = b"late behind"  # and the largest that had been told before one did


class CatalogReader:
    """What can be read of a catalog. `filling`: it was begun to be filled and is not whole. Then
    nothing is read of it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.filling = False
        self.bind()

    def bind(self) -> None:
        """Take the tables of the view as they are now."""
        tables = self.view.tables
        self._begin = self.view.environment.begin
        self._keys, self._reserved = tables["keys"], tables["reserved"]
        self._deletes = tables["deletes"]
        self._orders = Orders(tables["created"], tables["expiry"])
        self._copies = tables["copies"]

    def get(self, key: bytes) -> Entry | None:
        """The entry of a live key, which may have expired. Raises ViewBroken."""
        if self.filling:
            raise ViewBroken("the catalog is not whole")
        try:
            packed = self._begin(self._table(key)).get(key)
            return None if packed is None else unpack_entry(key, packed)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """As `get`, for each of `keys`, as of one moment."""
        if self.filling:
            raise ViewBroken("the catalog is not whole")
        try:
            with self._begin() as transaction:
                get, table = transaction.get, self._table
                found = [get(key, None, table(key)) for key in keys]
            return [
                None if packed is None else unpack_entry(key, packed)
                for key, packed in zip(keys, found, strict=True)
            ]
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def deleted(self, key: bytes) -> int | None:
        """The version at which a key was deleted, while that is remembered. Raises ViewBroken."""
        try:
            packed = self._begin(self._deletes).get(key)
            return None if packed is None else unpack_deleted(key, packed)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def cursor(self, holder: int) -> Cursor:
        """How far it has followed that volume; NOWHERE: not at all. Raises ViewBroken."""
        return self.view.cursor(b"%d" % holder)[0]

    def met(self, holder: int) -> Cursor:
        """The place behind the last record of that volume that some row knows of: the cursor, or
        further, where records before it were still missing. Raises ViewBroken."""
        met, cursor = self.view.cursor(met_name(holder))[0], self.cursor(holder)
        return met if met.seq > cursor.seq else cursor

    def generation(self) -> int:
        """That of the list of members by whose numbers the rows name volumes; 0: this machine is
        alone. Raises ViewBroken."""
        return self.view.cursor(GENERATION)[0].seq

    def status(self) -> Status:
        """The stat of the users' keys. Raises ViewBroken."""
        return Status(**self.view.stat("keys"))

    def copies(self) -> list[Copies]:
        """How many keys each set of volumes holds. Raises ViewBroken."""
        try:
            with self._begin() as transaction:
                return list(read_copies(transaction, self._copies))
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def list_keys(
        self,
        prefix: bytes,
        *,
        after: bytes | None,
        limit: int,
        delimiter: bytes | None,
        now_s: int,
    ) -> Listing:
        """Live keys under a prefix in byte order, strictly behind `after`; see `Listing`.

        Looks at a bounded number of rows: a page may be short, even empty, and have a next one.
        Raises ViewBroken.
        """
        if self.filling:
            raise ViewBroken("the catalog is not whole")
        try:
            with self._begin(self._table(prefix or FIRST_USER_KEY)) as transaction:
                table = transaction.cursor()
                return page(table, prefix, after or b"", limit, delimiter or b"", now_s)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def known(self, key: bytes) -> Row | int | None:
        """The row of a live key, the version at which a key was deleted, or None.

        Raises ViewBroken.
        """
        try:
            with self._begin() as transaction:
                return self._known(transaction, key)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def rows(self, after: bytes, last: bytes | None, limit: int) -> list[tuple[bytes, Row]]:
        """Up to `limit` rows of live keys strictly behind `after`, up to `last` or to the end, in
        key order. Raises ViewBroken."""
        try:
            with self._begin() as transaction:
                tables = transaction.cursor(self._reserved), transaction.cursor(self._keys)
                return rows_between(tables, after, last, limit)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def expired(self, now_s: int, limit: int) -> list[tuple[bytes, int]]:
        """Up to `limit` keys that have expired, and their versions, the oldest first.

        Raises ViewBroken.
        """
        try:
            with self._begin() as transaction:
                keys = self._orders.expired(transaction, now_s, limit)
                packed = [(key, transaction.get(key, None, self._table(key))) for key in keys]
            return [(key, _expiring(key, row).version) for key, row in packed]
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def created_between(
        self, start_ms: int, end_ms: int, *, after: tuple[int, bytes] | None, limit: int
    ) -> list[tuple[int, bytes]]:
        """Users' keys created in start..end (exclusive), as (created ms, key) in that order,
        strictly behind `after`. Raises ViewBroken."""
        try:
            with self._begin() as transaction:
                return self._orders.between(transaction, start_ms, end_ms, after, limit)
        except lmdb.Error as error:
            raise self.view.failure(error) from error

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        """See `names.KeySource`. Raises ViewBroken."""
        try:
            with self._begin(self._keys) as transaction:
                rows = transaction.cursor()
                if not rows.set_range(after + b"\0"):
                    return []
                return list(islice(rows.iternext(values=False), limit))
        except lmdb.Error as error:
            raise self.view.failure(error) from error

    def is_unsure(self, version: int) -> bool:
        """See `watching.History`: a delete may be purged, or something older become known since.
        Raises ViewBroken."""
        if version < self.forgotten():
            return True
        first, last = self.late()
        return first <= version <= last != 0

    def late(self) -> tuple[int, int]:
        """The smallest version that became known late, and the largest that had been told before
        one did; zeros: there is none. Raises ViewBroken."""
        return self.view.cursor(LATE)[0].seq, self.view.cursor(LATE_BEHIND)[0].seq

    def forgotten(self) -> int:
        """The largest version of a delete that may not be known any more. Raises ViewBroken."""
        return self.view.cursor(FORGOTTEN)[0].seq

    def newer(
        self, prefix: bytes, version: int, *, after: bytes, deletes: bool, limit: int
    ) -> tuple[list[Event], bytes | None]:
        """See `watching.History`. Raises ViewBroken."""
        table, event = (self._deletes, delete_event) if deletes else (self._keys, live_event)
        start = max(after, FIRST_USER_KEY[:-1])
        try:
            with self._begin(table) as transaction:
                rows = transaction.cursor()
                return newer(rows, prefix, version, after=start, limit=limit, event=event)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def _table(self, key: bytes) -> "lmdb._Database":
        return self._keys if key >= FIRST_USER_KEY else self._reserved

    def _known(self, transaction: "lmdb.Transaction[bytes]", key: bytes) -> Row | int | None:
        packed = transaction.get(key, None, self._table(key))
        if packed is not None:
            return unpack_row(key, packed)
        packed = transaction.get(key, None, self._deletes)
        return None if packed is None else unpack_deleted(key, packed)


def met_name(holder: int) -> bytes:
    """The name under which `Catalog.met` is kept."""
    return b"met %d" % holder


def _expiring(key: bytes, packed: bytes | None) -> Entry:
    if packed is None:
        raise Damage("the expiry order names a key that is not there")
    return unpack_entry(key, packed)
