"""The synchronous client: one `Client` per server, usable from many threads.

    with Client("http://127.0.0.1:9000") as client:
        written = client.put("a/b", b"value")
        client.put("a/b", open("file", "rb"), if_match=written.etag)
        client.get("a/b")

Every method raises only the errors of `pulzar.errors`, those of the server under the same
names. What is not said by the server but by the network:

- Nothing answers: Unavailable. Nothing was sent, so any request is tried again, for `patience_s`.
- A connection lost, or no answer in `timeout_s`: a read is tried again for `patience_s`, then
  Unavailable; a write is never tried again but raises OutcomeUnknown, for it may have happened.
- 503 to a read is tried again for `patience_s` too; every other answer is taken as it is.

Values go up and down in pieces of at most 1 MiB, so memory does not grow with their size.
"""

import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, cast

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    LocationValueError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from pulzar.client import batch as batches
from pulzar.client import requests
from pulzar.client.batch import Operation, Result
from pulzar.client.requests import Answer, Listed, Request, Stat, Written
from pulzar.clock import Clock, SystemClock
from pulzar.errors import BodyTruncated, OutcomeUnknown, PulzarError, Unavailable, UsageError
from pulzar.limits import MIB

CHUNK_BYTES = 1 * MIB
SEND_BYTES = 256 * 1024  # read from a file and given to the socket at once
CONNECT_TIMEOUT_S = 5.0
_PATIENT = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=None)
TIMEOUT_S = 60.0  # without a byte from the server
PATIENCE_S = 1.0
PAUSE_S = 0.05  # between two tries
REDIRECTS_MAX = 5


class Readable(Protocol):
    """What a value is read from, such as a file opened in binary."""

    def read(self, length: int, /) -> bytes:
        """At most `length` bytes; none at the end."""


