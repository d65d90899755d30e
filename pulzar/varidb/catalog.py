"""The catalog: key -> entry, for all live keys; it follows the logs of the volumes.

It is a view (view.py), filled from the logs or from their footers. Tables; all integers are
little-endian but for those of the orders, which are big-endian so that they sort:

      keys      key -> row (catalog_row.py)       live keys of users, and nothing else: the stat of
                                                  this table is what /admin/status shows
      reserved  key -> row                        live keys that begin with 0x00: Pulzar's own
      deletes   key -> row of a deleted key       orders records that come late; see purge
      created   created ms u64 | key -> nothing   users' live keys by creation
      expiry    expires s u64 | key -> nothing    live keys that expire, reserved ones too
      copies    set of volumes -> keys, bytes     copies.py; of keys and reserved together
      cursors   volume number -> cursor           view.py

A key is in one of keys, reserved, deletes at most. What a record does to it is decided in
catalog_row.py. Everything that one batch of records changes, cursor included, is one transaction.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import lmdb

from pulzar.errors import Damage, ViewBroken
from pulzar.limits import (
    CONTENT_TYPE_BYTES_MAX,
    INLINE_BYTES_MAX,
    KEY_BYTES_MAX,
    LOAD_ORDER_ROWS,
    VIEW_MAP_BYTES,
)
from pulzar.varidb.catalog_history import event_of_known, event_of_newest, new_event
from pulzar.varidb.catalog_orders import FIRST_USER_KEY
from pulzar.varidb.catalog_page import present
from pulzar.varidb.catalog_reader import (
    FORGOTTEN,
    GENERATION,
    LATE,
    LATE_BEHIND,
    CatalogReader,
    met_name,
)
from pulzar.varidb.catalog_row import (
    COMPLETE,
    ORDER,
    Change,
    Newest,
    Row,
    change_of,
    decide,
    pack_deleted,
    pack_loaded,
    pack_newest,
    pack_row,
    refilled,
    times,
    unpack_deleted,
    unpack_row,
)
from pulzar.varidb.copies import Tally
from pulzar.varidb.entry import Entry
from pulzar.varidb.feed import Event, Feed
from pulzar.varidb.index import put_newest, put_sorted
from pulzar.varidb.position import NOWHERE, Cursor, unpack_position
from pulzar.varidb.record import Type
from pulzar.varidb.view import View

__all__ = ["BadRows", "Catalog", "Change", "Newest"]

_TABLES = ("keys", "reserved", "deletes", "created", "expiry", "copies")
_ROW_BYTES = 3 * KEY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + INLINE_BYTES_MAX
_LOADED_ROW_BYTES = 80  # without its key
_LOADING = b"loading"  # a cursor's name, while the catalog is being filled from footers


Holders: TypeAlias = tuple[tuple[int, int], ...]
"""The volumes that have a key, as (number, stamp); see catalog_row.py."""


class BadRows(Exception):
    """The rows that a catalog was given to load are damaged: not its own, but the index's."""


