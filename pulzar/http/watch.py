"""GET /watch/{prefix}: what happens to the keys under a prefix, as it happens.

Server-Sent Events, or one JSON object per line where the client accepts application/x-ndjson:

    id: 000001000000002a                      {"event":"put","id":"000001000000002a","key":...}
    event: put
    data: {"key":"conf/a","version":...}

put and delete are what happens to a key. ready comes first and says where the client is; reset
says that what happened before it cannot be told: list the keys, and go on. A client that comes back
sends the last id that it has seen as Last-Event-ID, or ?after=ID. Where nothing happens, a comment
or an empty line shows that the connection lives.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.errors import InvalidParameter, PulzarError
from pulzar.http.application import Paths
from pulzar.http.dates import rfc3339, rfc3339_ms
from pulzar.http.key_codec import decode_prefix
from pulzar.http.listing import LINES_TYPE
from pulzar.http.patience import Patience
from pulzar.http.problem import shown
from pulzar.http.query import parse_query
from pulzar.http.sending import AnswerBroken, untaken, until_gone
from pulzar.limits import CONTENT_TYPE_DEFAULT, WATCH_PING_S
from pulzar.varidb.feed import Event, Place
from pulzar.varidb.watching import Mark, Watchable, watch

PATH = b"/watch/"
PATHS: Paths = {"/watch/{prefix}": (("GET",), "watch")}

_PLACE = re.compile(r"([0-9a-f]{16})(?:\.([0-9]{1,9}))?")
_EVENTS_TYPE = "text/event-stream"
_NO_CACHE = (b"cache-control", b"no-cache")
_encoder = msgspec.json.Encoder()


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said of an event. Of a delete, key and version; `expires` is left out for never."""

    event: str = ""
    id: str = ""
    key: str = ""
    version: str = ""
    etag: str = ""
    size: int | None = None
    created: str = ""
    expires: str = ""
    content_type: str = ""


class Watches:
    """Watches prefixes of one store. `ping_s` is between two signs of life."""

    def __init__(
        self, store: Watchable, *, patience: Patience, ping_s: float = WATCH_PING_S
    ) -> None:
        self._store = store
        self._patience = patience
        self._ping_s = ping_s

    @property
    def endpoints(self) -> dict[str, ASGIApp]:
        """What answers at PATHS."""
        return {"/watch/{prefix}": self.get}

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /watch/{prefix}. Raises InvalidKey, InvalidParameter, Unavailable."""
        prefix = decode_prefix(scope["raw_path"][len(PATH) :])
        parameters = parse_query(scope["query_string"], ("after",))
        headers = Request(scope).headers
        after = _place(parameters.get("after") or headers.get("last-event-id", ""))
        lines = LINES_TYPE in headers.get("accept", "")
        told = watch(self._store.feed, self._store.history, prefix, after, ping_s=self._ping_s)
        first = await anext(told)  # refused while there is still time to say so
        gone = asyncio.ensure_future(until_gone(receive))
        turn: asyncio.Future[Sequence[Event | Mark] | None] | None = None
        try:
            content_type = LINES_TYPE if lines else _EVENTS_TYPE
            start = [(b"content-type", content_type.encode()), _NO_CACHE]
            await send({"type": "http.response.start", "status": 200, "headers": start})
            items: Sequence[Event | Mark] | None = first
            while items is not None and not gone.done():
                body = _written(items, lines=lines)
                message = {"type": "http.response.body", "body": body, "more_body": True}
                await self._patience.wait(send(message))
                turn = asyncio.ensure_future(_next(told))
                await asyncio.wait((turn, gone), return_when=asyncio.FIRST_COMPLETED)
                items = turn.result() if turn.done() else None
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            raise untaken(self._patience) from None
        except PulzarError as error:
            raise AnswerBroken(str(error)) from error
        finally:
            gone.cancel()
            if turn is not None and not turn.done():
                turn.cancel()
                await asyncio.wait([turn])
            await told.aclose()


async def _next(
    told: AsyncGenerator[Sequence[Event | Mark], None],
) -> Sequence[Event | Mark] | None:
    return await anext(told, None)


def _place(text: str) -> Place | None:
    """Where a client was; None where it says nothing. Raises InvalidParameter."""
    if not text:
        return None
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InvalidParameter(
            "Last-Event-ID or after must be the id of an event, such as 000001000000002a, not "
            f"{shown(text)}"
        )
    return Place(int(found[1], 16), int(found[2] or 0))


def _written(items: Sequence[Event | Mark], *, lines: bool) -> bytes:
    """Items as they are sent; a sign of life where there are none."""
    if not items:
        return b"\n" if lines else b":\n\n"
    return b"".join([_line(item) if lines else _event(item) for item in items])


def _line(item: Event | Mark) -> bytes:
    name, told = _told(item)
    told = msgspec.structs.replace(told, event=name, id=str(item.place))
    return _encoder.encode(told) + b"\n"


def _event(item: Event | Mark) -> bytes:
    name, told = _told(item)
    place = str(item.place).encode()
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (place, name.encode(), _encoder.encode(told))


def _told(item: Event | Mark) -> tuple[str, Told]:
    if isinstance(item, Mark):
        return item.kind, Told()
    version = f"{item.version:016x}"
    if item.is_delete:
        return "delete", Told(key=item.key.decode(), version=version)
    return "put", Told(
        key=item.key.decode(),
        version=version,
        etag=f'"{version}"',
        size=item.size,
        created=rfc3339_ms(item.created_ms),
        expires=rfc3339(item.expires_s) if item.expires_s else "",
        content_type=item.content_type or CONTENT_TYPE_DEFAULT,
    )
