"""volume.json: who a volume is. Written once, when the directory becomes a volume.

{"pulzar": "volume", "format": 1, "volume_id": "32 hex", "cluster_id": "32 hex", "created_ms": n}
"""

from collections.abc import Callable

import msgspec

from pulzar.disk import Disk, read_file, sync_ancestors, write_file
from pulzar.errors import NotAVolume, VolumeTooNew
from pulzar.varidb.blob import BLOBS
from pulzar.varidb.log import SEGMENTS
from pulzar.varidb.segment import FORMAT

IDENTITY_NAME = "volume.json"
LOCK_NAME = "LOCK"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The content of volume.json."""

    pulzar: str
    format: int
    volume_id: str
    cluster_id: str
    created_ms: int

    @property
    def id(self) -> bytes:
        """The volume id as 16 bytes."""
        return bytes.fromhex(self.volume_id)


def read_identity(disk: Disk, directory: str) -> Identity:
    """Who the volume in `directory` is. Raises NotAVolume, VolumeTooNew, OSError."""
    stranger = NotAVolume(f"{directory} is not a volume: it has no valid {IDENTITY_NAME}")
    try:
        content = read_file(disk, f"{directory}/{IDENTITY_NAME}")
        identity = msgspec.json.decode(content, type=Identity)
        valid = identity.pulzar == "volume" and len(identity.id) == 16
    except (FileNotFoundError, msgspec.DecodeError, ValueError):
        raise stranger from None
    if not valid:
        raise stranger
    if identity.format > FORMAT:
        raise VolumeTooNew(
            f"{directory} has format {identity.format}; this version of Pulzar reads up to {FORMAT}"
        )
    if identity.format < FORMAT:
        raise NotAVolume(
            f"{directory} has format {identity.format}; this version of Pulzar reads {FORMAT}"
        )
    return identity


def create_identity(
    disk: Disk, directory: str, *, token: Callable[[int], bytes], now_ms: int
) -> Identity:
    """Make an empty directory a volume. Raises NotAVolume where it is not empty, OSError.

    A crash in here leaves a directory that this function takes again.
    """
    strangers = set(disk.list(directory)) - {SEGMENTS, BLOBS, LOCK_NAME, f"{IDENTITY_NAME}.new"}
    if strangers or disk.list(f"{directory}/{SEGMENTS}") or disk.list(f"{directory}/{BLOBS}"):
        raise NotAVolume(f"{directory} holds other files and no {IDENTITY_NAME}: use an empty one")
    for name in (SEGMENTS, BLOBS):
        disk.make_directory(f"{directory}/{name}")
    identity = Identity(
        pulzar="volume",
        format=FORMAT,
        volume_id=token(16).hex(),
        cluster_id=token(16).hex(),
        created_ms=now_ms,
    )
    new_path = f"{directory}/{IDENTITY_NAME}.new"
    if disk.exists(new_path):
        disk.unlink(new_path)
    write_file(disk, new_path, msgspec.json.format(msgspec.json.encode(identity), indent=2) + b"\n")
    sync_ancestors(disk, directory)
    disk.rename(new_path, f"{directory}/{IDENTITY_NAME}")
    disk.sync_directory(directory)
    return identity