class Client:
    """Talks to the server at `url` (http://host:port).

    `timeout_s` bounds the wait for each piece of an answer, `patience_s` the time of tries after
    the first. `connections` are kept open for reuse.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        connections: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        if not _is_of_server(self.url):
            raise UsageError(f"{url!r} is not the URL of a server, such as http://127.0.0.1:9000")
        self._patience_s = patience_s
        self._clock = clock or SystemClock()
        self._pause = threading.Event()  # never set: a wait that tests need not patch
        self._timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s)
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=connections,
            retries=False,
            blocksize=SEND_BYTES,
            timeout=self._timeout,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def put(
        self,
        key: str,
        value: bytes | Readable,
        *,
        size: int | None = None,
        content_type: str = "",
        ttl: str | int | None = None,
        temporal: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Written:
        """Store bytes, or what a file opened in binary has from its position on.

        `size` is how many bytes the file object will give; without it the body is sent chunked.
        `ttl` is seconds or text such as "15m", `temporal` days. Returns when the value is
        durable. Raises ConditionFailed, InvalidKey, InvalidParameter, ValueTooLarge, OutOfSpace,
        BodyTruncated (the file ended before `size`), Unavailable, OutcomeUnknown.
        """
        request = requests.put(
            key,
            content_type=content_type,
            ttl=ttl,
            temporal=temporal,
            if_match=if_match,
            if_none_match=if_none_match,
        )
        body = value if isinstance(value, bytes) else Body(value, size)
        return requests.read_written(self._write(request, body, size=size))

    def delete(
        self, key: str, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> Written:
        """Delete a key. Returns when that is durable. Raises KeyNotFound, ConditionFailed,
        InvalidKey, Unavailable, OutcomeUnknown."""
        request = requests.delete(key, if_match=if_match, if_none_match=if_none_match)
        return requests.read_written(self._write(request, b""))

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> bytes:
        """A whole value, or its bytes `start`..`end` (exclusive), in memory. Raises as `open`."""
        with self.open(key, start=start, end=end) as value:
            return value.read()

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> "Value":
        """Begin to read a value of any size. The caller closes it (use `with`).

        Raises KeyNotFound, ConditionFailed (also when `if_none_match` names what is there),
        RangeNotSatisfiable, InvalidKey, Damage, Unavailable.
        """
        request = requests.get(
            key, start=start, end=end, if_match=if_match, if_none_match=if_none_match
        )
        response = self._read_response(request)
        try:
            answer = _answer(response, body=b"")
            if not 200 <= response.status < 300:
                raise requests.error_of(_answer(response, body=self._rest(response)))
            return Value(requests.read_stat(key, answer), response)
        except PulzarError:
            response.close()
            raise

    def stat(self, key: str) -> Stat:
        """What a key holds. Raises KeyNotFound, InvalidKey, Unavailable."""
        answer = self._read(requests.stat(key))
        if 400 <= answer.status < 500 and answer.status != 404:
            # The answer to HEAD has no body: ask again for the reason, and for one byte at most.
            answer = self._read(requests.get(key, end=1))
        return requests.read_stat(key, answer)

    def list_keys(
        self, prefix: str = "", *, delimiter: str | None = None, after: str | None = None
    ) -> Iterator[Listed]:
        """All live keys under a prefix in the order of their bytes, a page at a time.

        With a delimiter, keys that have it behind the prefix are folded into one item each time.
        Keys written while the iterator runs may or may not be seen.
        """
        while True:
            request = requests.list_keys(prefix, after=after, delimiter=delimiter)
            page = requests.read_page(self._read(request))
            yield from page.items
            if page.next is None:
                return
            after = page.next

    def batch(self, operations: Iterable[Operation]) -> list[Result]:
        """Many puts, gets and deletes in one request; not atomic, one result each, in order.

        A result is an error of `pulzar.errors` where its operation failed. Raises UsageError for
        a batch that is malformed or too large, Unavailable, OutcomeUnknown.
        """
        wanted = list(operations)
        answer = self._write(batches.request(wanted), None)
        return batches.read_results(answer, wanted)

    def status(self) -> dict[str, int]:
        """The numbers of /admin/status; `entries` counts the live keys."""
        return requests.read_status(self._read(requests.status()))

    def compact(self) -> dict[str, int]:
        """Rewrite every sealed segment that holds superseded records; what was done, by name."""
        return requests.read_compacted(self._write(requests.compact(), b""))

    def admin(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The JSON that /admin/... answers, as it is. Raises the server's errors, Unavailable."""
        return self.ask(method, f"/admin/{path}", body)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The JSON that a path answers, as it is. Raises the server's errors, Unavailable."""
        request = requests.ask(method, path, body)
        answer = self._read(request) if method == "GET" else self._write(request, None)
        return requests.read_json(answer)

    def text(self, path: str, *, accept: str = "", patient: bool = True) -> Iterator[bytes]:
        """What a path answers, in pieces, as they come; where `patient`, it may take as long as it
        likes. Raises the server's errors, Unavailable."""
        headers = {"Accept": accept} if accept else {}
        try:
            response = self._send(Request("GET", path, headers), None, patient=patient)
        except HTTPError as error:
            raise Unavailable(self._lost(error)) from error
        try:
            if response.status != 200:
                raise requests.error_of(_answer(response, body=self._rest(response)))
            yield from response.stream(CHUNK_BYTES)
        except HTTPError as error:
            raise Unavailable(self._lost(error)) from error
        finally:
            response.close()

    def ready(self) -> None:
        """Return where the server can serve; raises NotReady or Unavailable where not."""
        requests.read_ready(self._read(requests.ready()))

    def _read(self, request: Request) -> Answer:
        response = self._read_response(request)
        return _answer(response, body=self._rest(response))

    def _rest(self, response: BaseHTTPResponse) -> bytes:
        try:
            return _read(response)
        except HTTPError as error:
            raise Unavailable(self._lost(error)) from error

    def _read_response(self, request: Request) -> BaseHTTPResponse:
        """Send a request that changes nothing, again and again while patience lasts."""
        deadline = self._clock.monotonic_s() + self._patience_s
        while True:
            try:
                response = self._send_on(request)
            except Unavailable:
                if self._clock.monotonic_s() >= deadline:
                    raise
            except HTTPError as error:
                if self._clock.monotonic_s() >= deadline:
                    raise Unavailable(self._lost(error)) from error
            else:
                if response.status != 503 or self._clock.monotonic_s() >= deadline:
                    return response
                response.drain_conn()
                response.release_conn()
            self._pause.wait(PAUSE_S)

    def _send_on(self, request: Request) -> BaseHTTPResponse:
        """One try of a read, also where the value is on another machine: 307 says where."""
        response = self._send(request, None)
        for _ in range(REDIRECTS_MAX):
            location = response.headers.get("location", "")
            if response.status != 307 or not location.startswith("http://"):
                break
            response.drain_conn()
            response.release_conn()
            response = self._send(request, None, url=location)
        return response

    def _write(
        self, request: Request, body: "bytes | Body | None", *, size: int | None = None
    ) -> Answer:
        """Send a request that changes something, once; again only where nothing was sent."""
        deadline = self._clock.monotonic_s() + self._patience_s
        while True:
            try:
                response = self._send(request, body, size=size)
                return _answer(response, body=_read(response))
            except Unavailable:
                if self._clock.monotonic_s() >= deadline:
                    raise
            except HTTPError as error:
                raise OutcomeUnknown(
                    f"{self._lost(error)}; the write may or may not have happened"
                ) from error
            self._pause.wait(PAUSE_S)

    def _send(
        self,
        request: Request,
        body: "bytes | Body | None",
        *,
        size: int | None = None,
        url: str = "",
        patient: bool = False,
    ) -> BaseHTTPResponse:
        """One try; `patient` where the answer may take as long as it likes. Raises
        Unavailable where no connection was made, HTTPError where one broke."""
        headers = dict(request.headers)
        if size is not None:
            headers["Content-Length"] = str(size)
        try:
            return self._pool.request(
                request.method,
                url or self.url + request.path,
                body=cast(Any, body) if body is not None else request.body or None,
                headers=headers,
                preload_content=False,
                redirect=False,
                timeout=_PATIENT if patient else self._timeout,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            where = url.partition("/get_key/")[0] or self.url
            raise Unavailable(f"nothing answers at {where}; is the server running?") from error
        except LocationValueError as error:
            raise UsageError(f"{self.url!r} is not the URL of a server: {error}") from error

    def _lost(self, error: HTTPError) -> str:
        if isinstance(error, ReadTimeoutError):
            return f"{self.url} did not answer in time"
        if isinstance(error, SSLError):
            return f"what answers at {self.url} does not speak TLS; try http://"
        return f"the connection to {self.url} was lost before its answer"


class Value:
    """A value on its way here. `stat` says what it is; iterating gives its bytes, in pieces of at
    most 1 MiB. Raises Unavailable where the connection is lost before the last byte."""

    def __init__(self, stat: Stat, response: BaseHTTPResponse) -> None:
        self.stat = stat
        self._response = response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.stream(CHUNK_BYTES, decode_content=False)
        except HTTPError as error:
            raise Unavailable("the connection was lost in the middle of the value") from error

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self)

    def close(self) -> None:
        """Give the connection back, or end it where bytes are still on their way."""
        if self._response.length_remaining == 0:
            self._response.release_conn()
        else:
            self._response.close()


class Body:
    """A file object as the body of one request: exactly `size` bytes of it, or all of them."""

    def __init__(self, file: Readable, size: int | None) -> None:
        self._file = file
        self._left = size

    def read(self, length: int) -> bytes:
        """The next bytes. Raises BodyTruncated at an early end, UsageError for a bad file."""
        wanted = length if self._left is None else min(length, self._left)
        if wanted == 0:
            return b""
        try:
            chunk = self._file.read(wanted)
        except OSError as error:
            raise UsageError(f"cannot read the value: {error}") from error
        if self._left is not None:
            if not chunk:
                raise BodyTruncated(f"the value ended {self._left} bytes early; nothing is stored")
            self._left -= len(chunk)
        return chunk


def _is_of_server(url: str) -> bool:
    try:
        parts = urllib3.util.parse_url(url)
    except LocationParseError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host) and parts.query is None


def _answer(response: BaseHTTPResponse, *, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, body)


def _read(response: BaseHTTPResponse) -> bytes:
    """The rest of a small answer; the connection goes back to the pool."""
    try:
        return response.read(decode_content=False)
    finally:
        response.release_conn()
