"""Where the bytes of a volume come from: its directory, if that is on this machine, else HTTP.

GET /admin/cluster at the master -> who the volumes are
GET /autodiscovery/files at each -> what is durable of it now
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec
import urllib3

from pulzar.backup.messages import BlobFile, BlobPage, VolumeFiles
from pulzar.disk import Disk, File, Readable, read_file
from pulzar.errors import LinkBroken, PulzarError
from pulzar.limits import LINK_CONNECT_S, LINK_SLOW_ANSWER_S, MIB
from pulzar.varidb.blob import BLOBS, SUFFIX
from pulzar.varidb.identity import IDENTITY_NAME


class Source(Protocol):
    """A volume as it was when it was asked."""

    files: VolumeFiles

    def open(self, name: str, size: int) -> Readable:
        """A file of it, of which `size` bytes count."""

    def blobs(self) -> Iterator[BlobFile]:
        """Its values in files of their own, by name."""


class LocalFile:
    """Implements `Readable` over a file of this machine."""

    def __init__(self, file: File, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, length: int, *, offset: int) -> bytes:
        """See `Readable`. Raises LinkBroken."""
        try:
            return self._file.read(min(length, self._size - offset), offset=offset)
        except OSError as error:
            raise _unreadable("a file", error) from error

    def size(self) -> int:
        """See `Readable`."""
        return self._size

    def close(self) -> None:
        """See `Readable`."""
        self._file.close()


class LocalSource:
    """Implements `Source` over a directory of this machine."""

    def __init__(self, files: VolumeFiles, disk: Disk) -> None:
        self.files = files
        self._disk = disk

    def open(self, name: str, size: int) -> Readable:
        """See `Source`. Raises LinkBroken."""
        try:
            return LocalFile(self._disk.open(f"{self.files.directory}/{name}"), size)
        except OSError as error:
            raise _unreadable(name, error) from error

    def blobs(self) -> Iterator[BlobFile]:
        """See `Source`."""
        root = os.path.join(self.files.directory, BLOBS)
        for group in sorted(self._disk.list(root)):
            for name in sorted(self._disk.list(f"{root}/{group}")):
                if name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        size = os.stat(f"{root}/{group}/{name}").st_size
                        yield BlobFile(f"{BLOBS}/{group}/{name}", size)


class Network:
    """Asks volumes. `key` is the cluster's."""

    def __init__(self, key: str) -> None:
        self._headers = {"Authorization": f"Bearer {key}"}
        self._pool = urllib3.PoolManager(
            maxsize=8,
            retries=False,
            timeout=urllib3.Timeout(connect=LINK_CONNECT_S, read=LINK_SLOW_ANSWER_S),
        )

    def ask(self, url: str, path: str, **query: Any) -> bytes:
        """What a volume answers. Raises LinkBroken."""
        target = f"{url}/autodiscovery/{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            answer = self._pool.request("GET", target, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise LinkBroken(f"{url} did not answer: {error}") from error
        if answer.status != 200:
            raise LinkBroken(f"{url} answered {answer.status}: {answer.data[:200]!r}")
        return answer.data

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


class RemoteFile:
    """Implements `Readable` over HTTP."""

    def __init__(self, network: Network, url: str, name: str, size: int) -> None:
        self._network = network
        self._url = url
        self._name = name
        self._size = size

    def read(self, length: int, *, offset: int) -> bytes:
        """See `Readable`."""
        end = min(offset + length, self._size)
        return self._network.ask(self._url, "file", name=self._name, start=offset, end=end)

    def size(self) -> int:
        """See `Readable`."""
        return self._size

    def close(self) -> None:
        """See `Readable`."""


class RemoteSource:
    """Implements `Source` over HTTP."""

    def __init__(self, network: Network, url: str, files: VolumeFiles) -> None:
        self.files = files
        self._network = network
        self._url = url

    def open(self, name: str, size: int) -> Readable:
        """See `Source`."""
        return RemoteFile(self._network, self._url, name, size)

    def blobs(self) -> Iterator[BlobFile]:
        """See `Source`."""
        after = ""
        while True:
            content = self._network.ask(self._url, "blobs", after=after)
            page = msgspec.json.decode(content, type=BlobPage)
            yield from page.blobs
            after = page.next
            if not after:
                return


def read_files(network: Network, url: str) -> VolumeFiles:
    """What is durable now of the volume at `url`. Raises LinkBroken."""
    try:
        return msgspec.json.decode(network.ask(url, "files"), type=VolumeFiles)
    except msgspec.DecodeError as error:
        raise LinkBroken(f"{url} is no volume of this version of Pulzar: {error}") from None


def open_source(network: Network, url: str, disk: Disk) -> Source:
    """The volume at `url`. Raises LinkBroken."""
    files = read_files(network, url)
    if _is_here(disk, files):
        return LocalSource(files, disk)
    return RemoteSource(network, url, files)


def _unreadable(name: str, error: OSError) -> LinkBroken:
    return LinkBroken(f"{name} of the volume cannot be read: {error.strerror}")


def _is_here(disk: Disk, files: VolumeFiles) -> bool:
    """Whether the directory that a volume names is the same one on this machine."""
    with contextlib.suppress(OSError, PulzarError):
        return read_file(disk, f"{files.directory}/{IDENTITY_NAME}") == files.identity
    return False


def pieces(file: Readable, start: int, end: int) -> Iterator[bytes]:
    """Some bytes of a file, about 1 MiB at a time. Raises LinkBroken where some are missing."""
    for offset in range(start, end, MIB):
        wanted = min(MIB, end - offset)
        piece = file.read(wanted, offset=offset)
        if len(piece) != wanted:
            raise LinkBroken("a file of the volume is shorter than it was said to be")
        yield piece
