"""Reads the body of a request: whole or not at all.

The body must be as long as Content-Length says; a client that goes away in the middle leaves
nothing behind, also where the length was not announced (chunked). Every wait for the next bytes is
bounded in time, every body in size.

The server reads nothing from the network that nobody asks for here: that is the backpressure, and
with `Expect: 100-continue` the client sends nothing before the first bytes are asked for.
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope

from pulzar.errors import BodyTimeout, BodyTruncated, ValueTooLarge
from pulzar.http.patience import Patience
from pulzar.limits import DRAIN_BYTES_MAX, DRAIN_TIMEOUT_S

_ENDED = "pulzar.body_ended"  # in the scope: nothing more is to be read


async def read_exactly(scope: Scope, receive: Receive, length: int, patience: Patience) -> bytes:
    """A body of known length. Raises BodyTruncated, BodyTimeout."""
    if not length:
        return b""
    try:
        message = await patience.wait(receive())
    except TimeoutError:
        raise _timeout(scope, patience) from None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        scope[_ENDED] = True
        if len(body) != length:
            raise _truncated(scope, len(body), length)
    if len(body) == length:  # nearly always: a small body comes in one piece
        return body
    pieces = read_pieces(scope, receive, length, patience, got=len(body))
    return body + b"".join([piece async for piece in pieces])


async def read_pieces(
    scope: Scope, receive: Receive, length: int | None, patience: Patience, *, got: int = 0
) -> AsyncIterator[bytes]:
    """The pieces of a body as they come; `got` bytes came before. Raises as above."""
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
            scope[_ENDED] = True
            if length is not None and got != length:
                raise _truncated(scope, got, length)
            return


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


async def drain(scope: Scope, receive: Receive) -> None:
    """Read what a refused client still sends, up to a bound, so that it sees the answer.

    A client that waits for `100 Continue` sends nothing, and is not asked to.
    """
    names = {name: value for name, value in scope["headers"] if name in _FRAMING}
    if not names or _ENDED in scope or names.get(b"content-length") == b"0" or b"expect" in names:
        return
    left = DRAIN_BYTES_MAX
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def body_length(headers: dict[bytes, bytes]) -> int | None:
    """The length that a request announces; None where it is chunked. hyper has checked both."""
    if b"transfer-encoding" in headers:
        return None
    return int(headers.get(b"content-length", b"0"))


_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"expect"))


def _truncated(scope: Scope, got: int, length: int | None) -> BodyTruncated:
    scope[_ENDED] = True
    if length is None:
        return BodyTruncated(f"the body ended in the middle, after {got} bytes: nothing was stored")
    return BodyTruncated(
        f"the body has {got} bytes, Content-Length says {length}: nothing was stored"
    )


def _timeout(scope: Scope, patience: Patience) -> BodyTimeout:
    scope[_ENDED] = True
    return BodyTimeout(f"no byte of the body came for {patience.timeout_s:g} s: nothing was stored")
