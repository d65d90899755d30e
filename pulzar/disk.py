"""The seam to the disk: the only module of the engine that opens files.

The engine is given a `Disk`; in the product it is `SystemDisk`, in tests the one of
`pulzar.testing`, which keeps, drops and tears what was not synced. The contract is what POSIX
promises and no more:

- Bytes written are durable after `File.sync()` returned, and not before.
- A name (created, renamed, unlinked) is durable after `sync_directory()` of its directory.
- Any of these may raise OSError. After an error of `write` or `sync` the content of the file is
  unknown and the same file must not be written again (a second fsync may report success for
  pages that the kernel has already thrown away; see "Can Applications Recover from fsync
  Failures?", USENIX ATC 2020).

Paths are plain strings, absolute or relative to the working directory.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

IOV_MAX = 1024  # Linux; the limit of one pwritev


class Readable(Protocol):
    """An open file that is read. Offsets and lengths are bytes."""

    def read(self, length: int, *, offset: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer only at the end of the file."""

    def size(self) -> int:
        """The length of the file."""

    def close(self) -> None:
        """Close it. Does not sync."""


class File(Readable, Protocol):
    """One open file."""

    def write(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        """Write all of `buffers` one behind the other at `offset`, or raise OSError."""

    def write_synced(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        """`write`, then `sync`, in as few calls as possible."""

    def read_cached(self, length: int, *, offset: int) -> bytes | None:
        """As `read` where the page cache has all of it, else None (then use a thread)."""

    def sync(self) -> None:
        """Make all that was written durable (fdatasync: the bytes and the size)."""

    def allocate(self, length: int) -> None:
        """Reserve the first `length` bytes on disk and grow the file to them (zeros)."""

    def truncate(self, length: int) -> None:
        """Cut the file at `length`; durable after `sync`."""


class Lock(Protocol):
    """A lock held until it is released or the process ends."""

    def release(self) -> None:
        """Give it back."""


class Disk(Protocol):
    """Files and directories, as far as the engine needs them."""

    def create(self, path: str, *, private: bool = False) -> File:
        """Open a new file for reading and writing; a private one is its owner's alone.
        FileExistsError if the name is taken."""

    def open(self, path: str, *, write: bool = False) -> File:
        """Open an existing file. FileNotFoundError if it is missing."""

    def list(self, path: str) -> list[str]:
        """The sorted names in a directory; empty if the directory is missing."""

    def exists(self, path: str) -> bool:
        """Whether the name is there."""

    def make_directory(self, path: str) -> None:
        """Create a directory and its parents; nothing happens where it exists."""

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, replacing what has that name, atomically."""

    def unlink(self, path: str) -> None:
        """Remove a name. FileNotFoundError if it is missing."""

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""

    def free_bytes(self, path: str) -> int:
        """Bytes that a non-root user can still allocate on the file system of `path`."""

    def used_bytes(self, path: str) -> int:
        """Bytes that are allocated on the file system of `path`, by whomever."""

    def file_id(self, path: str) -> str:
        """What tells this file from a copy of it, as long as nothing replaces it."""

    def lock(self, path: str) -> Lock:
        """Take an exclusive lock on a file (made if missing). BlockingIOError if it is held."""

    def reached(self, point: str) -> None:
        """The engine is at a named moment between two durable steps; a test disk may die here."""


def read_file(disk: Disk, path: str) -> bytes:
    """The whole of a small file."""
    file = disk.open(path)
    try:
        return file.read(file.size(), offset=0)
    finally:
        file.close()


def write_file(disk: Disk, path: str, content: bytes, *, private: bool = False) -> None:
    """Create a file with `content`, durable in its directory when this returns."""
    file = disk.create(path, private=private)
    try:
        file.write([content], offset=0)
        file.sync()
    finally:
        file.close()
    disk.sync_directory(os.path.dirname(path))


def replace_file(disk: Disk, path: str, content: bytes, *, private: bool = False) -> None:
    """Let a file have that content, durably: the old or the new one is there at any time."""
    new = f"{path}.new"
    if disk.exists(new):
        disk.unlink(new)
    write_file(disk, new, content, private=private)
    disk.rename(new, path)
    disk.sync_directory(os.path.dirname(path))


def sync_ancestors(disk: Disk, path: str) -> None:
    """Make the name of a directory durable, and those of the directories above it.

    One that we may not read was not made by us.
    """
    while path not in ("", "/", "."):
        path = os.path.dirname(path) or ("." if not path.startswith("/") else "/")
        try:
            disk.sync_directory(path)
        except PermissionError:
            return


class SystemFile:
    """A file of the operating system."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        for group in _groups(buffers):
            length = sum(map(len, group))
            written = os.pwritev(self._fd, group, offset)
            if written != length:
                written += self._write_rest(b"".join(group)[written:], offset + written)
            offset += length

    def write_synced(self, buffers: Sequence[Buffer], *, offset: int) -> None:
        # One call instead of pwritev and fdatasync: between two, this thread would have to wait
        # until the event loop lets go of the interpreter.
        if len(buffers) <= IOV_MAX:
            try:
                written = os.pwritev(self._fd, buffers, offset, os.RWF_DSYNC)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # said before anything is written
                    raise
                written = os.pwritev(self._fd, buffers, offset)
            else:
                if written == sum(map(len, buffers)):
                    return
            self._write_rest(b"".join(buffers)[written:], offset + written)
        else:
            self.write(buffers, offset=offset)
        self.sync()

    def _write_rest(self, rest: bytes, offset: int) -> int:
        """Finish a short write; the next call reports why it was short (ENOSPC, EIO)."""
        done = 0
        while done < len(rest):
            written = os.pwrite(self._fd, rest[done:], offset + done)
            if written == 0:
                raise OSError(errno.EIO, "wrote nothing")
            done += written
        return done

    def read(self, length: int, *, offset: int) -> bytes:
        content = os.pread(self._fd, length, offset)
        if len(content) == length or not content:
            return content
        parts = [content]
        done = len(content)
        while done < length and (more := os.pread(self._fd, length - done, offset + done)):
            parts.append(more)
            done += len(more)
        return b"".join(parts)

    def read_cached(self, length: int, *, offset: int) -> bytes | None:
        buffer = bytearray(length)
        try:
            count = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except (BlockingIOError, NotImplementedError):
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # e.g. tmpfs before Linux 6
                return None
            raise
        return bytes(buffer) if count == length else None

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def allocate(self, length: int) -> None:
        os.posix_fallocate(self._fd, 0, length)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)


class SystemLock:
    """An flock(2); the kernel gives it back when the process ends, however it ends."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        os.close(self._fd)


class SystemDisk:
    """The file systems of this machine."""

    def create(self, path: str, *, private: bool = False) -> File:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return SystemFile(os.open(path, flags, 0o600 if private else 0o644))

    def open(self, path: str, *, write: bool = False) -> File:
        return SystemFile(os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC))

    def list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def used_bytes(self, path: str) -> int:
        stat = os.statvfs(path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def file_id(self, path: str) -> str:
        stat = os.stat(path)
        return f"{stat.st_dev}:{stat.st_ino}"

    def lock(self, path: str) -> Lock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return SystemLock(fd)

    def reached(self, point: str) -> None:
        pass


def _groups(buffers: Sequence[Buffer]) -> Iterator[Sequence[Buffer]]:
    if len(buffers) <= IOV_MAX:
        yield buffers
        return
    for start in range(0, len(buffers), IOV_MAX):
        yield buffers[start : start + IOV_MAX]
