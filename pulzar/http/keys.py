"""The data verbs: PUT /add_key/, GET and HEAD /get_key/, DELETE /delete_key/.

These are plain ASGI functions, and the paths that every request takes are kept short: a key of
plain characters is used as it came, headers are passed over once, what is rare is decided by one
test and handled elsewhere, and answers are put together from bytes.
"""

import re
from collections.abc import AsyncIterator
from functools import lru_cache

import msgspec
from starlette.types import Receive, Scope, Send

from pulzar.clock import Clock
from pulzar.errors import (
    ConditionFailed,
    Damage,
    InvalidParameter,
    KeyNotFound,
    MethodNotAllowed,
    ValueTooLarge,
)
from pulzar.http.body import body_length, read_exactly, read_pieces
from pulzar.http.conditions import if_range_holds, read_conditions, write_condition
from pulzar.http.content_type import check_content_type
from pulzar.http.dates import http_date, rfc3339
from pulzar.http.key_codec import PLAIN_KEY, decode_key, key_path
from pulzar.http.metrics import Tally
from pulzar.http.patience import Patience, Room
from pulzar.http.problem import Elsewhere
from pulzar.http.query import expires_at, lifetime_s, parse_query, replicas_of, wait_of
from pulzar.http.ranges import parse_range
from pulzar.http.sending import Headers, Streams
from pulzar.http.values import describe, send_value
from pulzar.http.waiting import wait_for_news
from pulzar.limits import (
    BLOB_BYTES_MAX,
    BODIES_BYTES_MAX,
    BODY_SMALL_BYTES,
    CONTENT_TYPE_DEFAULT,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.condition import Condition
from pulzar.varidb.entry import Delete, Entry, Put, Values, Written
from pulzar.varidb.feed import Feed

ADD_PATH = b"/add_key/"
GET_PATH = b"/get_key/"
DELETE_PATH = b"/delete_key/"

_ADD_LENGTH, _GET_LENGTH, _DELETE_LENGTH = len(ADD_PATH), len(GET_PATH), len(DELETE_PATH)
_READ_TRIES = 3  # a value that is replaced while it is looked for

_HOST = re.compile(rb"[0-9A-Za-z._~:\[\]-]{1,255}")

_PUT_QUERY = ("redirect", "replicas", "temporal", "ttl")
_GET_QUERY = ("redirect", "wait")
_QUERY = ("redirect",)

_PUT_HEADERS = frozenset(
    (
        b"content-length",
        b"content-range",
        b"content-type",
        b"expect",
        b"host",
        b"if-match",
        b"if-none-match",
        b"if-unmodified-since",
        b"transfer-encoding",
    )
)
_GET_HEADERS = frozenset(
    (
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    )
)
_DELETE_HEADERS = frozenset((b"if-match", b"if-none-match", b"if-unmodified-since"))

_JSON = (b"content-type", b"application/json")
_OCTETS = (b"content-type", CONTENT_TYPE_DEFAULT.encode())
_RANGES = (b"accept-ranges", b"bytes")

_PUT_CREATED, _PUT_REPLACED = ("put", 201), ("put", 200)
_GET_OK, _DELETE_OK = ("get", 200), ("delete", 200)


class KeyVerbs:
    """The three verbs over one store."""

    def __init__(
        self, store: Values, *, feed: Feed, clock: Clock, tally: Tally, patience: Patience
    ) -> None:
        self._store = store
        self._feed = feed
        self._base: bytes | None = None  # of the URLs in answers; None: what the client called us
        self._clock = clock
        self._tally = tally
        self._patience = patience
        self._room = Room(BODIES_BYTES_MAX, patience)
        self._streams = Streams(patience)

    # Reading.

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET or HEAD /get_key/{key}[?redirect=0|1][&wait=60s]."""
        key: bytes = scope["raw_path"][_GET_LENGTH:]
        if PLAIN_KEY.fullmatch(key) is None:
            key = decode_key(key)
        if scope["query_string"]:
            wait_s = wait_of(parse_query(scope["query_string"], _GET_QUERY))
            if wait_s:
                asked = read_conditions(_asked(scope, _GET_HEADERS))
                if not await wait_for_news(self._store, self._feed, receive, key, asked, wait_s):
                    return
        if scope["method"] != "GET":
            await self._get_rare(scope, receive, send, key)
            return
        for name, _ in scope["headers"]:
            if name in _GET_HEADERS:
                await self._get_rare(scope, receive, send, key)
                return
        entry = self._store.lookup(key)
        if (
            entry is None
            or entry.expires_s
            or not entry.complete
            or entry.size > self._store.direct_bytes_max
        ):
            await self._get_rare(scope, receive, send, key)
            return
        value = entry.inline
        if value is None:
            try:
                value = await self._store.read(key, entry)
            except Damage:
                await self._get_rare(scope, receive, send, key)
                return
        tally = self._tally
        tally.answers[_GET_OK] += 1
        tally.sent_bytes += len(value)
        content_type = entry.content_type
        headers = [
            (b"content-type", content_type.encode()) if content_type else _OCTETS,
            (b"content-length", b"%d" % len(value)),
            (b"etag", b'"%016x"' % entry.version),
            (b"last-modified", http_date(entry.created_ms // 1000)),
            _RANGES,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": value})

    async def _get_rare(self, scope: Scope, receive: Receive, send: Send, key: bytes) -> None:
        """As above, for what is not a small value without conditions."""
        if scope["method"] not in ("GET", "HEAD"):
            raise _not_allowed(scope, ("GET", "HEAD"))
        for _ in range(_READ_TRIES):
            entry = await self._entry(key)
            try:
                await self.answer_entry(scope, receive, send, key, entry)
                return
            except Damage:
                # Replaced or deleted since it was looked up? Then the new state is the answer.
                now = self._store.lookup(key)
                if now is not None and now.version == entry.version:
                    raise
        raise Damage("the value was replaced again and again while it was being read")

    async def _entry(self, key: bytes) -> Entry:
        entry = self._store.lookup(key)
        if entry is not None and entry.expires_s:
            entry = await self._store.confirm(key, entry)
        if entry is None:
            raise KeyNotFound("there is no such key")
        return entry

    async def answer_entry(
        self, scope: Scope, receive: Receive, send: Send, key: bytes, entry: Entry
    ) -> None:
        """Answer with an entry's value, or with what the conditions make of it.

        Raises Elsewhere where the value is to be read from another machine, Damage, Unavailable.
        """
        asked = _asked(scope, _GET_HEADERS)
        status = read_conditions(asked).status(entry.version, entry.created_ms)
        if status == 412:
            raise ConditionFailed(f'the key is at version "{entry.version:016x}"')
        headers = _validators(entry)
        verb = scope["method"].lower()
        if status == 304:
            self._tally.answers[(verb, 304)] += 1
            await _send(send, 304, headers, b"")
            return
        if entry.size > self._store.direct_bytes_max and verb == "get":
            self._send_elsewhere(scope, key, entry)
        if not entry.complete:
            entry = await self._store.complete(key, entry)
        ranges = _ranges(asked, entry) if verb == "get" else None
        status, described, layout = describe(ranges, entry)
        headers += described
        self._tally.answers[(verb, status)] += 1
        if verb == "head":
            await _send(send, status, headers, b"")
            return
        self._tally.sent_bytes += layout.length
        await send_value(
            receive,
            send,
            status=status,
            headers=headers,
            layout=layout,
            key=key,
            entry=entry,
            store=self._store,
            streams=self._streams,
        )

    def _send_elsewhere(self, scope: Scope, key: bytes, entry: Entry) -> None:
        """Raise Elsewhere where another machine has a value that is not small, unless the client
        wants it from here."""
        if b"redirect=0" not in scope["query_string"]:
            url = self._store.elsewhere(entry)
            if url is not None:
                path = f"{GET_PATH.decode()}{key_path(key)}"
                raise Elsewhere(f"{url}{path}?version={entry.version:016x}")

    # Writing.

    async def put(self, scope: Scope, receive: Receive, send: Send) -> None:
        """PUT /add_key/{key}[?temporal=DAYS | ?ttl=90s|15m|12h|7d][&replicas=N][&redirect=0|1]."""
        if scope["method"] != "PUT":
            raise _not_allowed(scope, ("PUT",))
        raw: bytes = scope["raw_path"][_ADD_LENGTH:]
        key = raw if PLAIN_KEY.fullmatch(raw) is not None else decode_key(raw)
        lifetime = replicas = 0
        parameters: dict[str, str] = {}
        if scope["query_string"]:
            parameters = parse_query(scope["query_string"], _PUT_QUERY)
            lifetime, replicas = lifetime_s(parameters), replicas_of(parameters)
            expires_at(lifetime, self._clock.now_ms())  # refused before the body is read
        asked: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _PUT_HEADERS:
                asked[name] = value if name not in asked else asked[name] + b", " + value
        condition = _put_condition(asked)
        content_type = _content_type(asked.get(b"content-type"))
        length = body_length(asked)
        if length is not None and length <= BODY_SMALL_BYTES:
            if b"expect" in asked:
                await self._refuse_early(Put(key, b"", content_type, 0, condition, replicas))
            body = await read_exactly(scope, receive, length, self._patience)
            expires_s = expires_at(lifetime, self._clock.now_ms()) if lifetime else 0
            put = Put(key, body, content_type, expires_s, condition, replicas)
            written = await self._store.put(put)
        else:
            put = Put(key, b"", content_type, 0, condition, replicas)
            redirect = parameters.get("redirect", "1" if b"expect" in asked else "0")
            if length is not None and redirect == "1":
                await self._upload_elsewhere(scope, put, length)
            pieces = read_pieces(scope, receive, length, self._patience)
            written = await self._put_large(put, pieces, length, lifetime)
        await self._answer_put(scope, send, raw, key, asked.get(b"host"), written)

    async def _upload_elsewhere(self, scope: Scope, put: Put, length: int) -> None:
        """Raise Elsewhere where another machine should take the bytes. They are not read here."""
        await self._refuse_early(put)
        if length > BLOB_BYTES_MAX:
            return
        url = self._store.upload_elsewhere(length, put.replicas)
        if url is not None:
            query = scope["query_string"].decode("latin-1")
            path = f"{ADD_PATH.decode()}{key_path(put.key)}"
            raise Elsewhere(f"{url}{path}?{query}" if query else f"{url}{path}")

    async def _put_large(
        self, put: Put, pieces: AsyncIterator[bytes], length: int | None, lifetime: int
    ) -> Written:
        """A value over BODY_SMALL_BYTES, or of unknown length."""
        if length is not None and length > BLOB_BYTES_MAX:
            raise ValueTooLarge(f"the value has {length} bytes; {BLOB_BYTES_MAX} are allowed")
        await self._refuse_early(put)
        if length is not None and length > SEGMENT_VALUE_BYTES_MAX:
            return await self._upload(put, [], pieces, lifetime, length)
        async with self._room.taken(length or SEGMENT_VALUE_BYTES_MAX):
            first: list[bytes] = []
            size = 0
            async for piece in pieces:
                first.append(piece)
                size += len(piece)
                if size > SEGMENT_VALUE_BYTES_MAX:
                    return await self._upload(put, first, pieces, lifetime, length)
            return await self._store.put(self._dated(put, b"".join(first), lifetime))

    async def _refuse_early(self, put: Put) -> None:
        """A condition that fails now fails before a large body is read, or asked for, which is as
        true as later; one that holds is decided by the store when the body is here."""
        if put.condition is None:
            return
        entry = self._store.lookup(put.key)
        if entry is not None and entry.expires_s:
            entry = await self._store.confirm(put.key, entry)
        if not put.condition.holds(None if entry is None else entry.version):
            raise ConditionFailed("the condition does not hold: nothing was changed")

    async def _upload(
        self,
        put: Put,
        first: list[bytes],
        pieces: AsyncIterator[bytes],
        lifetime: int,
        length: int | None,
    ) -> Written:
        upload = await self._store.upload(size=length or 0, replicas=put.replicas)
        try:
            while first:
                await upload.write(first.pop(0))
            async for piece in pieces:
                await upload.write(piece)
                if upload.size > BLOB_BYTES_MAX:
                    raise ValueTooLarge(f"the value is larger than {BLOB_BYTES_MAX} bytes")
            await upload.finish()
        except BaseException:  # cancellation too: the bytes must not stay on the disk
            await upload.abort()
            raise
        return await self._store.put_upload(self._dated(put, b"", lifetime), upload)

    def _dated(self, put: Put, value: bytes, lifetime: int) -> Put:
        """With its value, and its expiry counted from now: the body is here."""
        expires_s = expires_at(lifetime, self._clock.now_ms())
        return Put(put.key, value, put.content_type, expires_s, put.condition, put.replicas)

    async def _answer_put(
        self,
        scope: Scope,
        send: Send,
        raw: bytes,
        key: bytes,
        host: bytes | None,
        written: Written,
    ) -> None:
        tally = self._tally
        tally.received_bytes += written.size
        if key is raw and b"/." not in raw and raw[0] != 46:
            path, text = GET_PATH + raw, b'"%b"' % raw
        else:
            path = GET_PATH + key_path(key).encode()
            text = msgspec.json.encode(key.decode())
        base = self._base
        if base is None:
            base = base_url(scope["scheme"], host or b"")
        copies = b"%d/%d" % (written.copies, written.wanted)
        version = b"%016x" % written.version
        expires = b'"%b"' % rfc3339(written.expires_s).encode() if written.expires_s else b"null"
        body = (
            b'{"key":%b,"url":"%b%b","size":%d,"etag":"\\"%b\\"","version":"%b","copies":"%b",'
            b'"expires":%b}' % (text, base, path, written.size, version, version, copies, expires)
        )
        headers = [_JSON, (b"etag", b'"%b"' % version), (b"pulzar-copies", copies)]
        if written.created:
            tally.answers[_PUT_CREATED] += 1
            headers.append((b"location", path))
            await send({"type": "http.response.start", "status": 201, "headers": headers})
        else:
            tally.answers[_PUT_REPLACED] += 1
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:  # ASGI
        """DELETE /delete_key/{key}[?redirect=0|1]."""
        if scope["method"] != "DELETE":
            raise _not_allowed(scope, ("DELETE",))
        key: bytes = scope["raw_path"][_DELETE_LENGTH:]
        if PLAIN_KEY.fullmatch(key) is None:
            key = decode_key(key)
            text = msgspec.json.encode(key.decode())
        else:
            text = b'"%b"' % key
        if scope["query_string"]:
            parse_query(scope["query_string"], _QUERY)
        condition = None
        for name, _ in scope["headers"]:
            if name in _DELETE_HEADERS:
                condition = write_condition(_asked(scope, _DELETE_HEADERS))
                break
        written = await self._store.delete(Delete(key, condition))
        self._tally.answers[_DELETE_OK] += 1
        copies = b"%d/%d" % (written.copies, written.wanted)
        version = b"%016x" % written.version
        body = b'{"key":%b,"etag":"\\"%b\\"","version":"%b","copies":"%b"}' % (
            text,
            version,
            version,
            copies,
        )
        await _send(send, 200, [_JSON, (b"pulzar-copies", copies)], body)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _asked(scope: Scope, names: frozenset[bytes]) -> dict[bytes, bytes]:
    """Those of the headers; one that came several times is joined, as RFC 9110, 5.2 says."""
    asked: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in names:
            asked[name] = value if name not in asked else asked[name] + b", " + value
    return asked


def _validators(entry: Entry) -> Headers:
    headers = [
        (b"etag", b'"%016x"' % entry.version),
        (b"last-modified", http_date(entry.created_ms // 1000)),
        _RANGES,
    ]
    if entry.expires_s:
        headers.append((b"pulzar-expires", rfc3339(entry.expires_s).encode()))
    return headers


def _ranges(asked: dict[bytes, bytes], entry: Entry) -> list[tuple[int, int]] | None:
    header = asked.get(b"range")
    if header is None:
        return None
    if_range = asked.get(b"if-range", b"").decode("latin-1")
    if if_range and not if_range_holds(if_range, entry.version):
        return None
    return parse_range(header.decode("latin-1"), entry.size)


def _put_condition(asked: dict[bytes, bytes]) -> Condition | None:
    if b"content-range" in asked:
        raise InvalidParameter("a value is written as a whole: Content-Range has no meaning here")
    if b"if-match" in asked or b"if-none-match" in asked or b"if-unmodified-since" in asked:
        return write_condition(asked)
    return None


@lru_cache(maxsize=256)
def _content_type(raw: bytes | None) -> str:
    return "" if raw is None else check_content_type(raw.decode("latin-1"))


@lru_cache(maxsize=64)
def base_url(scheme: str, host: bytes) -> bytes:
    """What stands before a path; nothing where the client sent no sensible Host."""
    return b"%b://%b" % (scheme.encode(), host) if _HOST.fullmatch(host) else b""


def _not_allowed(scope: Scope, allow: tuple[str, ...]) -> MethodNotAllowed:
    methods = " or ".join(allow)
    return MethodNotAllowed(f"{scope['method']} is not for this path: use {methods}", allow=allow)
