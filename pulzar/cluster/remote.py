"""The other machines, over HTTP: a volume as its master sees it, and a master as a volume does.

Every call carries the cluster's key. What a machine refused on purpose comes back as the error
that it was there, told by the `code` of the problem document. Everything else, a timeout, a lost
connection, an answer that is none, is LinkBroken: it is not known whether the call did anything.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from pulzar import errors
from pulzar.cluster.messages import (
    MEDIA_TYPE,
    Append,
    Appended,
    Committed,
    Compacted,
    DigestPage,
    Fetch,
    Fetched,
    LogPage,
    Message,
    Presence,
    Pull,
    SessionOpened,
    SessionWanted,
    SnapshotPage,
    Staged,
    UploadDone,
    UploadPlan,
    UploadWanted,
    Welcome,
    decode,
    encode,
)
from pulzar.cluster.wire import cursor_text, key_text
from pulzar.errors import InvalidParameter, LinkBroken, NotFoundPath, OutcomeUnknown, PulzarError
from pulzar.limits import (
    LINK_ANSWER_S,
    LINK_CONNECT_S,
    LINK_CONNECTIONS_MAX,
    LINK_PIECE_BYTES,
    LINK_SLOW_ANSWER_S,
    LINK_VERIFY_S,
)
from pulzar.varidb.position import Cursor

M = TypeVar("M", bound=Message)


class _Problem(msgspec.Struct):
    """As much of a problem document as is used."""

    code: str
    detail: str = ""
    version: str = ""


def _tree(kind: type[PulzarError]) -> dict[str, type[PulzarError]]:
    found = {kind.code: kind}
    for below in kind.__subclasses__():
        found.update(_tree(below))
    return found


_BY_CODE = _tree(errors.PulzarError)
_UNKNOWN = frozenset({"internal", "outcome_unknown"})


class Network:
    """All calls of one process to other machines. One event loop."""

    def __init__(self, key: str, *, connections: int = LINK_CONNECTIONS_MAX) -> None:
        """`key` is the cluster's (hex), `connections` how many there may be to one machine."""
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": MEDIA_TYPE}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=connections, keepalive_timeout=30
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        self._volumes: dict[str, RemoteVolume] = {}

    def volume(self, url: str) -> "RemoteVolume":
        """The link to the volume at a URL."""
        if url not in self._volumes:
            self._volumes[url] = RemoteVolume(self, url)
        return self._volumes[url]

    async def call(
        self, method: str, url: str, body: bytes | None = None, *, timeout_s: float = LINK_ANSWER_S
    ) -> bytes:
        """The answer to a call. Raises PulzarError."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=LINK_CONNECT_S)
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise LinkBroken(f"{url} did not answer: {_told(error)}") from None
        if response.status != 200:
            raise problem(url, response.status, content)
        return content

    def request(
        self, method: str, url: str, **options: object
    ) -> "aiohttp.client._RequestContextManager":
        """A request whose body or answer is streamed."""
        headers = {**self._headers, **options.pop("headers", {})}  # type: ignore[dict-item]
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=LINK_CONNECT_S,
            sock_read=LINK_SLOW_ANSWER_S,
            sock_connect=LINK_CONNECT_S,
        )
        return self._session.request(
            method,
            url,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            **options,  # type: ignore[arg-type]
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def problem(url: str, status: int, content: bytes) -> PulzarError:
    """The error that a machine answered with; LinkBroken where it tells nothing."""
    try:
        told = msgspec.json.decode(content, type=_Problem)
    except msgspec.DecodeError:
        return LinkBroken(f"{url} answered {status}")
    kind = _BY_CODE.get(told.code)
    if kind is None or told.code == "internal":
        return LinkBroken(f"{url} answered {status} {told.code}: {told.detail}")
    if kind is OutcomeUnknown:
        version = int(told.version, 16) if told.version else 0
        return OutcomeUnknown(told.detail, version=version)
    return kind(told.detail)


def _told(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no such host: {error.host}"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno)
    return str(error) or type(error).__name__


def _decoded(kind: type[M], url: str, content: bytes) -> M:
    try:
        return decode(kind, content)
    except InvalidParameter as error:
        raise LinkBroken(f"{url}: {error}") from None


class RemoteVolume:
    """Implements `link.Link` over HTTP."""

    def __init__(self, network: Network, url: str) -> None:
        self.url = url
        self._network = network
        self._base = f"{url}/autodiscovery/"
        self._append_url = f"{self._base}append"
        self._fetch_url = f"{self._base}fetch"

    async def _get(self, kind: type[M], path: str, *, timeout_s: float = LINK_SLOW_ANSWER_S) -> M:
        url = self._base + path
        return _decoded(kind, url, await self._network.call("GET", url, timeout_s=timeout_s))

    async def _post(
        self, kind: type[M], path: str, message: Message | None, *, timeout_s: float
    ) -> M:
        url = self._base + path
        body = encode(message) if message is not None else b""
        return _decoded(kind, url, await self._network.call("POST", url, body, timeout_s=timeout_s))

    async def hello(self) -> Presence:
        """See `Link`."""
        try:
            return await self._get(Presence, "hello", timeout_s=LINK_CONNECT_S)
        except NotFoundPath:
            raise LinkBroken(f"what answers at {self.url} is no volume") from None

    async def alive(self, wait_s: float) -> Presence:
        """See `Link`."""
        path = f"alive?wait={int(wait_s)}"
        return await self._get(Presence, path, timeout_s=wait_s + LINK_ANSWER_S)

    async def open_session(self, wanted: SessionWanted) -> SessionOpened:
        """See `Link`."""
        return await self._post(SessionOpened, "session", wanted, timeout_s=LINK_SLOW_ANSWER_S)

    async def append(self, append: Append) -> Appended:
        """See `Link`."""
        content = await self._network.call("POST", self._append_url, encode(append))
        return _decoded(Appended, self._append_url, content)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """See `Link`."""
        timeout_s = LINK_VERIFY_S if fetch.verify else LINK_ANSWER_S
        content = await self._network.call(
            "POST", self._fetch_url, encode(fetch), timeout_s=timeout_s
        )
        return _decoded(Fetched, self._fetch_url, content)

    async def log(self, after: Cursor, *, limit: int, wait_s: float) -> LogPage:
        """See `Link`."""
        path = f"log?after={cursor_text(after)}&limit={limit}&wait={int(wait_s)}"
        return await self._get(LogPage, path, timeout_s=LINK_SLOW_ANSWER_S + wait_s)

    async def snapshot(self, after: bytes, *, limit: int) -> SnapshotPage:
        """See `Link`."""
        return await self._get(SnapshotPage, f"snapshot?after={key_text(after)}&limit={limit}")

    async def digests(self, after: bytes, *, limit: int) -> DigestPage:
        """See `Link`."""
        return await self._get(DigestPage, f"digests?after={key_text(after)}&limit={limit}")

    async def pull(self, pull: Pull) -> Staged:
        """See `Link`. A large value takes its time; its source notices when nothing moves."""
        url = f"{self._base}pull"
        try:
            async with self._network.request("POST", url, data=encode(pull)) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkBroken(f"{url} did not answer: {_told(error)}") from None
        if response.status != 200:
            raise problem(url, response.status, content)
        return _decoded(Staged, url, content)

    async def compact(self) -> Compacted:
        """See `Link`."""
        return await self._post(Compacted, "compact", None, timeout_s=24 * 3600)

    async def upload(self, upload: str, *, size: int, peers: list[str]) -> "RemoteUpload":
        """See `Link`."""
        path = f"upload/{upload}"
        if peers:
            path += f"?peers={quote(','.join(peers), safe=':/,')}"
        return RemoteUpload(self._network, self._base + path, size)

    async def chunks(
        self, key: bytes, version: int, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        """See `Link`."""
        url = f"{self._base}value?key={key_text(key)}&version={version}&start={start}&end={end}"
        left = end - start
        if not left:
            return
        try:
            async with self._network.request("GET", url) as response:
                if response.status != 200:
                    raise problem(url, response.status, await response.read())
                async for chunk in response.content.iter_chunked(LINK_PIECE_BYTES):
                    left -= len(chunk)
                    yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkBroken(f"{url} broke off: {_told(error)}") from None
        if left:
            raise LinkBroken(f"{url} broke off: {left} bytes are missing")

    async def close(self) -> None:
        """The connections are the network's."""


