"""GET /list_keys/{prefix}: one page of keys in byte order, as JSON or one line per key.

With values=1 the page has the values, too: a subtree of settings in one request. A value that is
UTF-8 is text, another one base64; one over SEGMENT_VALUE_BYTES_MAX is left out. Such a page ends
when its values have LIST_VALUES_BYTES_MAX.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from pulzar.errors import InvalidParameter, KeyNotFound, PulzarError
from pulzar.http.dates import rfc3339, rfc3339_ms
from pulzar.http.key_codec import check_key, decode_prefix
from pulzar.http.patience import Patience, Room
from pulzar.http.problem import shown
from pulzar.http.query import list_limit, parse_query
from pulzar.http.sending import send_whole
from pulzar.limits import (
    ANSWER_SMALL_BYTES,
    CONTENT_TYPE_BYTES_MAX,
    CONTENT_TYPE_DEFAULT,
    KEY_BYTES_MAX,
    LIST_VALUES_BYTES_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.entry import Entry, Get, Got, Listing, Store

PATH = b"/list_keys/"
LINES_TYPE = "application/x-ndjson"

_KNOWN = ("after", "delimiter", "limit", "values")
# The longest line: quotes and backslashes are written as two characters.
LISTED_BYTES = 2 * (KEY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX) + 256
"""The most that one key of a page takes."""
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


class Valued(Listed, frozen=True, gc=False, omit_defaults=True):
    """One key with its value; without it where that is too large, or cannot be read now."""

    value: str | None = None
    value_base64: bytes | None = None


class Page(msgspec.Struct, frozen=True):
    """One page; `next` is the `after` of the next one, None at the end."""

    keys: list[Listed] | list[Valued]
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
        values = parameters.get("values", "0")
        if values not in ("0", "1"):
            raise InvalidParameter(f"values must be 0 or 1, not {shown(values)}")
        async with AsyncExitStack() as held:
            page_bytes = limit * LISTED_BYTES
            if values == "1":
                page_bytes += 2 * LIST_VALUES_BYTES_MAX
            if page_bytes > ANSWER_SMALL_BYTES:
                await held.enter_async_context(self._answers.taken(page_bytes))
            listing = self._store.list_keys(
                prefix,
                after=start_after,
                limit=limit,
                delimiter=None if delimiter is None else delimiter.encode(),
            )
            page = await (self._valued(listing) if values == "1" else self._page(listing))
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

    async def _valued(self, listing: Listing) -> Page:
        """As `_page`, with values. What was deleted since it was listed is left out."""
        page = await self._page(_cut(listing))
        small = [listed for listed in page.keys if listed.size <= SEGMENT_VALUE_BYTES_MAX]
        results = await self._store.batch([Get(listed.key.encode()) for listed in small])
        got = {listed.key: result for listed, result in zip(small, results, strict=True)}
        valued = [
            _valued(listed, got.get(listed.key))
            for listed in page.keys
            if not isinstance(got.get(listed.key), KeyNotFound)
        ]
        return Page(keys=valued, prefixes=page.prefixes, next=page.next)

    async def listed(self, keys: Sequence[bytes]) -> list[Listed]:
        """Those of some keys that are there, and have not expired. Raises Unavailable."""
        found = [(key, self._store.lookup(key)) for key in keys]
        now = [
            (key, await self._store.confirm(key, entry) if entry.expires_s else entry)
            for key, entry in found
            if entry is not None
        ]
        return [
            _listed(key, await self._complete(key, entry))
            for key, entry in now
            if entry is not None
        ]

    async def _complete(self, key: bytes, entry: Entry) -> Entry:
        """With its content type: after a rebuild that takes a read of each key, once. What cannot
        be read is listed without it."""
        if entry.complete:
            return entry
        try:
            return await self._store.complete(key, entry)
        except PulzarError:
            return entry


def _cut(listing: Listing) -> Listing:
    """As much of a listing as one page of values has."""
    size = 0
    for number, (key, entry) in enumerate(listing.entries, 1):
        if entry.size <= SEGMENT_VALUE_BYTES_MAX:
            size += entry.size
        if size >= LIST_VALUES_BYTES_MAX and number < len(listing.entries):
            groups = [group for group in listing.prefixes if group < key]
            return Listing(listing.entries[:number], groups, key)
    return listing


def _valued(listed: Listed, result: object) -> Valued:
    fields = msgspec.structs.asdict(listed)
    if not isinstance(result, Got):
        return Valued(**fields)
    fields = msgspec.structs.asdict(_listed(listed.key.encode(), result.entry))
    try:
        return Valued(**fields, value=result.value.decode())
    except UnicodeDecodeError:
        return Valued(**fields, value_base64=result.value)


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
    lines: list[Listed | Valued | Prefix | Next] = [*page.keys, *map(Prefix, page.prefixes)]
    if page.next is not None:
        lines.append(Next(page.next))
    return bytes(_encoder.encode_lines(lines))
