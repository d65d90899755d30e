"""The application of a volume that runs as a program of its own.

For the cluster: /autodiscovery/... . For clients that a master sent here:

    GET /get_key/{key}?version=HEX    the value, if it is here at that version; else back to the
                                      master, which reads it from wherever it is
    PUT /add_key/{key}                a value over 64 KiB: its bytes go to the disk here and to the
                                      other volumes at once, then the master gives it its key

What is small, or a DELETE, is the master's: 307.
"""

import re
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pulzar.clock import Clock
from pulzar.cluster.messages import UploadDone, UploadWanted
from pulzar.cluster.remote import MasterLink
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.staging import StagedUpload
from pulzar.errors import Damage, InvalidParameter, NotReady, Unavailable
from pulzar.http import autodiscovery, files
from pulzar.http.application import Application, Paths, short
from pulzar.http.autodiscovery import Autodiscovery
from pulzar.http.body import body_length
from pulzar.http.files import Files
from pulzar.http.internal import Internal
from pulzar.http.key_codec import decode_key, key_path
from pulzar.http.keys import ADD_PATH, DELETE_PATH, GET_PATH, KeyVerbs
from pulzar.http.metrics import Metrics, Tally
from pulzar.http.patience import Patience
from pulzar.http.problem import Elsewhere
from pulzar.http.query import parse_query
from pulzar.limits import DIRECT_BYTES_MAX, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.entry import Delete, Entry, Put, Upload, Written
from pulzar.varidb.feed import Feed

PATHS: Paths = {
    "/add_key/{key}": (("PUT",), "put"),
    "/get_key/{key}": (("GET", "HEAD"), "get"),
    "/delete_key/{key}": (("DELETE",), "delete"),
    "/healthz": (("GET", "HEAD"), "health"),
    "/readyz": (("GET", "HEAD"), "health"),
    "/metrics": (("GET", "HEAD"), "metrics"),
    **autodiscovery.PATHS,
    **files.PATHS,
}

_VERSION = re.compile(r"[0-9a-f]{16}")


