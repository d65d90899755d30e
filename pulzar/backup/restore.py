"""A restore: from a snapshot to directories from which the volumes are started again.

    one machine that was alone    DIR/volume, DIR/cluster.key             pulzar up --data DIR
    a cluster                     DIR/master/cluster.key                  pulzar master --data ...
                                  DIR/NAME/volume, DIR/NAME/cluster.key   pulzar volume --data ...

It may be killed at any moment and begun again: files that are there and whole stay. volume.json
comes last, so a half restored directory is no volume. Then each volume is opened once, here, which
proves that it can be, and is given an epoch far behind those that it knows: what the old cluster
wrote after the snapshot may have used the next ones.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import msgspec

from pulzar.backup.keys import Key, Known, decode_keys, not_restored
from pulzar.backup.run import load, require_backup, snapshot_ids
from pulzar.backup.snapshot import Part, SavedFile, SavedVolume, Snapshot
from pulzar.backup.target import Target, read
from pulzar.client.save import OnBytes
from pulzar.clock import Clock
from pulzar.cluster.identity import keep_key
from pulzar.disk import Disk, File, read_file, replace_file, sync_ancestors
from pulzar.errors import BackupUnfit, NotAVolume, OutOfSpace
from pulzar.limits import BACKUP_THREADS, EPOCH_BITS, RESTORED_EPOCHS
from pulzar.varidb.identity import IDENTITY_NAME
from pulzar.varidb.manifest import MANIFEST_NAME
from pulzar.varidb.record import Record, Type, make_version
from pulzar.varidb.serving import StoreOptions, open_volume

MARK = "restore.json"
_TOLD = "what is in it is told when it is read"
MASTER = "master"  # the directory of the master
_crc32c = google_crc32c.extend


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did: volumes and their directories, objects that were damaged or missing
    (what they hold is as damaged in the volume), volumes that are missing, and what that means."""

    snapshot: str
    alone: bool
    directories: list[tuple[str, str]]
    damaged: list[str]
    missing: list[str]
    not_restored: list[Known]


