"""The index: key -> position of the newest record, for one volume. A view (view.py).

Table `positions` holds the entries of position.py, byte for byte as in the footers, so that it is
rebuilt by copying those. A delete stays as an entry of type DELETE until it is purged. Of two
records of one key the larger (version, seq) wins, whatever the order in which they come: filling
an index twice, or from any order of segments, gives the same.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter

import lmdb

from pulzar.errors import Damage
from pulzar.limits import KEY_BYTES_MAX, VIEW_MAP_BYTES
from pulzar.varidb.footer import entry_order
from pulzar.varidb.position import (
    ENTRY_TYPE_AT,
    POSITION_BYTES,
    Cursor,
    Position,
    pack_position,
    unpack_position,
)
from pulzar.varidb.record import Type
from pulzar.varidb.view import View

_TABLE = "positions"
_LOG = b"log"  # the cursor's name
_ROW_BYTES = KEY_BYTES_MAX + POSITION_BYTES
_LOAD_ROWS = 65_536  # looked up at once while loading


class Index:
    """The index of one volume. All of it belongs to one thread."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._bind()

    def _bind(self) -> None:
        self._begin = self.view.environment.begin
        self._table = self.view.tables[_TABLE]

    @classmethod
    def open(cls, directory: str, *, identity: bytes, map_bytes: int = VIEW_MAP_BYTES) -> "Index":
        """Open the index of the volume `identity` for writing; see `View.open`."""
        return cls(
            View.open(
                directory,
                name="index",
                tables=[_TABLE],
                identity=identity,
                map_bytes=map_bytes,
            )
        )

    @classmethod
    def open_readonly(cls, directory: str) -> "Index":
        """Read an index that another process writes. Raises ViewBroken."""
        return cls(View.open_readonly(directory, tables=[_TABLE]))

    def get(self, key: bytes) -> Position | None:
        """The newest position of a key, deletes included. Raises ViewBroken."""
        try:
            entry = self._begin(self._table).get(key)
            return None if entry is None else unpack_position(key, entry)
        except (lmdb.Error, Damage) as error:
            raise self.view.failure(error) from error

    def cursor(self) -> Cursor:
        """How far it has followed; NOWHERE when it is empty. Raises ViewBroken."""
        return self.view.cursor(_LOG)[0]

    def place(self) -> bytes:
        """The bytes given with the last cursor. Raises ViewBroken."""
        return self.view.cursor(_LOG)[1]

    def apply(
        self, items: Sequence[tuple[bytes, Position]], cursor: Cursor, place: bytes = b""
    ) -> None:
        """Take in positions; the larger (version, seq) wins. The cursor goes with them.

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        with self.view.write(rows=len(items), size=len(items) * _ROW_BYTES) as transaction:
            table = self._table
            get, put = transaction.get, transaction.put
            for key, position in items:
                entry = get(key, None, table)
                if entry is None or _is_newer(position, unpack_position(key, entry)):
                    put(key, pack_position(key, position), db=table)
            self.view.put_cursor(transaction, _LOG, cursor, place)

    def append(
        self, rows: Sequence[tuple[bytes, bytes]], cursor: Cursor, place: bytes = b""
    ) -> None:
        """As `apply`, for packed positions, without a look: each is newer than all that are there.

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        with self.view.write(rows=len(rows), size=len(rows) * _ROW_BYTES) as transaction:
            put_newest(transaction.cursor(self._table), rows)
            self.view.put_cursor(transaction, _LOG, cursor, place)

    def load(self, keys: Sequence[bytes], entries: Sequence[bytes]) -> None:
        """Take in the columns of a footer: by key, of one key the newest first. No cursor.

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        size = sum(map(len, keys)) + len(keys) * POSITION_BYTES
        with self.view.write(rows=len(keys), size=size) as transaction:
            table = transaction.cursor(self._table)
            if put_sorted(table, list(zip(keys, entries, strict=True))) != len(keys):
                _merge(table, keys, entries)

    def columns(self, after: bytes, limit: int) -> tuple[list[bytes], list[bytes]]:
        """Keys strictly behind `after` and their packed entries, in key order; unchecked.

        Raises ViewBroken.
        """
        try:
            with self._begin(self._table) as transaction:
                table = transaction.cursor()
                if not table.set_range(after + b"\0" if after else b"\0"):
                    return [], []
                rows = list(islice(table.iternext(), limit))
        except lmdb.Error as error:
            raise self.view.failure(error) from error
        return [key for key, _ in rows], [entry for _, entry in rows]

    def items(self, after: bytes = b"", limit: int = 1000) -> list[tuple[bytes, Position]]:
        """Keys strictly behind `after` and their positions, in key order. Raises ViewBroken."""
        keys, entries = self.columns(after, limit)
        try:
            return [
                (key, unpack_position(key, entry)) for key, entry in zip(keys, entries, strict=True)
            ]
        except Damage as error:
            raise self.view.failure(error) from error

    def swap(self, items: Sequence[tuple[bytes, Position, Position]]) -> int:
        """Replace old by new where old is still there; how many. (Compaction moved a record.)

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        swapped = 0
        with self.view.write(rows=len(items)) as transaction:
            table = self._table
            for key, old, new in items:
                entry = transaction.get(key, None, table)
                if entry is None:
                    continue
                present = unpack_position(key, entry)
                if (present.segment, present.offset) == (old.segment, old.offset):
                    transaction.put(key, pack_position(key, new), db=table)
                    swapped += 1
        return swapped

    def drop(self, items: Sequence[tuple[bytes, tuple[int, int]]]) -> int:
        """Remove entries that still have that (version, seq); how many.

        Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        dropped = 0
        with self.view.write(rows=len(items)) as transaction:
            table = self._table
            for key, order in items:
                entry = transaction.get(key, None, table)
                if entry is not None and unpack_position(key, entry).order == order:
                    transaction.delete(key, db=table)
                    dropped += 1
        return dropped

    def count(self) -> int:
        """Entries, deletes included. Raises ViewBroken."""
        return self.view.stat(_TABLE)["entries"]

    def count_live(self) -> int:
        """Entries that are no deletes; reads all of them. Raises ViewBroken."""
        try:
            with self._begin(self._table) as transaction:
                entries = transaction.cursor().iternext(keys=False)
                return sum(entry[ENTRY_TYPE_AT] in (Type.PUT, Type.BLOB) for entry in entries)
        except lmdb.Error as error:
            raise self.view.failure(error) from error

    def reset(self) -> None:
        """Throw everything away. Raises OutOfSpace, OSError."""
        self.view.reset()
        self._bind()

    def close(self, *, clean: bool) -> None:
        """Close it; a clean one is trusted by the next opening."""
        self.view.close(clean=clean)


def put_newest(table: "lmdb.Cursor[bytes]", rows: Sequence[tuple[bytes, bytes]]) -> None:
    """Put rows of different keys, whatever was there.

    Those behind the last row are appended, which is cheaper and fills pages to the brim, where
    inserting would leave them half empty.
    """
    ordered = sorted(rows)
    split = bisect_right(ordered, table.key(), key=itemgetter(0)) if table.last() else 0
    if split:
        table.putmulti(ordered[:split])
    if split < len(ordered):
        table.putmulti(ordered[split:], append=True)


def put_sorted(table: "lmdb.Cursor[bytes]", rows: Sequence[tuple[bytes, bytes]]) -> int:
    """Put rows, sorted by key, where there are none yet; how many. Behind the last row that is
    done by appending, which fills pages to the brim."""
    if not rows:
        return 0
    if table.last() and table.key() >= rows[0][0]:
        return int(table.putmulti(rows, overwrite=False)[1])
    return int(table.putmulti(rows, overwrite=False, append=True)[1])


def _is_newer(position: Position, present: Position) -> bool:
    if position.version != present.version:
        return position.version > present.version
    return position.seq > present.seq


def _merge(table: "lmdb.Cursor[bytes]", keys: Sequence[bytes], entries: Sequence[bytes]) -> None:
    """Replace entries that are older than the ones in the columns."""
    rows = iter(zip(keys, entries, strict=True))
    while chunk := list(islice(rows, _LOAD_ROWS)):
        chunk.reverse()  # of one key the newest comes first: it is to win
        given = dict(chunk)
        newer = [
            (key, given[key])
            for key, present in table.getmulti(sorted(given))
            if present != given[key] and entry_order(given[key]) > _order(present)
        ]
        table.putmulti(newer)


def _order(entry: bytes) -> tuple[int, int]:
    if len(entry) != POSITION_BYTES:
        raise Damage("an index entry has the wrong length")
    return entry_order(entry)
