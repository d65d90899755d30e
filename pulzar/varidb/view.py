"""The view: a disposable LMDB environment in a directory of its own.

    volume.views/
      data.mdb lock.mdb   LMDB
      trust.json          which file in which mount of which boot this is; the same is in data.mdb
      clean.json          only while closed cleanly: what data.mdb was when it was closed
      probes              a byte for each opening behind the last clean close
      owner.lock          locked by the one process that writes

A view is opened without fsync: `kill -9` cannot hurt it, since the kernel has every page that was
written, and a commit costs microseconds. Everything else can (power loss, a copy of a live
directory, a copy put back), and LMDB neither notices nor survives all of it: it may serve a
state that lacks records, or abort the process. So nothing in a view is believed unless it is
certain that this very file was written by processes that ended, at worst, by a signal:
closed cleanly   clean.json was written after LMDB's pages were fsynced, and is removed, durably,
                 before the next opening writes. It names inode, size and ctime of data.mdb and
                 LMDB's last transaction. A copy has another inode; a copy put back in place has
                 another ctime, which no tool can set.
killed           without the mark, boot id, st_dev, st_ino and mount id must be the recorded ones,
                 and trust.json the file that data.mdb remembers (inode and ctime again). A process
                 of its own touches the view first (view_probe.py): a death there is no harm.

Otherwise it is deleted, and `View.created` tells the owner to fill it again. Each owner puts a
checksum in each of its entries. An error of LMDB, or an entry that fails its checksum, raises
ViewBroken: the owner calls `reset` and fills the view anew. A full disk or map raises OutOfSpace;
the transaction is gone without a trace, and the view stays usable.

Table `cursors`: name -> how far this view has followed a log, in the same transaction as the
entries that it covers. All little-endian:

      0          4      12        13
      +----------+------+---------+---------+---------------+
      | checksum | seq  | length  | opening | place (free)  |
      +----------+------+---------+---------+---------------+

checksum is the CRC32C of the name and of what follows. Table `trust` holds one JSON record.

One process writes (owner.lock holds others off), any may read (`open_readonly`). In the writing
process one thread does all of it, since the map may move when it grows.

Pages are written through the map: 9 us a key instead of 20 (32 random keys, ext4). A page without
a block would be SIGBUS, so file and map grow together, allocated, before a transaction that might
need more (`_make_room`); a full disk is met there.
"""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType

import google_crc32c
import lmdb
import msgspec

from pulzar.disk import SystemDisk
from pulzar.errors import Damage, InvalidKey, OutOfSpace, ViewBroken
from pulzar.limits import (
    MIB,
    VIEW_GROW_BYTES,
    VIEW_MAP_BYTES,
    VIEW_PROBE_ALL_EVERY,
    VIEW_PROBE_TIMEOUT_S,
    VIEW_READERS_MAX,
    VIEW_SPARE_TRANSACTIONS,
)
from pulzar.varidb import view_probe
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.view_files import (
    CLEAN,
    DATA,
    PROBES,
    TRUST,
    locate,
    lock,
    read,
    remove,
    unlink,
    write_synced,
)
from pulzar.varidb.view_trust import FORMAT, Here, Mark, Remembered, Trust

_OWN_TABLES = ("cursors", "trust")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_PAGE_BYTES = 4096
_PAGES_PER_ROW = 16  # leaves and branches of the tables that one row has a place in
_PAGES_SPARE = 256
_CURSOR = struct.Struct("<IQB")

_crc32c = google_crc32c.extend


class _Doubt(Exception):
    """Why a view that was found is not to be trusted."""