class Catalog(CatalogReader):
    """The catalog of one master. All of it belongs to one thread."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.feed = Feed()
        self._told: list[Event] = []
        self._loading = False
        self._bind()

    def _bind(self) -> None:
        self.bind()
        self._tally = Tally()
        self._loading = False
        self._late = self.late()
        self._may_be_deleted = bool(self.view.stat("deletes")["entries"])  # some key or other

    @classmethod
    def open(cls, directory: str, *, identity: bytes, map_bytes: int = VIEW_MAP_BYTES) -> "Catalog":
        """Open the catalog of `identity` for writing; see `View.open`."""
        catalog = cls(
            View.open(
                directory, name="catalog", tables=_TABLES, identity=identity, map_bytes=map_bytes
            )
        )
        if catalog.view.cursor(_LOADING)[0] != NOWHERE:
            catalog.reset()  # it died while it was loaded
        return catalog

    # Writing.

    def apply(self, changes: Sequence[Change], holder: int, cursor: Cursor | None) -> None:
        """Take in records of volume number `holder`, in the order of its log, and its cursor.
        Without one, every change says its seq.

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        cursors = ((holder, cursor),) if cursor is not None else ()
        last_seq = cursor.seq if cursor is not None else 0
        with self._following(len(changes), cursors) as transaction:
            for change in changes:
                self._apply(transaction, change, holder, change.seq or last_seq)
        self._tell()

    def append(
        self,
        changes: Sequence[Newest],
        places: Iterable[Holders],
        cursors: Sequence[tuple[int, Cursor]],
        met: Sequence[tuple[int, Cursor]] = (),
    ) -> None:
        """As `apply`, without a look, for records of different keys, and of several volumes.

        `places` are the holders of each change, as (number, stamp), sorted; `cursors` are those of
        the volumes of which everything before is in the catalog, `met` the places of volumes of
        which something before is not. Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        if self.filling:
            raise ViewBroken("the catalog is not whole")
        keys: list[tuple[bytes, bytes]] = []
        created: list[tuple[bytes, bytes]] = []
        tally = self._tally
        further = [one for one in met if one[1].seq > self.met(one[0]).seq]
        with self._following(len(changes), cursors) as transaction:
            for change, holders in zip(changes, places, strict=False):
                record, old = change.record, change.replaces
                key = record.key
                if old is not None:
                    tally.add(old.replicas, old.holders, -1, -old.size)
                if record.type == Type.DELETE:
                    self._may_be_deleted = True
                    transaction.put(key, pack_deleted(key, record.version), db=self._deletes)
                    transaction.delete(key, db=self._table(key))
                    self._orders.move(transaction, key, times(old), (None, 0))
                    continue
                row = pack_newest(change, holders)
                tally.add(change.replicas, tuple(number for number, _ in holders), 1, change.size)
                if old is None and self._may_be_deleted:
                    transaction.delete(key, db=self._deletes)
                if old is None and not record.expires_s and key >= FIRST_USER_KEY:
                    keys.append((key, row))
                    created.append((ORDER.pack(record.created_ms) + key, b""))
                else:
                    transaction.put(key, row, db=self._table(key))
                    new = record.created_ms, record.expires_s
                    self._orders.move(transaction, key, times(old), new)
            put_newest(transaction.cursor(self._keys), keys)
            put_newest(transaction.cursor(self._orders.created), created)
            for holder, cursor in further:
                self.view.put_cursor(transaction, met_name(holder), cursor)
        if self.feed.is_running:
            self.feed.landed([event_of_newest(change) for change in changes])

    def begin_again(self, holder: int, cursor: Cursor) -> None:
        """All that the rows say of volume `holder` was read anew, and is what it had at `cursor`.
        Raises OutOfSpace, ViewBroken."""
        with self._following(0, ((holder, cursor),)) as transaction:
            transaction.delete(met_name(holder), db=self.view.tables["cursors"])

    def begin_generation(self, generation: int) -> None:
        """Another list of members holds. Raises OutOfSpace, ViewBroken."""
        with self.view.write() as transaction:
            self.view.put_cursor(transaction, GENERATION, Cursor(b"", generation))

    @contextmanager
    def _following(
        self, count: int, cursors: Sequence[tuple[int, Cursor]]
    ) -> Iterator["lmdb.Transaction[bytes]"]:
        """A transaction for `count` changes, which ends a load and takes in the cursors."""
        self._told = []
        rows = count + self._orders.gathered
        with self.view.write(rows=rows, size=rows * _ROW_BYTES) as transaction:
            if self._loading:
                self._orders.write_gathered(transaction)
                transaction.delete(_LOADING, db=self.view.tables["cursors"])
            with self._counting(transaction):
                yield transaction
            for holder, cursor in cursors:
                self.view.put_cursor(transaction, b"%d" % holder, cursor)
        self._loading = False

    @contextmanager
    def _counting(self, transaction: "lmdb.Transaction[bytes]") -> Iterator[None]:
        """Write what was tallied, or forget it where the transaction fails."""
        try:
            yield
            self._tally.write(transaction, self._copies)
        finally:
            self._tally = Tally()

    def load(self, keys: Sequence[bytes], entries: Sequence[bytes], holder: int) -> None:
        """Take in the columns of a footer or of an index: by key, packed positions.

        In any order of calls. The next `apply` ends the loading and writes the cursor; until then
        the creation order lacks rows, and a catalog that dies is emptied by its next opening.
        Raises OutOfSpace (then begin again with `reset`), BadRows, ViewBroken.
        """
        split = bisect_left(keys, FIRST_USER_KEY)
        rows = len(keys) + self._orders.gathered
        size = rows * _LOADED_ROW_BYTES + 2 * sum(map(len, keys))
        self._told = []
        with self.view.write(rows=rows, size=size) as transaction:
            if not self._loading:
                self.view.put_cursor(transaction, _LOADING, Cursor(b"", 1))
            with self._counting(transaction):
                self._load(transaction, keys[split:], entries[split:], holder)
                for key, entry in zip(keys[:split], entries[:split], strict=True):
                    self._load_one(transaction, key, entry, holder)
            if self._orders.gathered >= LOAD_ORDER_ROWS:
                self._orders.write_gathered(transaction)
        self._loading = True
        self._tell()

    def refill(self, key: bytes, entry: Entry) -> None:
        """Complete a row with what `entry` has, if it is still that version. Raises OutOfSpace,
        ViewBroken."""
        with self.view.write() as transaction:
            table = self._table(key)
            packed = transaction.get(key, None, table)
            if packed is None:
                return
            row = unpack_row(key, packed)
            if row.version == entry.version and not row.flags & COMPLETE:
                new = refilled(row, entry.content_type, entry.inline, entry.replicas)
                transaction.put(key, pack_row(key, new), db=table)
                with self._counting(transaction):
                    self._count(row, new)

    def replace(self, key: bytes, new: Row | int) -> None:
        """Let a key be known as that, whatever was known. Raises OutOfSpace, ViewBroken."""
        with self._following(1, ()) as transaction:
            self._set(transaction, key, self._known(transaction, key), new)
        self._tell()

    def drop_deletes(self, purged: Sequence[tuple[bytes, int]]) -> None:
        """Forget deletes that are purged from the logs. Raises OutOfSpace, ViewBroken."""
        with self.view.write(rows=len(purged)) as transaction:
            for key, version in purged:
                packed = transaction.get(key, None, self._deletes)
                if packed is not None and unpack_deleted(key, packed) <= version:
                    transaction.delete(key, db=self._deletes)
            self._forget(transaction, max((version for _, version in purged), default=0))

    def start_feed(self, version: int) -> None:
        """Tell the feed what happens from now on; `version` is behind all that has. What a catalog
        that is new has not seen itself it cannot tell. Raises OutOfSpace, ViewBroken."""
        if not self.forgotten():
            with self.view.write() as transaction:
                self._forget(transaction, version)
        self.feed.start(version)

    def _remember(self, transaction: "lmdb.Transaction[bytes]", event: Event) -> None:
        """Tell of it when the transaction is done. Of one that is late, watchers must learn that
        are away and were told newer ones."""
        self._told.append(event)
        last = self.feed.last.version
        if event.version <= last:
            first = min(self._late[0] or event.version, event.version)
            if (first, last) != self._late:
                self._late = first, last
                self.view.put_cursor(transaction, LATE, Cursor(b"", first))
                self.view.put_cursor(transaction, LATE_BEHIND, Cursor(b"", last))

    def _tell(self) -> None:
        """Tell the feed what was set."""
        told, self._told = self._told, []
        if told:
            self.feed.landed(told)

    def _forget(self, transaction: "lmdb.Transaction[bytes]", version: int) -> None:
        """Of what happened up to that version, some is not known any more."""
        if version > self.forgotten():
            self.view.put_cursor(transaction, FORGOTTEN, Cursor(b"", version))

    def reset(self) -> None:
        """Throw everything away. Raises OutOfSpace, OSError."""
        self.view.reset()
        self._bind()
        if self.feed.is_running:
            self.feed.skip()

    def close(self, *, clean: bool) -> None:
        """Close it; a clean one is trusted by the next opening."""
        self.view.close(clean=clean)

    def _apply(
        self, transaction: "lmdb.Transaction[bytes]", change: Change, holder: int, seq: int
    ) -> None:
        key = change.key
        known = self._known(transaction, key)
        new = decide(known, change, holder=holder, seq=seq)
        if new is not known and new is not None:
            self._set(transaction, key, known, new)

    def _set(
        self,
        transaction: "lmdb.Transaction[bytes]",
        key: bytes,
        known: Row | int | None,
        new: Row | int,
    ) -> None:
        table = self._table(key)
        self._count(known, new)
        if self.feed.is_running and key >= FIRST_USER_KEY:
            event = event_of_known(key, known, new)
            if event is not None:
                self._remember(transaction, event)
        if isinstance(new, Row):
            transaction.put(key, pack_row(key, new), db=table)
            if known is not None and not isinstance(known, Row):
                transaction.delete(key, db=self._deletes)
        else:
            self._may_be_deleted = True
            transaction.put(key, pack_deleted(key, new), db=self._deletes)
            if isinstance(known, Row):
                transaction.delete(key, db=table)
        self._orders.move(transaction, key, times(known), times(new))

    def _count(self, known: Row | int | None, new: Row | int | None) -> None:
        if isinstance(known, Row):
            self._tally.add(known.replicas, known.copies, -1, -known.size)
        if isinstance(new, Row):
            self._tally.add(new.replicas, new.copies, 1, new.size)

    def _load(
        self,
        transaction: "lmdb.Transaction[bytes]",
        keys: Sequence[bytes],
        entries: Sequence[bytes],
        holder: int,
    ) -> None:
        """Users' keys: those of which nothing is known at once, the others one by one."""
        known = present(transaction.cursor(self._keys), keys)
        known |= present(transaction.cursor(self._deletes), keys)
        try:
            loaded = pack_loaded(keys, entries, holder=holder, known=known)
        except Damage as error:
            raise BadRows(str(error)) from None
        put_sorted(transaction.cursor(self._keys), loaded.rows)
        if self.feed.is_running:
            for key, row in loaded.rows:
                self._remember(transaction, new_event(key, row))
        for replicas, (count, size) in loaded.counts.items():
            self._tally.add(replicas, (holder,), count, size)
        self._orders.gather(transaction, loaded.created, loaded.expiry)
        for key, entry in loaded.rest:
            self._load_one(transaction, key, entry, holder)

    def _load_one(
        self, transaction: "lmdb.Transaction[bytes]", key: bytes, entry: bytes, holder: int
    ) -> None:
        try:
            position = unpack_position(key, entry)
        except Damage as error:
            raise BadRows(str(error)) from None
        self._apply(transaction, change_of(key, position), holder, position.seq)
