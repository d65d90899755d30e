"""The files of a volume, for a backup of it. Inside the cluster only.

    GET /autodiscovery/files    what is durable now (backup/messages.py)
    GET /autodiscovery/blobs    values in files of their own, by name, behind ?after=NAME
    GET /autodiscovery/file     some bytes of one: ?name=NAME&start=BYTE&end=BYTE

A list is of one moment: the log up to its head, the segments and the MANIFEST that belong to it.
The files that it names never change up to the length that it says, and stay for the grace of
compaction, so the bytes may be fetched as slowly as one likes.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from itertools import islice

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.backup.messages import BlobFile, BlobPage, SegmentFile, VolumeFiles
from pulzar.disk import Disk, read_file
from pulzar.errors import InvalidParameter, NodeNotFound
from pulzar.http.application import Paths
from pulzar.http.internal import Internal
from pulzar.http.patience import Patience
from pulzar.http.query import number_between, parse_query
from pulzar.http.sending import Streams, send_whole
from pulzar.limits import BACKUP_BLOBS_AT_ONCE, BLOB_BYTES_MAX, MIB
from pulzar.varidb.blob import blob_names, blob_path
from pulzar.varidb.identity import IDENTITY_NAME
from pulzar.varidb.log import SEGMENTS
from pulzar.varidb.manifest import MANIFEST_NAME
from pulzar.varidb.segment import segment_name
from pulzar.varidb.serving import ServingVolume

PATHS: Paths = {
    "/autodiscovery/files": (("GET",), "internal"),
    "/autodiscovery/blobs": (("GET",), "internal"),
    "/autodiscovery/file": (("GET",), "internal"),
}

_OCTETS = (b"content-type", b"application/octet-stream")
_NAME = re.compile(r"segments/[0-9]{8,}\.seg|blobs/[0-9a-f]{2}/[0-9a-f]{32}\.blob")


class Files:
    """The endpoints of one volume, called `name`."""

    def __init__(
        self, serving: ServingVolume, name: str, internal: Internal, *, patience: Patience
    ) -> None:
        self._serving = serving
        self._name = name
        self._patience = patience
        self._streams = Streams(patience)
        self.endpoints: dict[str, ASGIApp] = {
            "/autodiscovery/files": internal.guarded(self._files),
            "/autodiscovery/blobs": internal.guarded(self._blobs),
            "/autodiscovery/file": internal.guarded(self._file),
        }

    async def _files(self, scope: Scope, receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        content = msgspec.json.encode(volume_files(self._serving, self._name))
        await send_whole(receive, send, "application/json", [content], self._patience)

    async def _blobs(self, scope: Scope, receive: Receive, send: Send) -> None:
        after = parse_query(scope["query_string"], ("after",)).get("after", "")
        disk, directory = self._serving.disk, self._serving.volume.directory
        page = await asyncio.to_thread(_page, disk, directory, after)
        content = msgspec.json.encode(page)
        await send_whole(receive, send, "application/json", [content], self._patience)

    async def _file(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("name", "start", "end"))
        name = asked.get("name", "")
        if not _NAME.fullmatch(name):
            raise InvalidParameter("name is to be that of a segment or a blob")
        start = number_between(asked, "start", 0, BLOB_BYTES_MAX)
        end = number_between(asked, "end", start, BLOB_BYTES_MAX)
        path = f"{self._serving.volume.directory}/{name}"
        disk, executor = self._serving.disk, self._serving.executor
        loop = asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(executor, disk.open, path)
        except FileNotFoundError:
            raise NodeNotFound(f"this volume has no file {name} any more") from None
        headers = [(b"content-length", b"%d" % (end - start)), _OCTETS]
        head = {"type": "http.response.start", "status": 200, "headers": headers}

        def read(at: int) -> bytes:
            return file.read(min(MIB, end - at), offset=at)

        async def body(skip: int) -> AsyncGenerator[bytes, None]:
            for at in range(start + skip, end, MIB):
                yield await loop.run_in_executor(executor, read, at)

        try:
            await self._streams.send(receive, send, head, body)
        finally:
            file.close()


def volume_files(serving: ServingVolume, name: str) -> VolumeFiles:
    """What is durable of a volume now. Raises OSError."""
    volume, log = serving.volume, serving.volume.log
    directory, disk = volume.directory, serving.disk
    retired = volume.retired()
    segments = [
        SegmentFile(
            name=f"{SEGMENTS}/{segment_name(segment.id)}",
            salt=segment.header.salt.hex(),
            bytes=segment.size if segment.trailer is not None else segment.end,
            sealed=segment.trailer is not None,
        )
        for segment in volume.segments.values()
        if segment.id not in retired
    ]
    place, header = log.place, log.header
    if header is not None and place.segment == header.segment_id:
        segments.append(
            SegmentFile(
                name=f"{SEGMENTS}/{segment_name(header.segment_id)}",
                salt=header.salt.hex(),
                bytes=place.end,
                sealed=False,
            )
        )
    return VolumeFiles(
        id=volume.id.hex(),
        name=name,
        directory=directory,
        seq=log.durable_seq,
        identity=read_file(disk, f"{directory}/{IDENTITY_NAME}"),
        manifest=read_file(disk, f"{directory}/{MANIFEST_NAME}"),
        segments=segments,
        retired_blobs=sorted(volume.retired_blobs()),
    )


def _page(disk: Disk, directory: str, after: str) -> BlobPage:
    known = (name for name in sorted(blob_names(disk, directory)) if name > after)
    names = list(islice(known, BACKUP_BLOBS_AT_ONCE))
    blobs: list[BlobFile] = []
    for name in names:
        path = blob_path(directory, name)
        try:
            file = disk.open(path)
        except FileNotFoundError:  # its grace is over
            continue
        try:
            blobs.append(BlobFile(path.removeprefix(f"{directory}/"), file.size()))
        finally:
            file.close()
    return BlobPage(blobs, names[-1] if len(names) == BACKUP_BLOBS_AT_ONCE else "")
