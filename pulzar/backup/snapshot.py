"""What a target holds: the format of a backup. No I/O.

    TARGET/
      pulzar-backup.json             {"pulzar": "backup", "format": 1, "cluster": "32 hex"}
      snapshots/ID.json              a Snapshot: what was backed up at that time
      volumes/VOLUME/segments/00000007-SALT/START-END       bytes START to END of a segment
      volumes/VOLUME/segments/00000007-SALT/START-END.keys  the keys of the records in them
      volumes/VOLUME/blobs/ab/NAME-BYTES                    a value in a file of its own

ID is when it was begun, UTC, 20261130T174500Z. A part is written before the snapshot that names it,
and what is not named by any was never backed up. `crc32c` is the CRC32C of the bytes of a part.

A keys file is MessagePack: [[key, version, type, seq], ...], the newest record of each key in that
part (varidb/record.py has the types). A restore that lacks a volume tells by it what is gone.
"""

import re
from collections.abc import Iterable, Iterator

import msgspec

from pulzar.errors import BackupUnfit

FORMAT = 1
MARK = "pulzar-backup.json"
SNAPSHOTS = "snapshots"
VOLUMES = "volumes"
SNAPSHOT_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The content of pulzar-backup.json."""

    pulzar: str = "backup"
    format: int = FORMAT
    cluster: str


class Part(msgspec.Struct, frozen=True):
    """Some bytes of a file: `object` is where they are in the target, `keys` where their keys are,
    "" for none."""

    object: str
    start: int
    bytes: int
    crc32c: int
    keys: str = ""
    keys_bytes: int = 0
    keys_crc32c: int = 0


class SavedFile(msgspec.Struct, frozen=True):
    """A file of a volume, by its path in it, and its parts in order."""

    name: str
    parts: list[Part]
    salt: str = ""
    sealed: bool = False

    @property
    def bytes(self) -> int:
        """How many it has."""
        return sum(part.bytes for part in self.parts)


class SavedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as it was at `taken` (ISO 8601, UTC); seq is the head of its log then."""

    id: str
    name: str
    taken: str
    seq: int
    identity: bytes
    manifest: bytes
    files: list[SavedFile]


class Missing(msgspec.Struct, frozen=True):
    """A volume that could not be asked; `taken` is when it was last backed up, "" for never."""

    id: str
    name: str
    reason: str
    taken: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One backup. `key` is the key of the cluster; `alone`: it was one machine, `pulzar up`. Of the
    volumes that are `missing`, those that were backed up before are among `volumes` as they were
    then."""

    pulzar: str = "backup"
    format: int = FORMAT
    id: str
    cluster: str
    key: str
    alone: bool
    volumes: list[SavedVolume]
    missing: list[Missing]


def read_mark(content: bytes, where: str) -> Mark:
    """The mark of a target. Raises BackupUnfit."""
    try:
        mark = msgspec.json.decode(content, type=Mark)
    except msgspec.DecodeError:
        raise BackupUnfit(f"{where} is no backup of Pulzar: its {MARK} cannot be read") from None
    if mark.pulzar != "backup":
        raise BackupUnfit(f"{where} is no backup of Pulzar")
    if mark.format != FORMAT:
        raise BackupUnfit(
            f"{where} has format {mark.format}, this version of Pulzar reads {FORMAT}"
        )
    return mark


def read_snapshot(content: bytes, name: str) -> Snapshot:
    """A snapshot. Raises BackupUnfit."""
    try:
        return msgspec.json.decode(content, type=Snapshot)
    except msgspec.DecodeError as error:
        raise BackupUnfit(f"snapshot {name} is damaged: {error}") from None


def segment_object(volume: str, file: str, salt: str, start: int, end: int) -> str:
    """Where a part of a segment is; `file` is segments/00000007.seg."""
    stem = file.rpartition("/")[2].removesuffix(".seg")
    return f"{VOLUMES}/{volume}/segments/{stem}-{salt[:8]}/{start}-{end}"


def blob_object(volume: str, file: str, size: int) -> str:
    """Where a blob is; `file` is blobs/ab/NAME.blob."""
    return f"{VOLUMES}/{volume}/{file.removesuffix('.blob')}-{size}"


def objects(snapshots: Iterable[Snapshot]) -> Iterator[tuple[str, int, int]]:
    """Everything that snapshots name, as (object, bytes, CRC32C); some of it several times."""
    for snapshot in snapshots:
        for volume in snapshot.volumes:
            for file in volume.files:
                for part in file.parts:
                    yield part.object, part.bytes, part.crc32c
                    if part.keys:
                        yield part.keys, part.keys_bytes, part.keys_crc32c


def to_prune(ids: Iterable[str], keep: int) -> list[str]:
    """The snapshots that go where the last `keep` stay, oldest first."""
    known = sorted(ids)
    return known[: max(0, len(known) - keep)]
