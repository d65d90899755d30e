"""What earlier transfers moved: so that a second one need not compare every byte again.

The server tells no checksum, only a size and an ETag. So after a file was fetched, stored or
compared, one row says: this file, of this size, times and inode, with this CRC32C, is this key at
this version on this server. Next time the file is there already

- where the key still has that ETag and time of writing, and
- the file still has that size, and either its times and inode, or that CRC32C.

The times alone are not trusted where they are about as young as the row: a change in the same tick
of the clock would not show. Nothing here is needed: where the row is missing, or the whole memory
cannot be read or written, the transfer compares bytes.

It is an SQLite file, DIRECTORY/pulzar/transfers.db, shared by all transfers of a user:

    moved(server, key, path -> etag, written_s, size, mtime_ns, ctime_ns, inode, crc32c, noted_ns)

`path` is the absolute path as bytes; `written_s` seconds since 1970: versions begin anew with
another volume at the same address. A file of more than BYTES_MAX is forgotten as a whole.
"""

import contextlib
import os
import sqlite3
import threading
import time
from types import TracebackType
from typing import Any, Self, TypeAlias

import google_crc32c
import msgspec

from pulzar.limits import MIB

READ_BYTES = 1 * MIB
BYTES_MAX = 512 * MIB
ROWS_AT_ONCE = 256
BUSY_S = 2.0
TICK_NS = 100_000_000  # coarser than the clock of any file system that has nanoseconds

_TABLE = """
CREATE TABLE IF NOT EXISTS moved (
    server TEXT, key TEXT, path BLOB, etag TEXT, written_s INTEGER, size INTEGER,
    mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, crc32c INTEGER, noted_ns INTEGER,
    PRIMARY KEY (server, path, key)
) WITHOUT ROWID
"""
_FIND = """
SELECT etag, written_s, size, mtime_ns, ctime_ns, inode, crc32c, noted_ns
FROM moved WHERE server = ? AND path = ? AND key = ?
"""
_NOTE = "INSERT OR REPLACE INTO moved VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_Row: TypeAlias = tuple[Any, ...]


class Version(msgspec.Struct, frozen=True):
    """One version of a key: its ETag and when it was written, in whole seconds since 1970."""

    key: str
    etag: str
    written_s: int


class Memory:
    """The memory of transfers with one server, usable from many threads. Never raises: what it
    cannot do, it does not know. Without a directory it knows nothing."""

    def __init__(self, directory: str | None, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._new: list[_Row] = []
        self._database = _opened(directory) if directory else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether anything is remembered at all."""
        return self._database is not None

    def holds(self, path: str, version: Version) -> bool:
        """Whether a file is known to be this version, byte for byte."""
        row = self._find(path, version.key)
        try:
            status = os.stat(path)
            if row is None or row[:3] != (version.etag, version.written_s, status.st_size):
                return False
            times, crc32c, noted_ns = row[3:6], row[6], row[7]
            if times == _times(status) and noted_ns - max(times[:2]) >= TICK_NS:
                return True
            if crc32c_of(path) != crc32c:
                return False
        except OSError:
            return False
        self.note(path, version, status, crc32c)
        return True

    def note(self, path: str, version: Version, status: os.stat_result, crc32c: int) -> None:
        """Remember that a file is this version. `status` is from before its bytes were read, or
        from after they were written."""
        if self._database is None:
            return
        name = os.fsencode(os.path.realpath(path))
        asked = (self._server, version.key, name, version.etag, version.written_s)
        known = (status.st_size, *_times(status), crc32c, time.time_ns())
        with self._lock:
            self._new.append((*asked, *known))
            if len(self._new) >= ROWS_AT_ONCE:
                self._flush()

    def close(self) -> None:
        """Write what is new."""
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _find(self, path: str, key: str) -> _Row | None:
        with self._lock, contextlib.suppress(sqlite3.Error, UnicodeError):
            if self._database is not None:
                name = os.fsencode(os.path.realpath(path))
                found = self._database.execute(_FIND, (self._server, name, key)).fetchone()
                return None if found is None else tuple(found)
        return None

    def _flush(self) -> None:
        rows, self._new = self._new, []
        with contextlib.suppress(sqlite3.Error, UnicodeError):
            if self._database is not None and rows:
                with self._database:
                    self._database.executemany(_NOTE, rows)


def crc32c_of(path: str) -> int:
    """The CRC32C of a file's bytes. Raises OSError."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            checksum = google_crc32c.extend(checksum, chunk)
    return checksum


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino & (1 << 63) - 1


def _opened(directory: str) -> sqlite3.Connection | None:
    """The database; None where there can be none. One that is damaged or too large goes away."""
    path = os.path.join(directory, "pulzar", "transfers.db")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        if os.path.exists(path) and os.path.getsize(path) > BYTES_MAX:
            os.unlink(path)
        try:
            return _connected(path)
        except sqlite3.OperationalError:  # in use for too long, or no room
            return None
        except sqlite3.DatabaseError:  # not a database any more
            os.unlink(path)
            return _connected(path)
    except (OSError, sqlite3.Error):
        return None


def _connected(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # lost with the power: compared again
        database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database