class RemoteUpload:
    """Implements `entry.Upload`: bytes on their way to a volume. `staged` is there at the end."""

    def __init__(self, network: Network, url: str, size: int) -> None:
        self.size = 0
        self.staged: Staged | None = None
        self._network = network
        self._url = url
        self._length = size
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._sending = asyncio.ensure_future(self._send())

    async def write(self, chunk: bytes) -> None:
        """Send the next bytes; returns when it can take more. Raises PulzarError."""
        if chunk:
            self.size += len(chunk)
            await self._put(chunk)

    async def finish(self) -> None:
        """Wait until the volume has made them durable. Raises PulzarError."""
        await self._put(None)
        self.staged = await self._sending

    async def abort(self) -> None:
        """Cut the connection: the volume throws the bytes away."""
        self._sending.cancel()
        await asyncio.wait([self._sending])
        if not self._sending.cancelled():
            self._sending.exception()

    async def _put(self, piece: bytes | None) -> None:
        putting = asyncio.ensure_future(self._pieces.put(piece))
        await asyncio.wait((putting, self._sending), return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            await self._sending  # which raises
            raise LinkBroken(f"{self._url} answered before it had everything")

    async def _body(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    async def _send(self) -> Staged:
        headers = {"Content-Length": str(self._length)} if self._length >= 0 else {}
        try:
            async with self._network.request(
                "PUT", self._url, data=self._body(), headers=headers
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LinkBroken(f"{self._url} broke off: {_told(error)}") from None
        if response.status != 200:
            raise problem(self._url, response.status, content)
        return _decoded(Staged, self._url, content)


class MasterLink:
    """A master, as its volumes see it."""

    def __init__(self, network: Network, url: str) -> None:
        self.url = url
        self._network = network

    async def _post(self, kind: type[M], path: str, message: Message, *, timeout_s: float) -> M:
        url = f"{self.url}/skynet/{path}"
        content = await self._network.call("POST", url, encode(message), timeout_s=timeout_s)
        return _decoded(kind, url, content)

    async def heartbeat(self, presence: Presence) -> Welcome:
        """Say that a volume is there. Raises MemberRefused, Forbidden, LinkBroken."""
        return await self._post(Welcome, "heartbeat", presence, timeout_s=LINK_ANSWER_S)

    async def plan_upload(self, wanted: UploadWanted) -> UploadPlan:
        """Where the copies of a large value go. Raises PulzarError."""
        return await self._post(UploadPlan, "upload", wanted, timeout_s=LINK_ANSWER_S)

    async def commit_upload(self, done: UploadDone) -> Committed:
        """Give an upload its key. Raises PulzarError; OutcomeUnknown where that is not known."""
        try:
            return await self._post(Committed, "commit", done, timeout_s=LINK_SLOW_ANSWER_S)
        except LinkBroken as error:
            raise OutcomeUnknown(f"the master did not say what became of it: {error}") from None
