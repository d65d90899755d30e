"""GET /list_keys/{prefix}: one page of keys in byte order, as JSON or one line per key."""

from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pulzar.errors import InvalidParameter, PulzarError
from pulzar.http.dates import rfc3339, rfc3339_ms
from pulzar.http.key_codec import check_key, decode_prefix
from pulzar.http.patience import Patience, Room
from pulzar.http.query import list_limit, parse_query
from pulzar.http.sending import send_whole
from pulzar.limits import (
    ANSWER_SMALL_BYTES,
    CONTENT_TYPE_BYTES_MAX,
    CONTENT_TYPE_DEFAULT,
    KEY_BYTES_MAX,
)
from pulzar.varidb.entry import Entry, Listing, Store

PATH = b"/list_keys/"
LINES_TYPE = "application/x-ndjson"

_KNOWN = ("after", "delimiter", "limit")
# The longest line: quotes and backslashes are written as two characters.
_LISTED_BYTES = 2 * (KEY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX) + 256
_encoder = msgspec.json.Encoder()


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One key. `expires` is None for never."""

    key: str
    size: int
    etag: str
    version: str
    created: str
    expires: str | None
    content_type: str


class Page(msgspec.Struct, frozen=True):
    """One page; `next` is the `after` of the next one, None at the end."""

    keys: list[Listed]
    prefixes: list[str]
    next: str | None


class Prefix(msgspec.Struct, frozen=True):
    """A line for a group of keys."""

    prefix: str


class Next(msgspec.Struct, frozen=True):
    """The last line, where there is a next page."""

    next: str


class Lister:
    """Lists keys. `answers` is room for pages."""

    def __init__(self, store: Store, *, patience: Patience, answers: Room) -> None:
        self._store = store
        self._patience = patience
        self._answers = answers

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /list_keys/{prefix}. Raises InvalidKey, InvalidParameter, Unavailable."""
        prefix = decode_prefix(scope["raw_path"][len(PATH) :])
        parameters = parse_query(scope["query_string"], _KNOWN)
        after, delimiter = parameters.get("after"), parameters.get("delimiter")
        if delimiter == "":
            raise InvalidParameter("delimiter is empty: give a text such as /, or leave it out")
        start_after = check_key(after).encode() if after else None
        limit = list_limit(parameters)
        async with AsyncExitStack() as held:
            page_bytes = limit * _LISTED_BYTES
            if page_bytes > ANSWER_SMALL_BYTES:
                await held.enter_async_context(self._answers.taken(page_bytes))
            page = await self._page(
                self._store.list_keys(
                    prefix,
                    after=start_after,
                    limit=limit,
                    delimiter=None if delimiter is None else delimiter.encode(),
                )
            )
            lines = LINES_TYPE in Request(scope).headers.get("accept", "")
            parts = [_lines(page) if lines else _encoder.encode(page)]
            del page
            await send_whole(
                receive, send, LINES_TYPE if lines else "application/json", parts, self._patience
            )

    async def _page(self, listing: Listing) -> Page:
        return Page(
            keys=[_listed(key, await self._complete(key, entry)) for key, entry in listing.entries],
            prefixes=[group.decode() for group in listing.prefixes],
            next=None if listing.next is None else listing.next.decode(),
        )

    async def _complete(self, key: bytes, entry: Entry) -> Entry:
        """With its content type: after a rebuild that takes a read of each key, once. What cannot
        be read is listed without it."""
        if entry.complete:
            return entry
        try:
            return await self._store.complete(key, entry)
        except PulzarError:
            return entry


def _listed(key: bytes, entry: Entry) -> Listed:
    version = f"{entry.version:016x}"
    return Listed(
        key=key.decode(),
        size=entry.size,
        etag=f'"{version}"',
        version=version,
        created=rfc3339_ms(entry.created_ms),
        expires=rfc3339(entry.expires_s) if entry.expires_s else None,
        content_type=(entry.content_type or CONTENT_TYPE_DEFAULT) if entry.complete else "",
    )


def _lines(page: Page) -> bytes:
    lines: list[Listed | Prefix | Next] = [*page.keys, *map(Prefix, page.prefixes)]
    if page.next is not None:
        lines.append(Next(page.next))
    return bytes(_encoder.encode_lines(lines))
