"""Sends long answers in pieces, as their clients take them.

The next bytes are asked for when the client took the ones before. Each piece that is on its way is
held a few times over: by the server below us, by its queue, by us. So what is sent at once is
bounded in `Streams`: an answer has a place while it moves. Where others wait for one, a client that
takes nothing loses its place, and what was read ahead for it; when it goes on, it asks for a place
again, and the bytes are read again from where it stopped.

The server swallows what is sent to a client that has gone, so somebody listens for its going, and
the answer ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeAlias

from starlette.types import Message, Receive, Send

from pulzar.errors import PulzarError
from pulzar.http.patience import Patience, Room
from pulzar.limits import KIB, STREAM_BYTES, STREAMS_BYTES_MAX

Headers: TypeAlias = list[tuple[bytes, bytes]]

# Smaller pieces cost speed, larger ones memory for each slow client.
PIECE_BYTES = 256 * KIB
_CROWDED_PIECE_BYTES = 64 * KIB
_SLOW_S = 1.0  # a client that takes nothing for so long keeps no place that others wait for


class AnswerBroken(Exception):
    """An answer that had begun cannot be finished: the connection must be cut."""


class Streams:
    """Values that are too large for memory, on their way to clients."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._room = Room(STREAMS_BYTES_MAX, patience)
        self._moving: dict[_Stream, int] = {}  # those with a place; what they had sent at a tick
        self._timer: asyncio.TimerHandle | None = None

    async def send(
        self,
        receive: Receive,
        send: Send,
        start: Message,
        body: Callable[[int], AsyncGenerator[bytes, None]],
    ) -> None:
        """Send `start` and then `body(0)`; `body(n)` gives the same without the first n bytes.

        Raises what `body` raises for its first bytes, Unavailable, NotReady, AnswerBroken.
        """
        stream = _Stream(receive, send, start, self._patience)
        try:
            while not await self._turn(stream, body):
                pass
        except TimeoutError:
            raise untaken(self._patience) from None
        except PulzarError as error:
            if not stream.sent_bytes:  # there is still time to say so
                raise
            raise AnswerBroken(str(error)) from error
        finally:
            stream.end()

    async def _turn(
        self, stream: "_Stream", body: Callable[[int], AsyncGenerator[bytes, None]]
    ) -> bool:
        """Whether the stream came to its end before it lost its place."""
        if self._room.free < STREAM_BYTES:
            self._watch()
        await self._room.take(STREAM_BYTES)
        self._moving[stream] = -1
        try:
            return await stream.run(body(stream.sent_bytes), lambda: self._room.crowded)
        finally:
            if self._moving.pop(stream, None) is not None:
                self._room.give(STREAM_BYTES)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SLOW_S, self._tick)

    def _tick(self) -> None:
        """Take their places from streams that sent nothing since the tick before."""
        self._timer = None
        if not self._room.crowded:
            return
        for stream, sent_bytes in list(self._moving.items()):
            if sent_bytes != stream.sent_bytes:
                self._moving[stream] = stream.sent_bytes
            elif stream.give_way():
                del self._moving[stream]
                self._room.give(STREAM_BYTES)
        self._watch()


class _Stream:
    """One answer."""

    def __init__(self, receive: Receive, send: Send, start: Message, patience: Patience) -> None:
        self._receive = receive
        self._send = send
        self._start = start
        self._patience = patience
        self._gone: asyncio.Future[None] | None = None
        self._body: AsyncGenerator[bytes, None] | None = None
        self._chunk = b""
        self._is_waiting = False  # for the client
        self._closing: asyncio.Future[None] | None = None
        self.sent_bytes = 0

    async def run(self, body: AsyncGenerator[bytes, None], is_crowded: Callable[[], bool]) -> bool:
        """Send until the end, or until the client has gone: True; or until it has to give way."""
        self._body = body
        try:
            async for self._chunk in body:
                at = 0
                while at < len(self._chunk):
                    size = _CROWDED_PIECE_BYTES if is_crowded() else PIECE_BYTES
                    piece = self._chunk[at : at + size]
                    at += len(piece)
                    await self._hand_over(piece)
                    if self._gone is not None and self._gone.done():
                        return True
                    if self._closing is not None:
                        return False
            await self._send({"type": "http.response.body", "body": b""})
            return True
        finally:
            closing, self._closing, self._body, self._chunk = self._closing, None, None, b""
            await (body.aclose() if closing is None else closing)

    def give_way(self) -> bool:
        """Let go of what was read ahead, where the stream waits for its client."""
        if self._body is None or not self._is_waiting:
            return False
        self._closing = asyncio.ensure_future(self._body.aclose())
        self._body, self._chunk = None, b""
        return True

    def end(self) -> None:
        """Listen no more for the client's going."""
        if self._gone is not None:
            self._gone.cancel()

    async def _hand_over(self, piece: bytes) -> None:
        if self._gone is None:
            await self._send(self._start)
            self._gone = asyncio.ensure_future(until_gone(self._receive))
        self.sent_bytes += len(piece)
        message = {"type": "http.response.body", "body": piece, "more_body": True}
        self._is_waiting = True
        await self._patience.wait(self._send(message))
        self._is_waiting = False


async def send_whole(
    receive: Receive, send: Send, content_type: str, parts: list[bytes], patience: Patience
) -> None:
    """Send an answer 200 that is in memory, and let go of each part that was taken. Raises
    AnswerBroken."""
    length = sum(map(len, parts))
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if length <= PIECE_BYTES:
        await send({"type": "http.response.body", "body": b"".join(parts)})
        return
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        for piece in _pieces(parts):
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            await patience.wait(send(message))
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        raise untaken(patience) from None
    finally:
        gone.cancel()


def _pieces(parts: list[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces; takes the parts out of the list."""
    parts.reverse()
    piece = bytearray()
    while parts:
        part = parts.pop()
        at = 0
        while at < len(part):
            end = at + PIECE_BYTES - len(piece)
            piece += part[at:end]
            at = end
            if len(piece) == PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
    if piece:
        yield bytes(piece)


def untaken(patience: Patience) -> AnswerBroken:
    """Why an answer ended in the middle."""
    if patience.is_over:
        return AnswerBroken("the server is stopping")
    return AnswerBroken(f"the client took no byte for {patience.timeout_s:g} s")


async def until_gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
