"""Where a fetched value goes: into a file that changes only as a whole, or into what is there.

A file is written beside its name, as `.pulzar-*.part`, and renamed when it is whole. One that is
there keeps its permissions, and its owner where we may; a link stays, and the file that it points
to is replaced. A pipe, a terminal or a device is no file to be replaced: it is written into.
"""

import contextlib
import os
import secrets
import stat as file_modes
from collections.abc import Callable, Iterable, Iterator

import google_crc32c
import msgspec

OnBytes = Callable[[int], None]

# Names for what is open already; to replace the file behind them would not be seen there.
_OPEN_ALREADY = ("/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/proc/")


class Saved(msgspec.Struct, frozen=True):
    """What was written: its size in bytes, its CRC32C, and the status of the file after it, None
    where it was written into what is no file of its own."""

    size: int
    crc32c: int
    status: os.stat_result | None


def save(chunks: Iterable[bytes], target: str) -> Saved:
    """Write the chunks to `target`. Raises OSError, about `target`, and whatever `chunks` does;
    a file has its old bytes then."""
    try:
        there = status_of(target)
        replaced = there is None or file_modes.S_ISREG(there.st_mode)
        if replaced and not os.path.abspath(target).startswith(_OPEN_ALREADY):
            return _replace(chunks, os.path.realpath(target), there)
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "wb") as file:
            size, crc32c = _copy(chunks, file.write)
            file.flush()
            return Saved(size, crc32c, None)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), target) from error


def status_of(path: str) -> os.stat_result | None:
    """What is at a path, links followed; None where nothing is."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def counted(chunks: Iterable[bytes], on_bytes: OnBytes | None) -> Iterator[bytes]:
    """The chunks, telling how many bytes went by."""
    for chunk in chunks:
        if on_bytes:
            on_bytes(len(chunk))
        yield chunk


def _replace(chunks: Iterable[bytes], path: str, there: os.stat_result | None) -> Saved:
    partial = os.path.join(os.path.dirname(path), f".pulzar-{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    # Nobody may read meanwhile what only the owner could read before.
    descriptor = os.open(partial, flags, 0o666 if there is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            if there is not None:
                _dress(descriptor, there)
            size, crc32c = _copy(chunks, file.write)
            file.flush()
            os.replace(partial, path)
            return Saved(size, crc32c, os.fstat(descriptor))
    except BaseException:  # Ctrl-C too must not leave half a file behind
        if os.path.lexists(partial):
            os.unlink(partial)
        raise


def _dress(descriptor: int, there: os.stat_result) -> None:
    """Give a new file the owner, where we may, and the permissions of the one it replaces."""
    own = os.fstat(descriptor)
    if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, file_modes.S_IMODE(there.st_mode) & 0o777)


def _copy(chunks: Iterable[bytes], write: Callable[[bytes], object]) -> tuple[int, int]:
    size = checksum = 0
    for chunk in chunks:
        write(chunk)
        checksum = google_crc32c.extend(checksum, chunk)
        size += len(chunk)
    return size, checksum
