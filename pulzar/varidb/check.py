"""Looking at a volume directory while its server is down: check every byte, list every record.

`check` reads everything and changes nothing: MANIFEST, segment headers, every record's checksums,
footers against the records that they list, every chunk of every blob. `inspect` lists what is
there, record by record. Both take the volume's lock, so that nobody writes meanwhile.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from pulzar.disk import Disk, Lock
from pulzar.errors import Damage, SegmentMissing, VolumeInUse
from pulzar.varidb.blob import Blob, blob_names, blob_path, check_chunk, chunk_range, decode_blob
from pulzar.varidb.following import footer_of, found_records
from pulzar.varidb.footer import entry_order
from pulzar.varidb.identity import IDENTITY_NAME, LOCK_NAME, read_identity
from pulzar.varidb.log import segment_path
from pulzar.varidb.manifest import Lost, ManifestFile
from pulzar.varidb.position import NOWHERE
from pulzar.varidb.record import KEYED, Type
from pulzar.varidb.recovery import Recovered, recover
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, Found, scan, segment_name
from pulzar.varidb.survey import Segment, Survey, survey


class Finding(msgspec.Struct, frozen=True):
    """One thing that check has to say. `place` is a file or file:offset, `key` where it is known.

    damage: bytes are not what was written, or are missing; note: harmless, and mended or removed
    by the next opening.
    """

    kind: Literal["damage", "note"]
    place: str
    message: str
    key: bytes | None = None


class Inspected(msgspec.Struct, frozen=True):
    """One record as `inspect` lists it. `state`: ok, mended (one bit), or damaged body."""

    segment: int
    offset: int
    type: str
    seq: int
    version: int
    key: bytes
    size: int
    created_ms: int
    expires_s: int
    state: Literal["ok", "mended", "damaged"]


@contextmanager
def _opened(directory: str, disk: Disk) -> Iterator[tuple[ManifestFile, Survey]]:
    """The parts of a volume that nobody else has open. Raises OpenError, OSError."""
    identity = read_identity(disk, directory)
    lock: Lock | None = None
    try:
        lock = disk.lock(f"{directory}/{LOCK_NAME}")
    except BlockingIOError:
        raise VolumeInUse(f"{directory} is in use: stop its server first") from None
    except OSError as error:
        if error.errno != errno.EROFS:  # there nobody writes
            raise
    try:
        manifest = ManifestFile(disk, directory)
        is_copy = manifest.is_copy(disk.file_id(f"{directory}/{IDENTITY_NAME}"))
        yield manifest, survey(disk, directory, manifest, volume_id=identity.id, is_copy=is_copy)
    finally:
        if lock is not None:
            lock.release()


def check(directory: str, disk: Disk) -> Iterator[Finding]:
    """Everything that is wrong in a volume directory; nothing is changed.

    Raises NotAVolume, VolumeInUse, VolumeTooNew, OSError.
    """
    try:
        with _opened(directory, disk) as (manifest, found):
            if manifest.bad_lines:
                yield Finding(
                    "note", "MANIFEST", f"{manifest.bad_lines} lines do not match their checksums"
                )
            for line in found.lines:
                if isinstance(line, Lost):
                    names = ", ".join(map(segment_name, line.segments))
                    yield Finding("note", "segments", f"{names} came after this copy was begun")
            for number in found.foreign:
                yield Finding(
                    "damage", f"segments/{number:08d}.seg", "its header is not that of this file"
                )
            recovered = recover(
                disk,
                directory,
                found,
                named=manifest.state.segments.keys() | manifest.state.outputs,
                known=NOWHERE,
                place=(0, 0),
            )
            named: set[str] = set()
            yield from _check_segments(disk, directory, recovered, named)
            for name in blob_names(disk, directory):
                if name not in named and name not in manifest.state.retired_blobs:
                    yield Finding("note", _blob_place(name), "no record names this blob")
    except SegmentMissing as error:
        yield Finding("damage", "segments", str(error))


def _check_segments(
    disk: Disk, directory: str, recovered: Recovered, named: set[str]
) -> Iterator[Finding]:
    for segment_id in recovered.unborn:
        yield Finding("note", f"segments/{segment_id:08d}.seg", "never used: a crash while opening")
    for segment in recovered.segments:
        if segment.mended:
            yield Finding(
                "damage", f"segments/{segment.id:08d}.seg", "the segment header is damaged"
            )
        yield from _check_records(disk, directory, segment, named)
        yield from _check_footer(disk, directory, segment)


def _check_records(
    disk: Disk, directory: str, segment: Segment, named: set[str]
) -> Iterator[Finding]:
    name = f"segments/{segment.id:08d}.seg"
    file = disk.open(segment_path(directory, segment.id))
    try:
        items = scan(file, start=SEGMENT_HEADER_BYTES, end=segment.end, seed=segment.header.seed)
        for item in items:
            place = f"{name}:{item.offset}"
            if not isinstance(item, Found):
                yield Finding("damage", place, f"{item.end - item.offset} bytes are no record")
                continue
            if item.mended:
                yield Finding("damage", place, "one bit of the header is flipped", item.header.key)
            if item.record is None:
                yield Finding("damage", place, "the value does not match", item.header.key)
            elif item.record.type == Type.BLOB:
                blob = decode_blob(item.record.value)
                named.add(blob.name)
                yield from _check_blob(disk, directory, blob, item.header.key)
    finally:
        file.close()


def _check_blob(disk: Disk, directory: str, blob: Blob, key: bytes) -> Iterator[Finding]:
    place = _blob_place(blob.name)
    try:
        file = disk.open(blob_path(directory, blob.name))
    except FileNotFoundError:
        yield Finding("damage", place, "the file is missing", key)
        return
    try:
        for number in range(len(blob.crcs)):
            offset, length = chunk_range(blob, number)
            try:
                check_chunk(blob, number, file.read(length, offset=offset))
            except Damage as error:
                yield Finding("damage", f"{place}:{offset}", str(error), key)
    finally:
        file.close()


def _blob_place(name: str) -> str:
    """Where a blob is below the volume's directory."""
    return blob_path("", name).removeprefix("/")


