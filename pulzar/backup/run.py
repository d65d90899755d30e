"""A run: makes one snapshot of a cluster in a target, and reads back what it wrote.

    ask each volume what is durable -> copy what the last snapshot does not have -> read it back
       -> make it durable -> the snapshot, which names all of it, comes last

So a run that is killed at any moment leaves the snapshots that were there as they are, and some
objects that nobody names; the next run writes those anew, `prune` removes them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import google_crc32c
import msgspec

from pulzar.backup.keys import encode_keys, keys_of
from pulzar.backup.messages import BlobFile, SegmentFile
from pulzar.backup.snapshot import (
    MARK,
    SNAPSHOT_ID,
    SNAPSHOTS,
    VOLUMES,
    Mark,
    Missing,
    Part,
    SavedFile,
    SavedVolume,
    Snapshot,
    blob_object,
    read_mark,
    read_snapshot,
    segment_object,
)
from pulzar.backup.source import Source, pieces
from pulzar.backup.target import Target, read
from pulzar.client.save import OnBytes
from pulzar.errors import BackupUnfit, BackupUnreachable
from pulzar.limits import BACKUP_PART_BYTES_MAX, BACKUP_THREADS

_crc32c = google_crc32c.extend


class Asked(msgspec.Struct, frozen=True):
    """A volume that is to be backed up: its source, or why it cannot be asked."""

    id: str
    name: str
    source: Source | None
    reason: str = ""


class Ran(msgspec.Struct, frozen=True):
    """What a run did: the snapshot, and how many bytes of how many it copied."""

    snapshot: Snapshot
    copied_bytes: int
    total_bytes: int


def snapshot_ids(target: Target) -> list[str]:
    """The snapshots that are whole, oldest first."""
    names = (name.rpartition("/")[2] for name in target.names(SNAPSHOTS))
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(stem for stem in stems if SNAPSHOT_ID.fullmatch(stem))


def load(target: Target, snapshot_id: str) -> Snapshot:
    """A snapshot. Raises BackupUnfit."""
    try:
        content = read(target, f"{SNAPSHOTS}/{snapshot_id}.json")
    except FileNotFoundError:
        there = ", ".join(snapshot_ids(target)[-3:]) or "none"
        raise BackupUnfit(f"there is no snapshot {snapshot_id}; the last ones: {there}") from None
    return read_snapshot(content, snapshot_id)


def require_backup(target: Target) -> str:
    """The id of the cluster that a target has backups of. Raises BackupUnfit."""
    try:
        return read_mark(read(target, MARK), target.where).cluster
    except FileNotFoundError:
        raise BackupUnfit(f"{target.where} is no backup of Pulzar: it has no {MARK}") from None


def begin(target: Target, cluster: str) -> None:
    """Make an empty target one of ours. Raises BackupUnfit where it is something else."""
    if target.is_empty():
        target.put(MARK, [msgspec.json.encode(Mark(cluster=cluster)) + b"\n"])
        return
    known = require_backup(target)
    if known != cluster:
        raise BackupUnfit(
            f"{target.where} has backups of cluster {known}, this is {cluster}: use another target"
        )


def back_up(
    target: Target,
    asked: Sequence[Asked],
    *,
    key: str,
    cluster: str,
    alone: bool,
    now: datetime,
    on_bytes: OnBytes,
) -> Ran:
    """Make a snapshot. Raises BackupUnfit, BackupUnreachable, OutOfSpace, LinkBroken."""
    begin(target, cluster)
    known = snapshot_ids(target)
    last = load(target, known[-1]) if known else None
    before = {volume.id: volume for volume in last.volumes} if last is not None else {}
    taken = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    snapshot_id = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    if known and snapshot_id <= known[-1]:
        raise BackupUnfit(
            f"the last snapshot, {known[-1]}, is not older than now: wait, or set the clock"
        )
    there = set(target.names(VOLUMES))
    run = _Run(target, there, on_bytes)
    volumes: list[SavedVolume] = []
    missing: list[Missing] = []
    with ThreadPoolExecutor(BACKUP_THREADS, thread_name_prefix="backup") as pool:
        run.pool = pool
        for one in asked:
            old = before.get(one.id)
            if one.source is not None:
                volumes.append(run.volume(one.source, old, taken))
                continue
            missing.append(Missing(one.id, one.name, one.reason, old.taken if old else ""))
            if old is not None:
                volumes.append(old)
    target.settle()
    require_backup(target)  # it is still the same one
    snapshot = Snapshot(
        id=snapshot_id, cluster=cluster, key=key, alone=alone, volumes=volumes, missing=missing
    )
    content = msgspec.json.format(msgspec.json.encode(snapshot), indent=1)
    target.put(f"{SNAPSHOTS}/{snapshot_id}.json", [content])
    target.settle()
    parts = {part for volume in volumes for file in volume.files for part in file.parts}
    copied = sum(part.bytes for part in parts if part.object not in there)
    return Ran(snapshot, copied, sum(part.bytes for part in parts))


class _Copying(NamedTuple):
    """A file with the parts that it has, and those that are being copied."""

    saved: SavedFile
    work: "list[Future[Part]]"


class _Run:
    """Copies files into a target, each part once."""

    pool: ThreadPoolExecutor

    def __init__(self, target: Target, there: set[str], on_bytes: OnBytes) -> None:
        """`there` are the objects that the target has."""
        self._target = target
        self._there = there
        self._on_bytes = on_bytes

    def volume(self, source: Source, old: SavedVolume | None, taken: str) -> SavedVolume:
        """Back up one volume; `old` is what the last snapshot has of it."""
        files = source.files
        known = {
            (file.name, file.salt): file
            for file in (old.files if old is not None else ())
            if all(part.object in self._there for part in file.parts)
        }
        work = [
            self._segment(source, segment, known.get((segment.name, segment.salt)))
            for segment in files.segments
        ]
        retired = set(files.retired_blobs)
        work += [  # asked for behind the segments: what they name is there
            self._blob(source, blob, known.get((blob.name, "")))
            for blob in source.blobs()
            if blob.name.rpartition("/")[2].removesuffix(".blob") not in retired
        ]
        return SavedVolume(
            id=files.id,
            name=files.name,
            taken=taken,
            seq=files.seq,
            identity=files.identity,
            manifest=files.manifest,
            files=_finished(work),
        )

    def _segment(self, source: Source, segment: SegmentFile, old: SavedFile | None) -> _Copying:
        """The parts of a segment that were backed up before, and what is new."""
        saved = SavedFile(
            segment.name, list(old.parts) if old else [], segment.salt, segment.sealed
        )
        name = partial(segment_object, source.files.id, segment.name, segment.salt)
        return self._copy(source, saved, segment.bytes, name)

    def _blob(self, source: Source, blob: BlobFile, old: SavedFile | None) -> _Copying:
        if old is not None and old.bytes == blob.bytes:
            return _Copying(old, [])
        name = partial(_blob_part, source.files.id, blob.name, blob.bytes)
        return self._copy(source, SavedFile(blob.name, []), blob.bytes, name)

    def _copy(
        self, source: Source, saved: SavedFile, size: int, name: Callable[[int, int], str]
    ) -> _Copying:
        """Begin to copy what is missing of a file, in parts; an empty file has one."""
        start = saved.bytes
        bounds = [*range(start, size, BACKUP_PART_BYTES_MAX), size]
        if size == 0 and not saved.parts:
            bounds = [0, 0]
        work = [
            self.pool.submit(
                self._part, source, saved, size, (at, end), name(at, end), is_first=at == start
            )
            for at, end in pairwise(bounds)
        ]
        return _Copying(saved, work)

    def _part(
        self,
        source: Source,
        saved: SavedFile,
        size: int,
        bounds: tuple[int, int],
        name: str,
        *,
        is_first: bool,
    ) -> Part:
        """Write a part, and read it back; with the first new one of a segment the keys of all that
        is new. Raises BackupUnreachable."""
        start, end = bounds
        file = source.open(saved.name, size)
        try:
            crc = self._write(name, pieces(file, start, end))
            if not saved.salt or not is_first:
                return Part(name, start, end - start, crc)
            keys = encode_keys(keys_of(file, start, sealed=saved.sealed))
        finally:
            file.close()
        keys_name = f"{name}.keys"
        keys_crc = self._write(keys_name, [keys])
        return Part(name, start, end - start, crc, keys_name, len(keys), keys_crc)

    def _write(self, name: str, content: Iterable[bytes]) -> int:
        """Write an object, and read it back; its CRC32C. Raises BackupUnreachable."""
        crc = size = 0

        def counted() -> Iterator[bytes]:
            nonlocal crc, size
            for piece in content:
                crc = _crc32c(crc, piece)
                size += len(piece)
                self._on_bytes(len(piece))
                yield piece

        self._target.put(name, counted())
        if check(self._target, name, size, crc) is not None:
            raise BackupUnreachable(
                f"{self._target.where} does not give back what was written to {name}"
            )
        return crc


def check(target: Target, name: str, size: int, crc: int) -> str | None:
    """What is wrong with an object; None where it is as it was written."""
    found, length = 0, 0
    try:
        for piece in target.get(name):
            found = _crc32c(found, piece)
            length += len(piece)
    except FileNotFoundError:
        return "it is missing"
    if length != size:
        return f"it has {length} bytes, {size} were written"
    return None if found == crc else "its bytes are not those that were written"


def _blob_part(volume: str, name: str, size: int, start: int, _end: int) -> str:
    stem = blob_object(volume, name, size)
    return stem if size <= BACKUP_PART_BYTES_MAX else f"{stem}.{start}"


def _finished(work: Sequence[_Copying]) -> list[SavedFile]:
    """All files, when they are there; where one fails, what has not begun does not."""
    try:
        return [
            msgspec.structs.replace(
                one.saved, parts=[*one.saved.parts, *(part.result() for part in one.work)]
            )
            for one in work
        ]
    except BaseException:  # whatever it is: the run ends
        for one in work:
            for part in one.work:
                part.cancel()
        raise