class View:
    """One open view. `created`: it is empty and wants to be filled."""

    def __init__(self, directory: str, name: str, identity: str, tables: Sequence[str]) -> None:
        self.directory = directory
        self.created = False
        self.readonly = False
        self.environment: lmdb.Environment
        self.tables: dict[str, lmdb._Database] = {}
        self._name = name
        self._identity = identity
        self._names = (*tables, *_OWN_TABLES)
        self._map_bytes_max = VIEW_MAP_BYTES
        self._map_bytes = 0  # now; allocated on disk
        self._pages_left = -1  # that many more may be written before somebody looks again
        self._locate: Callable[[str], Here | None] = locate
        self._lock_fd = -1
        self._opened = False
        self._broken = False

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        name: str,
        tables: Sequence[str],
        identity: bytes,
        map_bytes: int = VIEW_MAP_BYTES,
        locate: Callable[[str], Here | None] = locate,
    ) -> "View":
        """Open a view for writing; one that cannot be trusted is deleted and begun anew.

        Raises VolumeInUse where another process has it, OutOfSpace, OSError.
        """
        view = cls(directory, name, identity.hex(), tables)
        view._map_bytes_max = map_bytes
        view._locate = locate
        os.makedirs(directory, exist_ok=True)
        view._lock_fd = lock(directory)
        try:
            view._start()
        except BaseException:  # whatever it is, nothing must stay open behind the attempt
            if view._opened:
                view.environment.close()
            os.close(view._lock_fd)
            raise
        return view

    @classmethod
    def open_readonly(cls, directory: str, *, tables: Sequence[str]) -> "View":
        """Open a view that another process of ours is writing. Raises ViewBroken."""
        view = cls(directory, "", "", tables)
        view.readonly = True
        try:
            view._open_environment(create=False)
        except lmdb.Error as error:
            if view._opened:
                view.environment.close()
            raise ViewBroken(f"{directory} cannot be read: {error}") from error
        return view

    @property
    def transaction(self) -> int:
        """The number of the last committed transaction."""
        return int(self.environment.info()["last_txnid"])

    # Transactions.

    def write(self, *, rows: int = 1, size: int = 0) -> "_Writing":
        """A write transaction, committed at the end of the block, aborted by an exception.

        At most `rows` keys will be touched in each of a few tables, and `size` bytes of keys and
        values written. Raises OutOfSpace (nothing is applied), ViewBroken.
        """
        self._make_room(rows, size)
        return _Writing(self)

    def _make_room(self, rows: int, size: int) -> None:
        """Let file and map grow, if the next transaction may need it. Raises OutOfSpace."""
        # Every page on the way to a row may be copied once; what is new may fill pages by a third.
        pages = rows * _PAGES_PER_ROW + size * 3 // _PAGE_BYTES
        self._pages_left -= pages
        if self._pages_left >= 0:
            return
        used = int(self.environment.info()["last_pgno"]) + 1
        pages = min(rows * _PAGES_PER_ROW, used) + size * 3 // _PAGE_BYTES
        wanted = (used + pages + _PAGES_SPARE) * _PAGE_BYTES
        self._pages_left = (self._map_bytes - wanted) // _PAGE_BYTES
        if self._pages_left >= 0:
            return
        grown = max(wanted, self._map_bytes * 5 // 4, self._map_bytes + VIEW_GROW_BYTES)
        map_bytes = min(grown // MIB * MIB + MIB, self._map_bytes_max)
        if map_bytes > self._map_bytes:
            self._allocate(map_bytes)
            self.environment.set_mapsize(map_bytes)
            self._map_bytes = map_bytes
            self._pages_left = (map_bytes - wanted) // _PAGE_BYTES

    def _allocate(self, size: int) -> None:
        """Give the data file blocks up to `size`. Raises OutOfSpace."""
        fd = os.open(self._path(DATA), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno in _FULL:
                raise OutOfSpace(f"no room on disk for the view in {self.directory}") from None
            raise
        finally:
            os.close(fd)

    def failure(self, error: lmdb.Error | Damage) -> Exception:
        """What an error of LMDB, or a checksum that does not hold, means to the owner."""
        if isinstance(error, lmdb.BadValsizeError):
            return InvalidKey("a key is empty or too long for a view")
        if isinstance(error, lmdb.MapFullError):
            return OutOfSpace(f"the view in {self.directory} has reached the size of its map")
        if isinstance(error, lmdb.Error) and error.code in _FULL:
            return OutOfSpace(f"no room on disk for the view in {self.directory}")
        self._broken = True
        if not self.readonly:
            unlink(self._path(TRUST))  # so that a process after this one begins it anew
        return ViewBroken(f"the view in {self.directory}: {error}")

    def stat(self, table: str) -> dict[str, int]:
        """LMDB's stat of a table. Raises ViewBroken."""
        try:
            with self.environment.begin() as transaction:
                return dict(transaction.stat(self.tables[table]))  # type: ignore[arg-type]
        except lmdb.Error as error:
            raise self.failure(error) from error

    # Cursors.

    def cursor(self, name: bytes) -> tuple[Cursor, bytes]:
        """How far the view has followed that log (NOWHERE: not at all), and the place stored
        with it. Raises ViewBroken."""
        try:
            with self.environment.begin(self.tables["cursors"]) as transaction:
                packed = transaction.get(name)
        except lmdb.Error as error:
            raise self.failure(error) from error
        if packed is None:
            return NOWHERE, b""
        if len(packed) < _CURSOR.size or _cursor_crc(name, packed) != packed[:4]:
            raise self.failure(Damage("a cursor does not match its checksum"))
        _, seq, length = _CURSOR.unpack_from(packed)
        place_at = _CURSOR.size + length
        return Cursor(packed[_CURSOR.size : place_at], seq), packed[place_at:]

    def put_cursor(
        self,
        transaction: "lmdb.Transaction[bytes]",
        name: bytes,
        cursor: Cursor,
        place: bytes = b"",
    ) -> None:
        """Store a cursor, and the place that belongs to it, in the transaction of its entries."""
        packed = _CURSOR.pack(0, cursor.seq, len(cursor.opening)) + cursor.opening + place
        packed = _cursor_crc(name, packed) + packed[4:]
        transaction.put(name, packed, db=self.tables["cursors"])

    # Life.

    def reset(self) -> None:
        """Throw everything away and begin anew. Raises OutOfSpace, OSError."""
        self._create()

    def close(self, *, clean: bool) -> None:
        """Close it. A clean view is fsynced, and trusted by the next opening without a doubt."""
        if self.readonly:
            self.environment.close()
            return
        try:
            if clean and not self._broken:
                self._close_clean()
            else:
                self.environment.close()
        finally:
            os.close(self._lock_fd)

    def _close_clean(self) -> None:
        try:
            self.environment.sync(True)
            transaction = self.transaction
        except lmdb.Error:
            # What the kernel could not write it may have forgotten: nothing here is certain.
            self.environment.close()
            remove(self.directory)
            return
        self.environment.close()
        mark = self._mark(transaction)
        write_synced(self._path(CLEAN), msgspec.json.encode(mark))
        SystemDisk().sync_directory(self.directory)

    def _start(self) -> None:
        """Open what is there if it can be trusted, else begin anew."""
        try:
            if os.path.exists(self._path(CLEAN)):
                self._open_closed()
            else:
                self._open_killed()
        except (_Doubt, lmdb.Error, msgspec.MsgspecError, FileNotFoundError) as error:
            if isinstance(error, lmdb.Error) and error.code in _FULL:
                raise self.failure(error) from error
            self._create()

    def _open_closed(self) -> None:
        """Open a view that has a mark. Raises _Doubt."""
        mark = msgspec.json.decode(read(self._path(CLEAN)), type=Mark)
        if mark != self._mark(mark.transaction):
            raise _Doubt("it is not the file that was closed cleanly")
        unlink(self._path(CLEAN))
        unlink(self._path(PROBES))
        SystemDisk().sync_directory(self.directory)
        self._open_environment(create=False)
        if self.transaction != mark.transaction:
            raise _Doubt("it has another state than when it was closed cleanly")
        present = self._present()
        if present is None or present != self._remembered():
            self._remember()

    def _open_killed(self) -> None:
        """Open a view whose last owner left no mark. Raises _Doubt."""
        present = self._present()
        if present is None:
            raise _Doubt("it was written elsewhere, or before a restart of the machine")
        if not self._probe():
            raise _Doubt("the process that looked at it first died")
        self._open_environment(create=False)
        self.environment.reader_check()
        if self._remembered() != present:
            raise _Doubt("it was put back in place from a copy")

    def _probe(self) -> bool:
        """Let a process of its own touch everything first; now and then really everything."""
        with open(self._path(PROBES), "ab") as file:
            file.write(b".")
            number = file.tell()
        whole = ["--all"] if number % VIEW_PROBE_ALL_EVERY == 0 else []
        command = [sys.executable, "-P", view_probe.__file__, *whole, self.directory, *self._names]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=VIEW_PROBE_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def _create(self) -> None:
        """Begin an empty view. Raises OutOfSpace, OSError."""
        if self._opened:
            self.environment.close()
        remove(self.directory)
        try:
            self._open_environment(create=True)
            self._remember()
        except lmdb.Error as error:
            raise self.failure(error) from error
        self.created = True
        self._broken = False

    def _open_environment(self, *, create: bool) -> None:
        path = self._path(DATA)
        present = os.stat(path).st_size if os.path.exists(path) else 0
        size = min(max(present, VIEW_GROW_BYTES), self._map_bytes_max)
        self.environment = lmdb.open(
            self.directory,
            # A reader's map must hold what the writer's will ever be.
            map_size=self._map_bytes_max if self.readonly else size,
            readonly=self.readonly,
            writemap=not self.readonly,
            create=create,
            sync=False,
            metasync=False,
            readahead=False,
            max_dbs=len(self._names),
            max_readers=VIEW_READERS_MAX,
            max_spare_txns=VIEW_SPARE_TRANSACTIONS,
        )
        self._opened = True
        if not self.readonly:
            self._allocate(size)
            self._map_bytes = size
            self._pages_left = -1
        self.tables = {
            name: self.environment.open_db(name.encode(), create=create) for name in self._names
        }

    # Trust.

    def _mark(self, transaction: int) -> Mark:
        """The mark of data.mdb as it is."""
        stat = os.stat(self._path(DATA))
        return Mark(
            format=FORMAT,
            name=self._name,
            identity=self._identity,
            inode=stat.st_ino,
            size=stat.st_size,
            ctime_ns=stat.st_ctime_ns,
            transaction=transaction,
        )

    def _trust(self) -> Trust | None:
        """What trust.json should say; None where the kernel does not tell where this is."""
        here = self._locate(self.directory)
        if here is None:
            return None
        return Trust(format=FORMAT, name=self._name, identity=self._identity, here=here)

    def _present(self) -> Remembered | None:
        """What trust.json is and says; None where it does not say what it should."""
        path = self._path(TRUST)
        try:
            stat = os.stat(path)
            trust = msgspec.json.decode(read(path), type=Trust)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        if trust != self._trust():
            return None
        return Remembered(trust=trust, inode=stat.st_ino, ctime_ns=stat.st_ctime_ns)

    def _remembered(self) -> Remembered | None:
        """What data.mdb says of trust.json."""
        with self.environment.begin(self.tables["trust"]) as transaction:
            packed = transaction.get(b"trust")
        return None if packed is None else msgspec.json.decode(packed, type=Remembered)

    def _remember(self) -> None:
        """Write down where this is, in both places; in none where that is not known."""
        unlink(self._path(TRUST))
        trust = self._trust()
        if trust is None:
            return
        with open(self._path(TRUST), "wb") as file:
            file.write(msgspec.json.encode(trust))
        with self.environment.begin(self.tables["trust"], write=True) as transaction:
            transaction.put(b"trust", msgspec.json.encode(self._present()))

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"


class _Writing:
    """The block of a write transaction: what `contextlib` would make of it costs 3 us more."""

    __slots__ = ("_transaction", "_view")

    def __init__(self, view: View) -> None:
        self._view = view
        self._transaction: lmdb.Transaction[bytes]

    def __enter__(self) -> "lmdb.Transaction[bytes]":
        try:
            self._transaction = self._view.environment.begin(write=True)
        except lmdb.Error as error:
            raise self._view.failure(error) from error
        return self._transaction

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._transaction.commit()
            else:
                self._transaction.abort()
        except lmdb.Error as failed:
            raise self._view.failure(failed) from failed
        if isinstance(error, (lmdb.Error, Damage)):
            raise self._view.failure(error) from error


def _cursor_crc(name: bytes, packed: bytes) -> bytes:
    return int(_crc32c(_crc32c(0, name), packed[4:])).to_bytes(4, "little")