def _check_footer(disk: Disk, directory: str, segment: Segment) -> Iterator[Finding]:
    """Whether the footer lists exactly the records that are there."""
    if segment.trailer is None:
        return
    name = f"segments/{segment.id:08d}.seg"
    footer = footer_of(disk, directory, segment)
    if footer is None:
        yield Finding("damage", name, "the footer does not match its checksum")
        return
    listed = {(key, *entry_order(e)) for key, e in zip(footer.keys, footer.entries, strict=True)}
    for found in found_records(disk, directory, segment):
        header = found.header
        if header.type in KEYED and (header.key, header.version, header.seq) not in listed:
            yield Finding("damage", name, "the footer lacks a record", header.key)


def inspect(directory: str, disk: Disk) -> Iterator[Inspected]:
    """Every record of a volume directory, segment by segment.

    Raises OpenError, OSError.
    """
    with _opened(directory, disk) as (_, found):
        for segment in found.segments:
            for item in found_records(disk, directory, segment):
                yield _inspected(segment.id, item)


def _inspected(segment_id: int, found: Found) -> Inspected:
    header, record = found.header, found.record
    size = header.value_length
    if header.type == Type.BLOB and record is not None:
        size = decode_blob(record.value).size
    return Inspected(
        segment=segment_id,
        offset=found.offset,
        type=Type(header.type).name,
        seq=header.seq,
        version=header.version,
        key=header.key,
        size=size,
        created_ms=header.created_ms,
        expires_s=header.expires_s,
        state="damaged" if record is None else "mended" if found.mended else "ok",
    )
