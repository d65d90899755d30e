r"""The names of all keys in one file: what a search for a part of a name reads.

      \n KEY \n KEY \n KEY \n ... KEY \n  KEY \n KEY \n
      +--------------------------------+  +------------+
       as the catalog had them, sorted     new since then

No key has a control character, so a line is a key, and a search is one pass of `find` over the
mapped file: 7 to 13 ms for a million keys of 30 bytes, of any length, from one character on.
docs/decisions/0018 has what it was measured against.

It follows the feed: a key is in the file before its write is acknowledged. A key that was deleted
stays until the file is made anew, so whoever finds one looks it up. Nothing of it is durable or has
to be: it is made from the catalog when it is asked for the first time, and again when what is new
since then has become a fourth of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from pulzar.disk import Disk, File
from pulzar.errors import OutOfSpace, PulzarError
from pulzar.limits import CATALOG_ROWS, NAMES_NEW_BYTES_MIN
from pulzar.threads import to_its_end
from pulzar.varidb.feed import Event, Feed

_log = logging.getLogger(__name__)

_SUFFIX = ".names"


class KeySource(Protocol):
    """Whose keys they are."""

    def keys_behind(self, after: bytes, limit: int) -> list[bytes]:
        """Users' live keys strictly behind `after`, in byte order."""


class NamesFile(msgspec.Struct, frozen=True):
    """A file of names: so many bytes of it are sorted, so many bytes it has."""

    path: str
    sorted_bytes: int
    bytes: int


class _Open:
    """The file that is being written to."""

    def __init__(self, path: str, file: File) -> None:
        self.path = path
        self.file = file
        self.sorted_bytes = 0
        self.size = 0

    def append(self, content: bytes) -> None:
        """Raises OSError."""
        self.file.write([content], offset=self.size)
        self.size += len(content)

    @property
    def is_old(self) -> bool:
        """Whether so much is new in it that it should be sorted again."""
        return self.size - self.sorted_bytes > max(NAMES_NEW_BYTES_MIN, self.sorted_bytes // 4)


class Names:
    """Keeps the file of names in `directory`, which is its own. One event loop."""

    def __init__(self, directory: str, source: KeySource, feed: Feed, *, disk: Disk) -> None:
        self._directory = directory
        self._source = source
        self._disk = disk
        self._feed = feed
        self._number = 0
        self._current: _Open | None = None
        self._new: list[bytes] | None = None  # keys created while a file is being made
        self._making: asyncio.Task[None] | None = None
        self._follows = False
        self._failure: PulzarError | None = None  # of the last try

    async def file(self) -> NamesFile:
        """The file, with every key whose write was acknowledged before this call.

        Raises OutOfSpace where there is no room for it, ViewBroken.
        """
        while self._current is None or self._current.is_old:
            if self._making is None:
                self._making = asyncio.create_task(self._make())
            if self._current is not None:
                break  # it serves until the new one is there
            await asyncio.wait([self._making])
            if self._failure is not None:
                raise self._failure
        current = self._current
        return NamesFile(current.path, current.sorted_bytes, current.size)

    def landed(self, events: Sequence[Event]) -> None:
        """See `Feed.follow`."""
        created = [event.key for event in events if event.is_new]
        if not created:
            return
        if self._new is not None:
            self._new += created
        if self._current is not None:
            self._append(self._current, created)

    def skipped(self) -> None:
        """See `Feed.follow`: what there is now is not known."""
        self._forget()
        if self._making is not None:
            self._making.cancel()

    async def close(self) -> None:
        """End; the file is of no use to anybody else."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        self._forget()

    def _append(self, current: _Open, keys: Sequence[bytes]) -> None:
        try:
            current.append(b"\n".join(keys) + b"\n")
        except OSError as error:
            _log.warning("the file of names is given up: %s", error)
            self._forget()

    def _forget(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(current.path)

    async def _make(self) -> None:
        """Make a file from the catalog, and take it instead of the one before."""
        if not self._follows:
            self._feed.follow(self)
            self._follows = True
        self._new, self._failure = [], None
        try:
            made = await self._made()
        except OSError as error:
            self._failure = OutOfSpace(f"the file of names cannot be made: {error.strerror}")
            return
        except PulzarError as error:
            self._failure = error
            return
        finally:
            new, self._new, self._making = self._new, None, None
        self._forget()
        self._current = made
        if new:
            self._append(made, new)

    async def _made(self) -> _Open:
        if not self._number:
            self._disk.make_directory(self._directory)
            for name in self._disk.list(self._directory):
                self._disk.unlink(f"{self._directory}/{name}")
        self._number += 1
        path = f"{self._directory}/{self._number}{_SUFFIX}"
        made = _Open(path, self._disk.create(path))
        try:
            made.append(b"\n")
            after = b""
            while keys := self._source.keys_behind(after, CATALOG_ROWS):
                await to_its_end(partial(made.append, b"\n".join(keys) + b"\n"))
                after = keys[-1]
        except BaseException:  # cancellation too: nothing may be left
            made.file.close()
            with contextlib.suppress(OSError):
                self._disk.unlink(path)
            raise
        made.sorted_bytes = made.size
        return made
