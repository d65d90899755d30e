"""Where a backup goes: a directory, or whatever fsspec reaches (S3, SFTP, ...).

A target keeps objects, whole files with a name. Nothing is written in place: what has a name is
whole. `settle` makes durable what was written, as far as the target knows such a thing.

Why fsspec: it is here already (dask brings it), it is kept by many, it has S3 (s3fs) and SFTP
(paramiko) behind one interface, and other services by a package more. obstore is faster on S3, and
has no SFTP.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from pulzar.errors import BackupUnfit, BackupUnreachable, OutOfSpace, PulzarError
from pulzar.limits import MIB

_NEW = ".new"
_LOCK = "LOCK"
_PACKAGES = {"s3": "s3fs", "sftp": "paramiko", "ssh": "paramiko", "gs": "gcsfs", "abfs": "adlfs"}


class Target(Protocol):
    """Objects by name. Every method may be called from several threads, and raises
    BackupUnreachable, OutOfSpace."""

    where: str

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write an object, or replace it."""

    def get(self, name: str) -> Iterator[bytes]:
        """The bytes of an object. Raises FileNotFoundError."""

    def names(self, prefix: str) -> list[str]:
        """The names of all objects below a directory."""

    def delete(self, name: str) -> None:
        """Remove an object; harmless where there is none."""

    def is_empty(self) -> bool:
        """Whether there is nothing at all, or not even the directory."""

    def settle(self) -> None:
        """Make durable what was written."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def read(target: Target, name: str) -> bytes:
    """A small object. Raises FileNotFoundError."""
    return b"".join(target.get(name))


def open_target(url: str, options: dict[str, str] | None = None) -> Target:
    """The target at a path or a URL (s3://bucket/path, sftp://user@host/path). `options` are those
    of fsspec: host, username, password, key, secret.

    Raises BackupUnfit for one that cannot be reached from here.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    if not url:
        raise BackupUnfit(
            "the target is empty: give a directory, or a URL such as s3://bucket/path"
        )
    if scheme in ("", "file"):
        return DirectoryTarget(os.path.abspath(url.removeprefix("file://")))
    return RemoteTarget(url, scheme, options or {})


class DirectoryTarget:
    """Implements `Target` in a directory of this machine. One program writes to it at a time."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._lock: int | None = None
        self._unsettled: set[str] = set()  # files that were written,
        self._changed: set[str] = set()  # and directories in which something has a name, or none

    def __enter__(self) -> Self:
        """Take the lock, if the directory is there. Raises BackupUnreachable."""
        if os.path.isdir(self.where) and os.listdir(self.where):
            self._take_lock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        with self._errors():
            self._lock = os.open(os.path.join(self.where, _LOCK), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupUnreachable(f"{self.where} is in use by another backup") from None

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Target`."""
        path = os.path.join(self.where, name)
        with self._errors(may_be_missing=False):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            if self._lock is None:
                self._take_lock()
            new = f"{path}.{secrets.token_hex(4)}{_NEW}"
            try:
                with open(new, "wb") as file:
                    file.writelines(pieces)
                os.rename(new, path)
            except BaseException:  # whatever it is, no half of it stays
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise
        self._unsettled.add(path)
        self._changed.add(os.path.dirname(path))

    def get(self, name: str) -> Iterator[bytes]:
        """See `Target`."""
        with self._errors(), open(os.path.join(self.where, name), "rb", buffering=0) as file:
            while piece := file.read(MIB):
                yield piece

    def names(self, prefix: str) -> list[str]:
        """See `Target`."""
        found: list[str] = []
        for root, _, files in os.walk(os.path.join(self.where, prefix)):
            below = os.path.relpath(root, self.where)
            found += [os.path.join(below, name) for name in files]
        return sorted(found)

    def delete(self, name: str) -> None:
        """See `Target`."""
        path = os.path.join(self.where, name)
        with self._errors(), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._changed.add(os.path.dirname(path))
        with contextlib.suppress(OSError):  # directories that are not empty stay
            os.removedirs(os.path.dirname(path))

    def is_empty(self) -> bool:
        """See `Target`."""
        with self._errors():
            try:
                return not set(os.listdir(self.where)) - {_LOCK}
            except FileNotFoundError:
                return True

    def settle(self) -> None:
        """See `Target`: files, then the directories that name them, up to the one around the
        target."""
        unsettled, self._unsettled = self._unsettled, set()
        changed, self._changed = self._changed, set()
        with self._errors(may_be_missing=False):
            for path in unsettled:
                _sync(path)
            directories = {os.path.dirname(self.where)}
            while changed:
                directory = changed.pop()
                if directory not in directories:
                    directories.add(directory)
                    changed.add(os.path.dirname(directory))
            for directory in directories:
                with contextlib.suppress(FileNotFoundError):  # it was empty, and removed
                    _sync(directory)

    @contextlib.contextmanager
    def _errors(self, *, may_be_missing: bool = True) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"{self.where} is full: make room, or prune it") from error
            raise BackupUnreachable(
                f"{self.where} cannot be used: {error.strerror or error}"
            ) from error


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class RemoteTarget:
    """Implements `Target` over fsspec. That two programs write to it is not seen. A connection of
    SFTP hangs where several threads use it, so there they take turns."""

    def __init__(self, url: str, scheme: str, options: dict[str, str]) -> None:
        """Raises BackupUnfit where the package for it is missing."""
        parts = urlsplit(url)
        given: dict[str, Any] = dict(options)
        if scheme in ("sftp", "ssh"):
            given.setdefault("host", parts.hostname or "")
            given.setdefault("username", parts.username or "")
            given.setdefault("port", parts.port or 22)
            given = {name: value for name, value in given.items() if value}
            root = parts.path
            self.where = f"{scheme}://{parts.hostname}{parts.path}"
        else:
            root = f"{parts.netloc}{parts.path}"
            self.where = url
        self._root = root.rstrip("/")
        self._is_file_system = scheme in ("sftp", "ssh")  # a half written file is seen there
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if self._is_file_system else contextlib.nullcontext()
        )
        try:
            self._fs: Any = import_module("fsspec").filesystem(scheme, **given)
        except (ImportError, ValueError) as error:
            package = _PACKAGES.get(scheme)
            hint = f"install {package} beside Pulzar" if package else "no such kind is known"
            raise BackupUnfit(f"{scheme}:// cannot be reached from here: {hint}") from error
        except Exception as error:  # of whatever kind the library has
            raise BackupUnreachable(f"{self.where} cannot be reached: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Target`. Where there is no rename, a name appears when its object is whole."""
        path = f"{self._root}/{name}"
        with self._errors(), self._turn:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            new = f"{path}.{secrets.token_hex(4)}{_NEW}" if self._is_file_system else path
            with self._fs.open(new, "wb", block_size=8 * MIB) as file:
                file.writelines(pieces)
            if new != path:
                if self._fs.exists(path):
                    self._fs.rm_file(path)
                self._fs.mv(new, path)

    def get(self, name: str) -> Iterator[bytes]:
        """See `Target`."""
        with self._errors(), self._turn, self._fs.open(f"{self._root}/{name}", "rb") as file:
            while piece := file.read(MIB):
                yield piece

    def names(self, prefix: str) -> list[str]:
        """See `Target`."""
        with self._errors(), self._turn:
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(f"{self._root}/{prefix}")
            except FileNotFoundError:
                return []
        root = self._root.lstrip("/")
        return sorted(path.lstrip("/").removeprefix(root).lstrip("/") for path in found)

    def delete(self, name: str) -> None:
        """See `Target`."""
        with self._errors(), self._turn, contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def is_empty(self) -> bool:
        """See `Target`."""
        with self._errors(), self._turn:
            try:
                return not self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return True

    def settle(self) -> None:
        """See `Target`: what the service has acknowledged, it has."""

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PulzarError):
            raise
        except Exception as error:  # each service has errors of its own
            raise BackupUnreachable(f"{self.where} cannot be used: {error}") from error
