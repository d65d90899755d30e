"""Directories up and down: many files, a few at a time, skipping what is already there.

A file's key is the prefix and the file's path with slashes; the way back takes only keys whose
rest is such a path, so that no key, however it was made, writes outside the target directory. A
file comes under its name only when it is whole (save.py).

A file is there already where its size and its bytes are those of the key. What the memory of
earlier transfers knows (memory.py) costs no byte of network; the rest is read and compared, and a
file that is the same is left as it is, times included.

What is wrong with one file (not readable, not a file name, damaged) is the outcome of that file;
what is wrong with the server (Unavailable, OutOfSpace) ends the transfer.
"""

import os
import stat as file_modes
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from mimetypes import guess_type
from typing import TypeVar

import google_crc32c
import msgspec

from pulzar.client.memory import READ_BYTES, Memory, Version
from pulzar.client.requests import Listed, Stat
from pulzar.client.save import OnBytes, counted, save, status_of
from pulzar.client.sync import Client, Readable
from pulzar.errors import ConditionFailed, Damage, KeyNotFound, UsageError

FILES_AT_ONCE = 8

Item = TypeVar("Item")


class Outcome(msgspec.Struct, frozen=True):
    """What became of one file: moved, skipped because it was there, or the reason why not."""

    key: str
    path: str
    size: int = 0
    skipped: bool = False
    error: str = ""


class Lifetime(msgspec.Struct, frozen=True):
    """How long uploaded values stay: for ever, `ttl` (text such as "15m"), `temporal` days."""

    ttl: str | None = None
    temporal: int | None = None

    @property
    def is_bounded(self) -> bool:
        return self.ttl is not None or self.temporal is not None


def as_directory(prefix: str) -> str:
    """The prefix of everything "in" a key: with a slash at its end, unless it is empty."""
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"


def relative_path(prefix: str, key: str) -> str:
    """Where the value of `key` belongs below the target of `prefix`.

    Raises UsageError for a key that is no path of plain names: absolute, "..", an empty name.
    """
    rest = key.removeprefix(prefix)
    names = rest.split("/")
    if not key.startswith(prefix) or any(name in ("", ".", "..") for name in names):
        raise UsageError(
            f"the key {key!r} cannot be the name of a file; `pulzar get KEY -` reads it"
        )
    return rest


def content_type_of(path: str) -> str:
    """The content type that a file's name suggests, "" for none."""
    kind, encoding = guess_type(path)
    return kind if kind and not encoding else ""


def files_below(
    directory: str, *, on_other: Callable[[str], None], on_error: Callable[[OSError], None]
) -> Iterator[str]:
    """The regular files below a directory, as paths relative to it, in a stable order.

    Links to files count as files; links to directories are not followed. They, and pipes, sockets
    and devices, are given to `on_other`, and a directory below that cannot be read to `on_error`.
    Raises OSError where `directory` itself cannot be read.
    """

    def failed(error: OSError) -> None:
        if error.filename == directory:
            raise error
        on_error(error)

    for parent, directories, files in os.walk(directory, onerror=failed):
        directories.sort()
        for name in sorted([*files, *directories]):
            path = os.path.join(parent, name)
            if name in directories and not os.path.islink(path):
                continue
            if os.path.isfile(path):
                yield os.path.relpath(path, directory)
            else:
                on_other(path)


def upload(
    client: Client,
    paths: Iterable[str],
    directory: str,
    prefix: str,
    *,
    memory: Memory,
    lifetime: Lifetime = Lifetime(),  # noqa: B008  frozen
    on_bytes: OnBytes | None = None,
) -> Iterator[Outcome]:
    """Store the files at `paths` (relative to `directory`) under `prefix`; one outcome each."""
    pool = _Pool(on_bytes)

    def send(path: str) -> Outcome:
        key = prefix + path.replace(os.sep, "/")
        whole = os.path.join(directory, path)
        try:
            return _send(client, whole, key, lifetime=lifetime, memory=memory, on_bytes=pool.moved)
        except OF_ONE_FILE as error:
            return Outcome(key, whole, error=sentence(error))

    return pool.outcomes(send, paths)


def download(
    client: Client,
    listing: Iterable[Listed],
    prefix: str,
    directory: str,
    *,
    memory: Memory,
    on_bytes: OnBytes | None = None,
) -> Iterator[Outcome]:
    """Fetch the listed keys under `prefix` into files below `directory`; one outcome each.

    A link in the directory is followed where it stays in it.
    """
    root = os.path.realpath(directory)
    pool = _Pool(on_bytes)

    def fetch(item: Listed) -> Outcome:
        path = directory
        try:
            path = os.path.join(directory, relative_path(prefix, item.key))
            real = os.path.realpath(path)
            if os.path.commonpath([real, root]) != root:
                raise UsageError(f"a link leads {path!r} out of {directory!r}")
            os.makedirs(os.path.dirname(real), exist_ok=True)
            return _fetch(client, item, path, memory=memory, on_bytes=pool.moved)
        except OF_ONE_FILE as error:
            return Outcome(item.key, path, error=sentence(error))

    return pool.outcomes(fetch, listing)


