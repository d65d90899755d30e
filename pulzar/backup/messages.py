"""What a volume says of its files to whoever backs it up (http/files.py)."""

import msgspec


class SegmentFile(msgspec.Struct, frozen=True):
    """A segment: its first `bytes` are durable and never change. `salt` is its own, in hex: a
    volume that was put back gives the same name to another one."""

    name: str
    salt: str
    bytes: int
    sealed: bool


class VolumeFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at one moment. `directory` is where it is on its own machine, `seq` the head of its
    log. `identity` and `manifest` are the content of these two files."""

    id: str
    name: str
    directory: str
    seq: int
    identity: bytes
    manifest: bytes
    segments: list[SegmentFile]
    retired_blobs: list[str]


class BlobFile(msgspec.Struct, frozen=True):
    """A value in a file of its own; `name` is its path in the volume."""

    name: str
    bytes: int


class BlobPage(msgspec.Struct, frozen=True):
    """Some of them, by name; `next` is the `after` of the next page, "" at the end."""

    blobs: list[BlobFile]
    next: str
