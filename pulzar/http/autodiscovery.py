"""/autodiscovery/...: what a master, and other volumes, ask of a volume. Inside the cluster only.

Messages are those of cluster/messages.py; keys and cursors in URLs are those of cluster/wire.py.
"""

import re
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.cluster.checks import (
    U64_MAX,
    check_append,
    check_epoch,
    check_fetch,
    check_pull,
    check_size,
    check_text,
    check_urls,
)
from pulzar.cluster.messages import Append, Fetch, Pull, SessionWanted
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.staging import StagedUpload
from pulzar.cluster.wire import parse_cursor, parse_key
from pulzar.errors import Damage, InvalidParameter, Unavailable, ValueTooLarge
from pulzar.http.application import Paths
from pulzar.http.body import body_length, read_pieces
from pulzar.http.internal import Internal, answer
from pulzar.http.patience import Patience
from pulzar.http.query import number_between, parse_query
from pulzar.http.sending import Streams
from pulzar.limits import BLOB_BYTES_MAX, PAGE_ROWS_MAX, WAIT_S_MAX

PATHS: Paths = {
    "/autodiscovery/hello": (("GET",), "internal"),
    "/autodiscovery/alive": (("GET",), "internal"),
    "/autodiscovery/session": (("POST",), "internal"),
    "/autodiscovery/append": (("POST",), "internal"),
    "/autodiscovery/fetch": (("POST",), "internal"),
    "/autodiscovery/log": (("GET",), "internal"),
    "/autodiscovery/snapshot": (("GET",), "internal"),
    "/autodiscovery/digests": (("GET",), "internal"),
    "/autodiscovery/value": (("GET",), "internal"),
    "/autodiscovery/pull": (("POST",), "internal"),
    "/autodiscovery/compact": (("POST",), "internal"),
    "/autodiscovery/upload/{id}": (("PUT",), "internal"),
}
UPLOAD_PATH = "/autodiscovery/upload/"

_OCTETS = (b"content-type", b"application/octet-stream")
_UPLOAD = re.compile(r"[0-9a-f]{32}")


class Autodiscovery:
    """The endpoints of one volume."""

    def __init__(self, volume: ServedVolume, internal: Internal, *, patience: Patience) -> None:
        self._volume = volume
        self._patience = patience
        self._streams = Streams(patience)
        guarded = internal.guarded
        self.endpoints: dict[str, ASGIApp] = {
            "/autodiscovery/hello": guarded(self._hello),
            "/autodiscovery/alive": guarded(self._alive),
            "/autodiscovery/session": internal.call(
                SessionWanted, volume.open_session, _check_session
            ),
            "/autodiscovery/append": internal.call(Append, volume.append, check_append),
            "/autodiscovery/fetch": internal.call(Fetch, volume.fetch, check_fetch),
            "/autodiscovery/log": guarded(self._log),
            "/autodiscovery/snapshot": guarded(self._snapshot),
            "/autodiscovery/digests": guarded(self._digests),
            "/autodiscovery/value": guarded(self._value),
            "/autodiscovery/pull": internal.call(Pull, volume.pull, check_pull),
            "/autodiscovery/compact": guarded(self._compact),
            "/autodiscovery/upload/{id}": guarded(self._upload),
        }

    async def _hello(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        await answer(send, await self._volume.hello())

    async def _alive(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("wait",))
        wait_s = number_between(asked, "wait", 0, int(WAIT_S_MAX))
        await answer(send, await self._volume.alive(wait_s))

    async def _compact(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        await answer(send, await self._volume.compact())

    async def _log(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("after", "limit", "wait"))
        after = parse_cursor(asked.get("after", ""))
        limit = number_between(asked, "limit", 1, PAGE_ROWS_MAX)
        wait_s = number_between(asked, "wait", 0, int(WAIT_S_MAX)) if "wait" in asked else 0
        await answer(send, await self._volume.log(after, limit=limit, wait_s=wait_s))

    async def _snapshot(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("after", "limit"))
        limit = number_between(asked, "limit", 1, PAGE_ROWS_MAX)
        after = parse_key(asked.get("after", ""))
        await answer(send, await self._volume.snapshot(after, limit=limit))

    async def _digests(self, scope: Scope, _receive: Receive, send: Send) -> None:
        asked = parse_query(scope["query_string"], ("after", "limit"))
        limit = number_between(asked, "limit", 1, PAGE_ROWS_MAX)
        after = parse_key(asked.get("after", ""))
        await answer(send, await self._volume.digests(after, limit=limit))

    async def _value(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Some of a value's bytes."""
        asked = parse_query(scope["query_string"], ("key", "version", "start", "end"))
        key = parse_key(asked.get("key", ""))
        version = number_between(asked, "version", 0, U64_MAX)
        start = number_between(asked, "start", 0, BLOB_BYTES_MAX)
        end = number_between(asked, "end", start, BLOB_BYTES_MAX)
        entry = self._volume.entry(key, version)
        if entry is None or end > entry.size:
            raise Damage(f'version "{version:016x}" of this key is not on this volume')
        headers = [(b"content-length", b"%d" % (end - start)), _OCTETS]
        head = {"type": "http.response.start", "status": 200, "headers": headers}

        async def body(skip: int) -> AsyncGenerator[bytes, None]:
            chunks = self._volume.chunks(key, version, start=start + skip, end=end)
            async for chunk in chunks:
                yield chunk

        await self._streams.send(receive, send, head, body)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The bytes of a value: here, and on to the peers."""
        upload_id = scope["raw_path"].decode("latin-1")[len(UPLOAD_PATH) :]
        if not _UPLOAD.fullmatch(upload_id):
            raise InvalidParameter("the name of an upload has 32 hex digits")
        asked = parse_query(scope["query_string"], ("peers",))
        peers = [url for url in asked.get("peers", "").split(",") if url]
        check_urls(peers)
        length = body_length(dict(scope["headers"]))
        size = -1 if length is None else length
        if size >= 0:
            check_size(size)
        upload = await self._volume.upload(upload_id, size=size, peers=peers)
        try:
            await self._receive(scope, receive, length, upload)
        except BaseException:  # cancellation too: the bytes must not stay on the disk
            await upload.abort()
            raise
        if upload.staged is None:
            raise Unavailable("the upload is not finished")
        await answer(send, upload.staged)

    async def _receive(
        self, scope: Scope, receive: Receive, length: int | None, upload: StagedUpload
    ) -> None:
        async for piece in read_pieces(scope, receive, length, self._patience):
            await upload.write(piece)
            if upload.size > BLOB_BYTES_MAX:
                raise ValueTooLarge(f"the value is larger than {BLOB_BYTES_MAX} bytes")
        await upload.finish()


def _check_session(wanted: SessionWanted) -> None:
    check_epoch(wanted.epoch)
    check_text("a session", str(wanted.session))
    if len(wanted.master) != 16:
        raise InvalidParameter("a master has 16 bytes")
    if not 0 <= wanted.session < 1 << 63:
        raise InvalidParameter("a session is a number of 63 bits")