def sentence(error: Exception) -> str:
    """What is wrong, without the numbers of the system."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


class Counted:
    """A file object that tells how much of it was read, and the CRC32C of that."""

    def __init__(self, file: Readable, on_bytes: OnBytes | None) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self.crc32c = 0

    def read(self, length: int, /) -> bytes:
        """The next bytes."""
        chunk = self._file.read(length)
        self.crc32c = google_crc32c.extend(self.crc32c, chunk)
        if self._on_bytes:
            self._on_bytes(len(chunk))
        return chunk


OF_ONE_FILE: tuple[type[Exception], ...] = (
    OSError,
    UsageError,
    KeyNotFound,
    ConditionFailed,
    Damage,
)


def _send(
    client: Client,
    path: str,
    key: str,
    *,
    lifetime: Lifetime,
    memory: Memory,
    on_bytes: OnBytes,
) -> Outcome:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not file_modes.S_ISREG(status.st_mode):
            raise UsageError(f"{path!r} is no regular file any more")
        if not lifetime.is_bounded and _is_there(client, key, path, status, memory):
            on_bytes(status.st_size)
            return Outcome(key, path, status.st_size, skipped=True)
        body = Counted(file, on_bytes)
        written = client.put(
            key,
            body,
            # Where the system says 0 it may not know: /proc.
            size=status.st_size or None,
            content_type=content_type_of(path),
            ttl=lifetime.ttl,
            temporal=lifetime.temporal,
        )
    if memory.is_open and not lifetime.is_bounded and written.size == status.st_size:
        known = _stat(client, key)  # tells when it was written, which the answer to PUT does not
        if known is not None and known.etag == written.etag:
            _note(memory, path, known, status, body.crc32c)
    return Outcome(key, path, written.size)


def _is_there(client: Client, key: str, path: str, status: os.stat_result, memory: Memory) -> bool:
    """Whether a key holds, without an end, exactly the bytes of a file."""
    known = _stat(client, key)
    if known is None or known.size != status.st_size or known.expires is not None:
        return False
    version = _version(known)
    if version is not None and memory.holds(path, version):
        return True
    try:
        with client.open(key) as value, open(path, "rb") as file:
            crc32c = 0
            for chunk in value:
                crc32c = google_crc32c.extend(crc32c, chunk)
                if chunk != file.read(len(chunk)):
                    return False
            if file.read(1):
                return False
    except KeyNotFound:
        return False
    _note(memory, path, value.stat, status, crc32c)
    return True


def _fetch(
    client: Client, item: Listed, path: str, *, memory: Memory, on_bytes: OnBytes
) -> Outcome:
    status = status_of(path)
    if status is not None and not file_modes.S_ISREG(status.st_mode):
        raise UsageError(f"{path!r} is there and is no file; it is left as it is")
    version = _version_listed(item)
    is_candidate = status is not None and status.st_size == item.size
    if is_candidate and version is not None and memory.holds(path, version):
        on_bytes(item.size)
        return Outcome(item.key, path, item.size, skipped=True)
    with client.open(item.key) as value:
        known = value.stat
        chunks = counted(value, on_bytes)
        if status is not None and status.st_size == known.size:
            with open(path, "rb") as file:
                compared = _Compared(file, path)
                rest = compared.unless_same(chunks)
            if rest is None:
                _note(memory, path, known, status, compared.crc32c)
                return Outcome(item.key, path, known.size, skipped=True)
            chunks = rest
        saved = save(chunks, path)
    if saved.status is not None:
        _note(memory, path, known, saved.status, saved.crc32c)
    return Outcome(item.key, path, saved.size)


class _Compared:
    """A file beside a value on its way here: the bytes that are the same come only once."""

    def __init__(self, file: Readable, path: str) -> None:
        self._file = file
        self._path = path
        self._length = 0
        self.crc32c = 0

    def unless_same(self, chunks: Iterator[bytes]) -> Iterator[bytes] | None:
        """None where the value is what the file holds; else all of the value."""
        for chunk in chunks:
            if self._file.read(len(chunk)) != chunk:
                return self._resumed(chunk, chunks)
            self.crc32c = google_crc32c.extend(self.crc32c, chunk)
            self._length += len(chunk)
        return self._resumed(b"", chunks) if self._file.read(1) else None

    def _resumed(self, chunk: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        left, crc32c = self._length, 0
        with open(self._path, "rb") as file:
            while left and (piece := file.read(min(left, READ_BYTES))):
                left -= len(piece)
                crc32c = google_crc32c.extend(crc32c, piece)
                yield piece
        if left or crc32c != self.crc32c:
            raise ConditionFailed(f"{self._path!r} was changed meanwhile; it is left as it is")
        yield chunk
        yield from chunks


def _stat(client: Client, key: str) -> Stat | None:
    try:
        return client.stat(key)
    except KeyNotFound:
        return None


def _version(stat: Stat) -> Version | None:
    if stat.modified is None:
        return None
    return Version(stat.key, stat.etag, int(stat.modified.timestamp()))


def _version_listed(item: Listed) -> Version | None:
    try:
        return Version(item.key, item.etag, int(datetime.fromisoformat(item.created).timestamp()))
    except ValueError:
        return None


def _note(memory: Memory, path: str, stat: Stat, status: os.stat_result, crc32c: int) -> None:
    version = _version(stat)
    if version is not None:
        memory.note(path, version, status, crc32c)


class _Stopped(Exception):
    """The transfer ends while this file is under way."""


class _Pool:
    """Files under way. `moved` ends them one by one where the transfer has ended."""

    def __init__(self, on_bytes: OnBytes | None) -> None:
        self._on_bytes = on_bytes
        self._stop = threading.Event()

    def moved(self, count: int) -> None:
        """Say how many bytes were moved. Raises _Stopped."""
        if self._stop.is_set():
            raise _Stopped
        if self._on_bytes:
            self._on_bytes(count)

    def outcomes(self, work: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
        """The outcomes of `work`, as they come, with only a few items under way at any time."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            waiting: set[Future[Outcome]] = set()
            try:
                for item in items:
                    waiting.add(pool.submit(work, item))
                    if len(waiting) >= 2 * FILES_AT_ONCE:
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                self._stop.set()
                for future in waiting:
                    future.cancel()
