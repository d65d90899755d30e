"""Sends a value: all of it, one range, or several; from memory or as a stream.

Once an answer has begun it cannot become an error. If the disk fails then, the connection is cut:
the client sees fewer bytes than Content-Length said.
"""

import secrets
from collections.abc import AsyncGenerator
from functools import partial

from starlette.types import Receive, Send

from pulzar.http.ranges import Layout, Piece, content_range, multipart
from pulzar.http.sending import Headers, Streams
from pulzar.limits import CONTENT_TYPE_DEFAULT, SEGMENT_VALUE_BYTES_MAX
from pulzar.varidb.entry import Entry, Values


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
    store: Values,
    streams: Streams,
) -> None:
    """Send the answer. Raises what `Store.read` and `Streams.send` raise."""
    start = {"type": "http.response.start", "status": status, "headers": headers}
    if entry.size > SEGMENT_VALUE_BYTES_MAX:
        await streams.send(receive, send, start, partial(_body, layout, key, entry, store))
        return
    value = entry.inline if entry.inline is not None else await store.read(key, entry)
    pieces = [piece.lead + value[piece.start : piece.end] for piece in layout.pieces]
    await send(start)
    await send({"type": "http.response.body", "body": b"".join(pieces) + layout.tail})


async def _body(
    layout: Layout, key: bytes, entry: Entry, store: Values, skip: int
) -> AsyncGenerator[bytes, None]:
    """The bytes of the answer, without the first `skip`."""
    for piece in layout.pieces:
        if skip < len(piece.lead):
            yield piece.lead[skip:]
        skip = max(0, skip - len(piece.lead))
        if skip < piece.end - piece.start:
            chunks = store.chunks(key, entry, start=piece.start + skip, end=piece.end)
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()  # now, not when it is collected: it holds a file
        skip = max(0, skip - (piece.end - piece.start))
    if skip < len(layout.tail):
        yield layout.tail[skip:]