class _Mark(msgspec.Struct, frozen=True):
    """restore.json: what is being restored here."""

    target: str
    snapshot: str
    volumes: list[str]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be restored where: directories by the id of their volume."""

    snapshot: Snapshot
    directory: str
    volumes: dict[str, str]
    bytes: int


def plan(target: Target, directory: str, *, snapshot_id: str, only: str, disk: Disk) -> Plan:
    """What a restore will do; nothing is written. The last snapshot where none is named, one volume
    (name or id) where `only` names one.

    Raises BackupUnfit, also where `directory` has something else in it.
    """
    require_backup(target)
    ids = snapshot_ids(target)
    if not ids:
        raise BackupUnfit(f"{target.where} has no snapshot yet")
    snapshot = load(target, snapshot_id or ids[-1])
    chosen = [one for one in snapshot.volumes if not only or only in (one.name, one.id)]
    if not chosen:
        names = ", ".join(one.name for one in snapshot.volumes) or "none"
        raise BackupUnfit(f"snapshot {snapshot.id} has no volume {only}; it has {names}")
    direct = bool(only) or snapshot.alone
    if direct and len(chosen) > 1:
        ids_of = ", ".join(one.id for one in chosen)
        raise BackupUnfit(f"there are {len(chosen)} volumes {only}: name one by its id ({ids_of})")
    places = {
        one.id: directory if direct else f"{directory}/{place_name(one, chosen)}" for one in chosen
    }
    mark = _Mark(target.where, snapshot.id, sorted(places))
    _require_empty(disk, directory, mark)
    total = sum(file.bytes for one in chosen for file in one.files)
    return Plan(snapshot=snapshot, directory=directory, volumes=places, bytes=total)


def place_name(volume: SavedVolume, others: Sequence[SavedVolume]) -> str:
    """The directory of a volume among those of others: its name, where no other has that."""
    taken = [MASTER, *(one.name for one in others if one.id != volume.id)]
    return f"{volume.name}-{volume.id[:8]}" if volume.name in taken else volume.name


def _require_empty(disk: Disk, directory: str, mark: _Mark) -> None:
    begun = {f"{MARK}.new"}  # what a restore that was killed at once leaves
    if not disk.exists(directory) or not set(disk.list(directory)) - begun:
        return
    path = f"{directory}/{MARK}"
    if not disk.exists(path):
        raise BackupUnfit(f"{directory} is not empty: restore into a directory of its own")
    if msgspec.json.decode(read_file(disk, path), type=_Mark) != mark:
        raise BackupUnfit(
            f"another restore was begun in {directory}: finish that one, or remove the directory"
        )


def restore(target: Target, what: Plan, *, disk: Disk, clock: Clock, on_bytes: OnBytes) -> Restored:
    """Do it. Raises BackupUnreachable, OutOfSpace, OpenError."""
    try:
        return _restore(target, what, disk, clock, on_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"the disk of {what.directory} is full: make room, and run the same command again"
            ) from error
        raise NotAVolume(f"{what.directory} cannot be written: {error}") from error


def _restore(target: Target, what: Plan, disk: Disk, clock: Clock, on_bytes: OnBytes) -> Restored:
    snapshot = what.snapshot
    mark = _Mark(target.where, snapshot.id, sorted(what.volumes))
    disk.make_directory(what.directory)
    replace_file(disk, f"{what.directory}/{MARK}", msgspec.json.encode(mark))
    there = set(target.names("volumes"))
    damaged: list[str] = []
    missing = [one.name for one in snapshot.missing if not one.taken]
    lost: list[SavedVolume] = []
    for volume in snapshot.volumes:
        if volume.id not in what.volumes:
            continue
        if any(part.object not in there for file in volume.files for part in _log_parts(file)):
            lost.append(volume)
            missing.append(volume.name)
            continue
        place = what.volumes[volume.id]
        damaged += _files(target, volume, f"{place}/volume", disk, on_bytes)
    restored = [one for one in snapshot.volumes if one.id in what.volumes and one not in lost]
    gone: list[Known] = []
    if lost:
        gone = not_restored(
            (_keys(target, one, damaged) for one in restored),
            (_keys(target, one, damaged) for one in lost),
        )
    for volume in restored:
        _begin_epoch(what.volumes[volume.id], disk, clock)
        keep_key(disk, what.volumes[volume.id], snapshot.key)
    if set(what.volumes.values()) != {what.directory}:
        disk.make_directory(f"{what.directory}/{MASTER}")
        keep_key(disk, f"{what.directory}/{MASTER}", snapshot.key)
    disk.unlink(f"{what.directory}/{MARK}")
    disk.sync_directory(what.directory)
    return Restored(
        snapshot=snapshot.id,
        alone=snapshot.alone,
        directories=[(one.name, what.volumes[one.id]) for one in restored],
        damaged=damaged,
        missing=missing,
        not_restored=gone,
    )


def _log_parts(file: SavedFile) -> list[Part]:
    """The parts without which a volume cannot be opened truthfully."""
    return file.parts if file.salt else []


def _files(
    target: Target, volume: SavedVolume, directory: str, disk: Disk, on_bytes: OnBytes
) -> list[str]:
    """Write the files of a volume; the objects that were not as they should be. Raises OSError."""
    identity = f"{directory}/{IDENTITY_NAME}"
    if disk.exists(identity):
        for file in volume.files:
            on_bytes(file.bytes)
        return []
    for below in ("segments", "blobs"):
        disk.make_directory(f"{directory}/{below}")

    def written(file: SavedFile) -> list[str]:
        return _file(target, file, f"{directory}/{file.name}", disk, on_bytes)

    with ThreadPoolExecutor(BACKUP_THREADS) as pool:
        damaged = [name for names in pool.map(written, volume.files) for name in names]
    parents = {os.path.dirname(f"{directory}/{file.name}") for file in volume.files}
    for parent in sorted({*parents, f"{directory}/blobs"}):  # which names directories of blobs
        disk.sync_directory(parent)
    replace_file(disk, f"{directory}/{MANIFEST_NAME}", volume.manifest)
    sync_ancestors(disk, directory)
    replace_file(disk, identity, volume.identity)
    return damaged


def _file(target: Target, file: SavedFile, path: str, disk: Disk, on_bytes: OnBytes) -> list[str]:
    """Write one file, unless it is there and whole."""
    if disk.exists(path):
        there = disk.open(path)
        try:
            if _is_whole(there, file):
                on_bytes(file.bytes)
                return []
        finally:
            there.close()
        disk.unlink(path)
    disk.make_directory(os.path.dirname(path))
    damaged: list[str] = []
    made = disk.create(path)
    try:
        for part in file.parts:
            at, crc = part.start, 0
            try:
                for piece in target.get(part.object):
                    made.write([piece], offset=at)
                    crc = _crc32c(crc, piece)
                    at += len(piece)
                    on_bytes(len(piece))
            except FileNotFoundError:
                damaged.append(f"{part.object}: it is missing; {_TOLD}")
                continue
            if at != part.start + part.bytes or crc != part.crc32c:
                damaged.append(f"{part.object}: its bytes are not those that were written; {_TOLD}")
        made.sync()
    finally:
        made.close()
    return damaged


def _is_whole(file: File, saved: SavedFile) -> bool:
    """Whether a file has exactly the bytes that were backed up."""
    if file.size() != saved.bytes:
        return False
    for part in saved.parts:
        crc = 0
        for at in range(part.start, part.start + part.bytes, 1 << 20):
            length = min(1 << 20, part.start + part.bytes - at)
            crc = _crc32c(crc, file.read(length, offset=at))
        if crc != part.crc32c:
            return False
    return True


def _keys(target: Target, volume: SavedVolume, damaged: list[str]) -> Iterator[Key]:
    """The keys of all records of a volume; files of keys that cannot be read go to `damaged`, for
    what they say is not known then."""
    for file in volume.files:
        for part in file.parts:
            if part.keys:
                try:
                    yield from decode_keys(read(target, part.keys))
                except (FileNotFoundError, msgspec.DecodeError):
                    damaged.append(f"{part.keys}: which keys are in {part.object} is not known")


def _begin_epoch(directory: str, disk: Disk, clock: Clock) -> None:
    """Open a restored volume, and promise it an epoch that its old cluster has never used.

    Raises OpenError.
    """
    volume = open_volume(directory, disk=disk, clock=clock, options=StoreOptions())
    try:
        epoch = min(volume.promised_epoch() + RESTORED_EPOCHS, (1 << EPOCH_BITS) - 2)
        now_ms = clock.now_ms()
        record = Record(type=Type.EPOCH, version=make_version(epoch, 0), created_ms=now_ms)
        volume.append([record], now_ms=now_ms)
        volume.close(now_ms=now_ms)
    except BaseException:  # whatever it is, nothing may stay locked
        volume.abandon()
        raise
