"""Sends a value: all of it, one range, or several; from memory or as a stream.

Small values are sent in one message. Larger ones are streamed with backpressure: the next bytes are
read from the disk when the client took the ones before. The server swallows what is sent to a
client that has gone, so somebody listens for its going, and the stream ends.

Once an answer has begun it cannot become an error. If the disk fails then, the connection is cut:
the client sees fewer bytes than Content-Length said.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from starlette.types import Receive, Send

from pulzar.errors import PulzarError
from pulzar.http.patience import Patience
from pulzar.http.ranges import Layout, Piece, content_range, multipart
from pulzar.limits import CONTENT_TYPE_DEFAULT, KIB, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.entry import Entry, Store

# Granian queues several messages for a client that does not take them. Smaller pieces cost speed,
# larger ones memory for each slow reader.
_PIECE_BYTES = 256 * KIB

Headers = list[tuple[bytes, bytes]]


class AnswerBroken(Exception):
    """An answer that had begun cannot be finished: the connection must be cut."""


def describe(ranges: list[tuple[int, int]] | None, entry: Entry) -> tuple[int, Headers, Layout]:
    """Status, the headers that describe the body, and what the body is made of."""
    content_type = (entry.content_type or CONTENT_TYPE_DEFAULT).encode()
    headers: Headers = []
    if ranges is None:
        status, layout = 200, Layout((Piece(0, entry.size),))
    elif len(ranges) == 1:
        status, layout = 206, Layout((Piece(*ranges[0]),))
        headers.append((b"content-range", content_range(*ranges[0], entry.size)))
    else:
        boundary = secrets.token_hex(12).encode()
        status = 206
        layout = multipart(ranges, size=entry.size, content_type=content_type, boundary=boundary)
        content_type = b"multipart/byteranges; boundary=" + boundary
    headers += [(b"content-type", content_type), (b"content-length", b"%d" % layout.length)]
    return status, headers, layout


async def send_value(
    receive: Receive,
    send: Send,
    *,
    status: int,
    headers: Headers,
    layout: Layout,
    key: bytes,
    entry: Entry,
    store: Store,
    patience: Patience,
) -> None:
    """Send the answer. Raises what `Store.read` raises, and AnswerBroken."""
    start = {"type": "http.response.start", "status": status, "headers": headers}
    if entry.size > SEGMENT_VALUE_BYTES_MAX:
        body = _body(layout, key, entry, store)
        async with aclosing(body):
            await _stream(receive, send, start, body, patience)
        return
    value = entry.inline if entry.inline is not None else await store.read(key, entry)
    pieces = [piece.lead + value[piece.start : piece.end] for piece in layout.pieces]
    await send(start)
    await send({"type": "http.response.body", "body": b"".join(pieces) + layout.tail})


async def _body(
    layout: Layout, key: bytes, entry: Entry, store: Store
) -> AsyncGenerator[bytes, None]:
    for piece in layout.pieces:
        if piece.lead:
            yield piece.lead
        chunks = store.chunks(key, entry, start=piece.start, end=piece.end)
        try:
            async for chunk in chunks:
                for at in range(0, len(chunk), _PIECE_BYTES):
                    yield chunk[at : at + _PIECE_BYTES]
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()  # now, not when it is collected: it holds a file
    if layout.tail:
        yield layout.tail


async def _stream(
    receive: Receive,
    send: Send,
    start: dict[str, object],
    body: AsyncIterator[bytes],
    patience: Patience,
) -> None:
    first = await anext(body)  # where the value is damaged there is still time to say so
    await send(start)
    await send({"type": "http.response.body", "body": first, "more_body": True})
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        async for chunk in body:
            message = {"type": "http.response.body", "body": chunk, "more_body": True}
            await patience.wait(send(message))
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        if patience.is_over:
            raise AnswerBroken("the server is stopping") from None
        raise AnswerBroken(f"the client took no byte for {patience.timeout_s:g} s") from None
    except PulzarError as error:
        raise AnswerBroken(str(error)) from error
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
