"""Directories up and down: many files, a few at a time, skipping what is already there.

A file's key is the prefix and the file's path with slashes; the way back takes only keys whose
rest is such a path, so that no key, however it was made, writes outside the target directory. A
file comes under its name only when it is whole: it is written beside it and renamed.

What is wrong with one file (not readable, not a file name, damaged) is the outcome of that file;
what is wrong with the server (Unavailable, OutOfSpace) ends the transfer.
"""

import os
import secrets
import stat as file_modes
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from mimetypes import guess_type
from typing import TypeVar

import google_crc32c
import msgspec

from pulzar.client.requests import Listed
from pulzar.client.sync import CHUNK_BYTES, Client, Readable, Value
from pulzar.errors import ConditionFailed, Damage, KeyNotFound, UsageError

FILES_AT_ONCE = 8

Item = TypeVar("Item")
OnBytes = Callable[[int], None]


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
        raise UsageError(f"the key {key!r} cannot be the name of a file; get it by itself")
    return rest


def content_type_of(path: str) -> str:
    """The content type that a file's name suggests, "" for none."""
    kind, encoding = guess_type(path)
    return kind if kind and not encoding else ""


def files_below(directory: str, on_other: Callable[[str], None]) -> Iterator[str]:
    """The regular files below a directory, as paths relative to it, in a stable order.

    Links to files count as files; links to directories are not followed. They, and pipes, sockets
    and devices, are given to `on_other`. Raises OSError for a directory that cannot be read.
    """
    for parent, directories, files in os.walk(directory, onerror=_raise):
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
    lifetime: Lifetime = Lifetime(),  # noqa: B008  frozen
    on_bytes: OnBytes | None = None,
) -> Iterator[Outcome]:
    """Store the files at `paths` (relative to `directory`) under `prefix`; one outcome each."""

    def send(path: str) -> Outcome:
        key = prefix + path.replace(os.sep, "/")
        whole = os.path.join(directory, path)
        try:
            return _send(client, whole, key, lifetime=lifetime, on_bytes=on_bytes)
        except _OF_ONE_FILE as error:
            return Outcome(key, whole, error=str(error))

    return _at_once(send, paths)


def download(
    client: Client,
    listing: Iterable[Listed],
    prefix: str,
    directory: str,
    *,
    on_bytes: OnBytes | None = None,
) -> Iterator[Outcome]:
    """Fetch the listed keys under `prefix` into files below `directory`; one outcome each."""
    root = os.path.realpath(directory)

    def fetch(item: Listed) -> Outcome:
        path = directory
        try:
            path = os.path.join(directory, relative_path(prefix, item.key))
            parent = os.path.dirname(path)
            if os.path.commonpath([os.path.realpath(parent), root]) != root:
                raise UsageError(f"a link leads {path!r} out of {directory!r}")
            os.makedirs(parent, exist_ok=True)
            return _fetch(client, item.key, path, on_bytes=on_bytes)
        except _OF_ONE_FILE as error:
            return Outcome(item.key, path, error=str(error))

    return _at_once(fetch, listing)


def save(value: Value, path: str, *, on_bytes: OnBytes | None = None) -> int:
    """Write a value to a file that takes its name when it is whole; the number of bytes."""
    partial = os.path.join(os.path.dirname(path), f".pulzar-{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    size = 0
    try:
        with open(os.open(partial, flags, 0o666), "wb") as file:
            for chunk in value:
                file.write(chunk)
                size += len(chunk)
                if on_bytes:
                    on_bytes(len(chunk))
        os.replace(partial, path)
    except BaseException:  # Ctrl-C too must not leave half a file behind
        if os.path.lexists(partial):
            os.unlink(partial)
        raise
    return size


def is_same(client: Client, key: str, path: str) -> bool:
    """Whether a key holds, without an end, exactly the bytes of a file.

    By size, then by checksum where the server tells it, else by reading the value and comparing.
    """
    try:
        stat = client.stat(key)
        if stat.size != os.path.getsize(path) or stat.expires is not None:
            return False
        if stat.crc32c is not None:
            return stat.crc32c == crc32c_of(path)
        with client.open(key) as value, open(path, "rb") as file:
            return all(chunk == file.read(len(chunk)) for chunk in value) and not file.read(1)
    except KeyNotFound:
        return False


def crc32c_of(path: str) -> int:
    """The CRC32C of a file's bytes."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum = google_crc32c.extend(checksum, chunk)
    return checksum


class Counted:
    """A file object that tells how much of it was read."""

    def __init__(self, file: Readable, on_bytes: OnBytes) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def read(self, length: int, /) -> bytes:
        """The next bytes."""
        chunk = self._file.read(length)
        self._on_bytes(len(chunk))
        return chunk


_OF_ONE_FILE: tuple[type[Exception], ...] = (
    OSError,
    UsageError,
    KeyNotFound,
    ConditionFailed,
    Damage,
)


def _send(
    client: Client, path: str, key: str, *, lifetime: Lifetime, on_bytes: OnBytes | None
) -> Outcome:
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno())
        if not file_modes.S_ISREG(mode.st_mode):
            raise UsageError(f"{path!r} is no regular file any more")
        if not lifetime.is_bounded and is_same(client, key, path):
            if on_bytes:
                on_bytes(mode.st_size)
            return Outcome(key, path, mode.st_size, skipped=True)
        written = client.put(
            key,
            Counted(file, on_bytes) if on_bytes else file,
            size=mode.st_size,
            content_type=content_type_of(path),
            ttl=lifetime.ttl,
            temporal=lifetime.temporal,
        )
        return Outcome(key, path, written.size)


def _fetch(client: Client, key: str, path: str, *, on_bytes: OnBytes | None) -> Outcome:
    with client.open(key) as value:
        known = value.stat
        if known.crc32c is not None and _is_same(path, known.size, known.crc32c):
            return Outcome(key, path, known.size, skipped=True)
        return Outcome(key, path, save(value, path, on_bytes=on_bytes))


def _is_same(path: str, size: int, crc32c: int | str) -> bool:
    """Whether a plain file has these bytes already."""
    plain = os.path.isfile(path) and not os.path.islink(path)
    return plain and size == os.path.getsize(path) and crc32c == crc32c_of(path)


def _at_once(work: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
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
            for future in waiting:
                future.cancel()


def _raise(error: OSError) -> None:
    raise error
