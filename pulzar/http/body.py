"""Reads the body of a request: whole or not at all.

The body must be as long as Content-Length says; a client that goes away in the middle leaves
nothing behind, also where the length was not announced (chunked). Every wait for the next bytes is
bounded in time, every body in size.

The server reads nothing from the network that nobody asks for here: that is the backpressure, and
with `Expect: 100-continue` the client sends nothing before the first bytes are asked for.
"""

import asyncio
import math
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope

from pulzar.errors import BodyTimeout, BodyTruncated, NotReady, ValueTooLarge
from pulzar.http.patience import Patience
from pulzar.limits import DRAIN_TIMEOUT_S

_STATE = "pulzar.body"  # in the scope, for bodies that did not come in one piece
_BEGUN, _READ, _BROKEN = "begun", "read", "broken"


async def read_exactly(scope: Scope, receive: Receive, length: int, patience: Patience) -> bytes:
    """A body of known length. Raises BodyTruncated, BodyTimeout, NotReady."""
    if not length:
        return b""
    try:
        message = await patience.wait(receive())
    except TimeoutError:
        raise _timeout(scope, patience) from None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) != length:
        raise _truncated(scope, len(body), length)
    if len(body) == length:  # nearly always: a small body comes in one piece
        return body
    pieces = read_pieces(scope, receive, length, patience, got=len(body))
    return body + b"".join([piece async for piece in pieces])


async def read_pieces(
    scope: Scope, receive: Receive, length: int | None, patience: Patience, *, got: int = 0
) -> AsyncIterator[bytes]:
    """The pieces of a body as they come; `got` bytes came before. Raises as above."""
    scope[_STATE] = _BEGUN
    while got != length:
        try:
            message = await patience.wait(receive())
        except TimeoutError:
            raise _timeout(scope, patience) from None
        if message["type"] != "http.request":
            raise _truncated(scope, got, length)
        piece: bytes = message.get("body", b"")
        got += len(piece)
        if piece:
            yield piece
        if not message.get("more_body", False):
            if length is not None and got != length:
                raise _truncated(scope, got, length)
            break
    scope[_STATE] = _READ


async def read_all(
    scope: Scope, receive: Receive, length: int | None, *, bytes_max: int, patience: Patience
) -> bytes:
    """A body that may not be longer than `bytes_max`. Raises ValueTooLarge, and as above."""
    pieces = []
    size = 0
    async for piece in read_pieces(scope, receive, length, patience):
        size += len(piece)
        if size > bytes_max:
            raise ValueTooLarge(f"the body is larger than {bytes_max} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def left_to_read(scope: Scope) -> tuple[float, bool]:
    """How many bytes of the body may still come, at most, and whether they can be read: not where
    it is broken off, or where the client waits for a `100 Continue` that it will not get."""
    headers = {name: value for name, value in scope["headers"] if name in _FRAMING}
    state = scope.get(_STATE)
    if not headers or state == _READ:
        return 0, True
    length = body_length(headers)
    left = math.inf if length is None else length
    unsent = b"expect" in headers and state is None
    return left, not left or not (unsent or state == _BROKEN)


async def drain(receive: Receive) -> None:
    """Read the rest of a body and forget it, for a bounded time."""
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return


def body_length(headers: dict[bytes, bytes]) -> int | None:
    """The length that a request announces; None where it is chunked. hyper has checked both."""
    if b"transfer-encoding" in headers:
        return None
    return int(headers.get(b"content-length", b"0"))


_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"expect"))


def _truncated(scope: Scope, got: int, length: int | None) -> BodyTruncated:
    scope[_STATE] = _BROKEN
    if length is None:
        return BodyTruncated(f"the body ended in the middle, after {got} bytes: nothing was stored")
    return BodyTruncated(
        f"the body has {got} bytes, Content-Length says {length}: nothing was stored"
    )


def _timeout(scope: Scope, patience: Patience) -> BodyTimeout | NotReady:
    scope[_STATE] = _BROKEN
    if patience.is_over:
        return NotReady("the server is stopping: nothing was stored")
    return BodyTimeout(f"no byte of the body came for {patience.timeout_s:g} s: nothing was stored")
