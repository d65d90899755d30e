"""The blob: a value too large for a segment, in a file of its own, named by a BLOB record.

The file `blobs/ab/abcd....blob` holds the value's bytes and nothing else; a random name is never
used twice. The BLOB record's value is the descriptor, little-endian:

      0        8          12         14
      +--------+----------+----------+------+------------------------------+
      | size   | chunk    | name     | name | CRC32C of each chunk         |
      | u64    | bytes u32| length   |      | (u32 each, the last may be   |
      |        |          | u16      |      | shorter)                     |
      +--------+----------+----------+------+------------------------------+

The bytes are made durable first, then the name, then the record: a crash leaves a file that no
record names, and the next opening sweeps it. Part of the format.
"""

import struct
from collections.abc import Callable, Iterator

import google_crc32c
import msgspec

from pulzar.disk import Disk
from pulzar.errors import Damage, ValueTooLarge
from pulzar.limits import BLOB_BYTES_MAX, BLOB_CHUNK_BYTES
from pulzar.varidb.crash_point import CrashPoint

BLOBS = "blobs"
SUFFIX = ".blob"
NAME_BYTES = 16

_HEAD = struct.Struct("<QIH")
_crc32c = google_crc32c.extend


class Blob(msgspec.Struct, frozen=True):
    """The descriptor of one blob."""

    size: int
    chunk_bytes: int
    name: str
    crcs: tuple[int, ...]


def blob_path(directory: str, name: str) -> str:
    """Where a blob is in a volume directory."""
    return f"{directory}/{BLOBS}/{name[:2]}/{name}{SUFFIX}"


def encode_blob(blob: Blob) -> bytes:
    """The value of the BLOB record."""
    name = blob.name.encode()
    head = _HEAD.pack(blob.size, blob.chunk_bytes, len(name))
    return head + name + struct.pack(f"<{len(blob.crcs)}I", *blob.crcs)


def decode_blob(value: bytes) -> Blob:
    """The descriptor in a BLOB record's value."""
    size, chunk_bytes, name_length = _HEAD.unpack_from(value)
    crcs_at = _HEAD.size + name_length
    count = (len(value) - crcs_at) // 4
    return Blob(
        size=size,
        chunk_bytes=chunk_bytes,
        name=value[_HEAD.size : crcs_at].decode(),
        crcs=struct.unpack_from(f"<{count}I", value, crcs_at),
    )


def blob_names(disk: Disk, directory: str) -> Iterator[str]:
    """The names of all blob files in a volume directory."""
    root = f"{directory}/{BLOBS}"
    for group in disk.list(root):
        for name in disk.list(f"{root}/{group}"):
            if name.endswith(SUFFIX):
                yield name.removesuffix(SUFFIX)


class BlobWriter:
    """Writes one blob. Blocking; the caller gives it to a thread. Raises OSError.

    Holds nothing in memory: a chunk may be written in many pieces.
    """

    def __init__(
        self, disk: Disk, directory: str, name: str, *, fail: Callable[[str], None]
    ) -> None:
        """`fail` is told why no name can be trusted to be durable any more."""
        self._disk = disk
        self._fail = fail
        self._path = blob_path(directory, name)
        self._parent = self._path.rpartition("/")[0]
        self._root = self._parent.rpartition("/")[0]
        self._name = name
        self._crcs: list[int] = []
        self._crc = 0  # of the chunk that is not full yet
        self._written = 0
        self.size = 0
        disk.make_directory(self._parent)
        self._file = disk.create(self._path)
        self._open = True
        disk.reached(CrashPoint.BLOB_CREATED)

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises ValueTooLarge behind BLOB_BYTES_MAX."""
        self.size += len(data)
        if self.size > BLOB_BYTES_MAX:
            raise ValueTooLarge(f"a value may have at most {BLOB_BYTES_MAX} bytes")
        start = 0
        while start < len(data):
            room = BLOB_CHUNK_BYTES - self._written % BLOB_CHUNK_BYTES
            piece = data if not start and len(data) <= room else data[start : start + room]
            self._file.write([piece], offset=self._written)
            self._crc = _crc32c(self._crc, piece)
            self._written += len(piece)
            start += len(piece)
            if len(piece) == room:
                self._end_chunk()

    def _end_chunk(self) -> None:
        self._crcs.append(self._crc)
        self._crc = 0

    def finish(self) -> Blob:
        """Make the bytes and the name durable."""
        if self._written % BLOB_CHUNK_BYTES:
            self._end_chunk()
        self._file.sync()
        self._disk.reached(CrashPoint.BLOB_SYNCED)
        try:
            self._disk.sync_directory(self._parent)
            # Of the directory too, whoever made it: another upload may not have come that far.
            self._disk.sync_directory(self._root)
        except OSError as error:
            # The next one would report success for what this one has lost.
            self._fail(f"the names of blobs could not be synced: {error}")
            raise
        self._disk.reached(CrashPoint.BLOB_NAMED)
        self._close()
        return Blob(self.size, BLOB_CHUNK_BYTES, self._name, tuple(self._crcs))

    def abort(self) -> None:
        """Remove the file, as far as the disk lets us; the next opening sweeps what is left."""
        self._close()
        try:
            self._disk.unlink(self._path)
        except OSError:
            return

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._file.close()


def check_chunk(blob: Blob, number: int, chunk: bytes) -> None:
    """Raise Damage where chunk `number` of a blob is not what was written."""
    if _crc32c(0, chunk) != blob.crcs[number]:
        raise Damage(f"chunk {number} of blob {blob.name} does not match its checksum")


def chunk_range(blob: Blob, number: int) -> tuple[int, int]:
    """Offset and length of a chunk in the blob's file."""
    offset = number * blob.chunk_bytes
    return offset, min(blob.chunk_bytes, blob.size - offset)