class VolumeValues:
    """Implements `entry.Values` over one volume."""

    direct_bytes_max = SEGMENT_VALUE_BYTES_MAX

    def __init__(self, volume: ServedVolume, master: MasterLink) -> None:
        self._volume = volume
        self._master = master

    def lookup(self, key: bytes) -> Entry | None:
        """What the index has of a key."""
        return self._volume.entry(key, None)

    async def confirm(self, _key: bytes, entry: Entry) -> Entry:
        """When a key expires is the master's to say."""
        return entry

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """See `Store.complete`."""
        return await self._volume.serving.reader.complete(key, entry)

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """See `Store.read`."""
        return await self._volume.serving.reader.value(key, entry)

    def chunks(self, key: bytes, entry: Entry, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See `Store.chunks`."""
        return self._volume.chunks(key, entry.version, start=start, end=end)

    def elsewhere(self, _entry: Entry) -> None:
        """It is here."""

    def upload_elsewhere(self, _size: int, _replicas: int) -> None:
        """It comes here."""

    async def put(self, put: Put) -> Written:
        """A value that came in one piece goes the way of the large ones."""
        upload = await self.upload(size=len(put.value), replicas=put.replicas)
        try:
            await upload.write(put.value)
            await upload.finish()
        except BaseException:  # cancellation too: the bytes must not stay in memory
            await upload.abort()
            raise
        return await self.put_upload(put, upload)

    async def upload(self, *, size: int = 0, replicas: int = 0) -> StagedUpload:
        """See `Store.upload`. The master says where the other copies go."""
        plan = await self._master.plan_upload(UploadWanted(self._volume.id, size or -1, replicas))
        return await self._volume.upload(plan.upload, size=size or -1, peers=plan.peers)

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """See `Store.put_upload`. The master gives it version and key."""
        if not isinstance(upload, StagedUpload) or upload.staged is None:
            raise Unavailable("the upload is not finished")
        staged, condition = upload.staged, put.condition
        done = UploadDone(
            upload=staged.upload,
            key=put.key,
            size=staged.size,
            volumes=staged.volumes,
            content_type=put.content_type,
            expires_s=put.expires_s,
            replicas=put.replicas,
            match=condition.match if condition is not None else None,
            match_any=condition is not None and condition.match_any,
            none_match=condition.none_match if condition is not None else None,
            none_match_any=condition is not None and condition.none_match_any,
        )
        committed = await self._master.commit_upload(done)
        return Written(
            committed.version,
            committed.size,
            committed.expires_s,
            committed.copies,
            committed.wanted,
            committed.created,
        )

    async def delete(self, _delete: Delete) -> Written:
        """A DELETE is sent on to the master before it gets here."""
        raise Unavailable("a volume deletes nothing by itself")

    def not_ready(self) -> str | None:
        """Why the volume cannot serve."""
        return self._volume.serving.volume.log.failed

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        return {
            **self._volume.serving.statistics(),
            "appends_total": self._volume.appends_total,
            "fetches_total": self._volume.fetches_total,
        }


class VolumeVerbs(KeyVerbs):
    """The data verbs at a volume."""

    def __init__(
        self,
        values: VolumeValues,
        volume: ServedVolume,
        *,
        master_url: str,
        clock: Clock,
        tally: Tally,
        patience: Patience,
    ) -> None:
        super().__init__(values, feed=Feed(), clock=clock, tally=tally, patience=patience)
        self._volume = volume
        self._master_url = master_url
        self._base = master_url.encode()

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET or HEAD /get_key/{key}?version=HEX."""
        raw = scope["raw_path"][len(GET_PATH) :]
        key = decode_key(raw)
        asked = parse_query(scope["query_string"], ("redirect", "version"))
        version = asked.get("version", "")
        if "version" in asked and not _VERSION.fullmatch(version):
            raise InvalidParameter("version is to be 16 hex digits")
        entry = self._volume.entry(key, int(version, 16)) if version else None
        if entry is None:
            raise self._at_master(GET_PATH, key, "?redirect=0")
        try:
            await self.answer_entry(scope, receive, send, key, entry)
        except Damage:
            raise self._at_master(GET_PATH, key, "?redirect=0") from None

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        """DELETE /delete_key/{key}."""
        key = decode_key(scope["raw_path"][len(DELETE_PATH) :])
        raise self._at_master(DELETE_PATH, key, "")

    async def put(self, scope: Scope, receive: Receive, send: Send) -> None:
        """PUT /add_key/{key}: a value over DIRECT_BYTES_MAX; a smaller one is the master's."""
        length = body_length(dict(scope["headers"]))
        if scope["method"] == "PUT" and length is not None and length <= DIRECT_BYTES_MAX:
            key = decode_key(scope["raw_path"][len(ADD_PATH) :])
            query = scope["query_string"].decode("latin-1")
            raise self._at_master(ADD_PATH, key, f"?{query}" if query else "")
        await super().put(scope, receive, send)

    async def _refuse_early(self, put: Put) -> None:
        """Conditions are the master's."""

    def _at_master(self, path: bytes, key: bytes, query: str) -> Elsewhere:
        return Elsewhere(f"{self._master_url}{path.decode()}{key_path(key)}{query}")


class VolumeApp(Application):
    """The application of one volume. `key` is the cluster's (hex)."""

    def __init__(
        self,
        volume: ServedVolume,
        master: MasterLink,
        *,
        key: str,
        clock: Clock,
        chunk_timeout_s: float,
    ) -> None:
        super().__init__(PATHS, chunk_timeout_s=chunk_timeout_s)
        patience = self.patience
        values = VolumeValues(volume, master)
        verbs = VolumeVerbs(
            values,
            volume,
            master_url=master.url,
            clock=clock,
            tally=self.tally,
            patience=patience,
        )
        self._put = verbs.put
        self._get = verbs.get
        self._delete = verbs.delete
        self._values = values
        internal = Internal(key, patience=patience)
        self._endpoints = {
            "/healthz": short(_healthy),
            "/readyz": short(self._ready),
            "/metrics": short(Metrics(self.tally, values.statistics).get),
            **Autodiscovery(volume, internal, patience=patience).endpoints,
            **Files(volume.serving, volume.name, internal, patience=patience).endpoints,
        }

    async def _ready(self, _: Request) -> Response:
        reason = self._values.not_ready()
        if reason is not None:
            raise NotReady(reason)
        return Response(b'{"status":"ready"}', media_type="application/json")


async def _healthy(_: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")
