"""HTTP/1.1 by hand: requests as bytes, broken ones too, and answers as they come off the socket."""

import contextlib
import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
PAUSE = threading.Event()  # never set


class Answer(NamedTuple):
    """`headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to the server at `url`."""

    def __init__(self, url: str, *, receive_bytes: int = 0) -> None:
        """`receive_bytes` makes the buffer small in which answers wait to be read."""
        address = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((address.hostname, address.port))
        self._file = self.socket.makefile("rb")

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
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """End it as a client does whose process was killed: the server gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def finish(self) -> None:
        """Send no more, and go on reading."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the server ended it before
                raise

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def send_what_fits(self, content: bytes) -> int:
        """Send until the server listens no more; how much it took."""
        sent = 0
        try:
            while sent < len(content):
                sent += self.socket.send(content[sent : sent + 65_536])
        except (BrokenPipeError, ConnectionResetError):
            pass
        return sent

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer. Raises ConnectionError where there is none."""
        status, headers = self.answer_head()
        if head or status in (100, 204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, self._chunks())
        length = headers.get("content-length")
        body = self._file.read() if length is None else self.read(int(length))
        return Answer(status, headers, body)

    def answer_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        line = self._file.readline()
        found = re.fullmatch(rb"HTTP/1\.[01] ([0-9]{3}) [^\r\n]*\r\n", line)
        if found is None:
            raise ConnectionError(f"no answer but {line!r}")
        headers = {}
        while (line := self._file.readline()) != b"\r\n":
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise ConnectionError(f"an answer ended in its head: {line!r}")
            headers[name.lower()] = value.strip()
        return int(found[1]), headers

    def read(self, length: int) -> bytes:
        """The next bytes of a body. Raises ConnectionError where it ends early."""
        body = self._file.read(length)
        if len(body) != length:
            raise ConnectionError(f"the body ended after {len(body)} of {length} bytes")
        return body

    def is_ended(self) -> bool:
        """Whether the server has nothing more to say and closed the connection."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def everything(self) -> bytes:
        """All that comes until the server closes the connection."""
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self._file.read1(65_536):
                said += piece
        return said

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._file.readline(), 16):
            body += self.read(size)
            self._file.readline()
        self._file.readline()
        return body


def request(
    method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    """A request with exactly these headers, and Host."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def put(key: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A PUT of `body`, which may be less than the `length` that it announces."""
    announced = len(body) if length is None else length
    return request("PUT", f"/add_key/{key}", f"Content-Length: {announced}", *headers, body=body)


def get(key: str, *headers: str) -> bytes:
    return request("GET", f"/get_key/{key}", *headers)


def chunked(body: bytes, *sizes: int) -> bytes:
    """A body in chunks of these sizes, over and over, with the last chunk."""
    framed: list[bytes] = []
    at = 0
    while at < len(body):
        chunk = body[at : at + sizes[len(framed) % len(sizes)]]
        framed.append(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        at += len(chunk)
    return b"".join(framed) + b"0\r\n\r\n"


def exchange(url: str, content: bytes) -> Answer:
    """One request on a connection of its own. It may be answered before it was all sent."""
    with Wire(url) as wire:
        wire.send_what_fits(content)
        return wire.answer()


def value(url: str, key: str) -> bytes | None:
    """What a key holds; None for a 404."""
    answer = exchange(url, get(key))
    assert answer.status in (200, 404), answer
    return answer.body if answer.status == 200 else None


def open_requests(url: str) -> int:
    """How many requests the server has at work, but for this one."""
    return _metric(url, "pulzar_http_requests_open") - 1


def answered(url: str, status: int) -> int:
    """How often the server has given this status."""
    return _metric(url, f'pulzar_http_answers_total{{[^}}]*status="{status}"[^}}]*}}')


def _metric(url: str, pattern: str) -> int:
    text = exchange(url, request("GET", "/metrics")).body.decode()
    return sum(int(float(number)) for number in re.findall(f"(?m)^{pattern} (.*)$", text))


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        PAUSE.wait(0.01)
