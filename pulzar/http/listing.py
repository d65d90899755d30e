"""GET /list_keys/{prefix}: one page of keys in byte order, as JSON or one line per key."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pulzar.errors import InvalidParameter, PulzarError
from pulzar.http.dates import rfc3339, rfc3339_ms
from pulzar.http.key_codec import check_key, decode_prefix
from pulzar.http.query import list_limit, parse_query
from pulzar.limits import CONTENT_TYPE_DEFAULT
from pulzar.varidb.entry import Entry, Store

PATH = b"/list_keys/"
LINES_TYPE = "application/x-ndjson"

_KNOWN = ("after", "delimiter", "limit")
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
    """Lists keys."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, request: Request) -> Response:
        """GET /list_keys/{prefix}. Raises InvalidKey, InvalidParameter."""
        prefix = decode_prefix(request.scope["raw_path"][len(PATH) :])
        parameters = parse_query(request.scope["query_string"], _KNOWN)
        after, delimiter = parameters.get("after"), parameters.get("delimiter")
        if delimiter == "":
            raise InvalidParameter("delimiter is empty: give a text such as /, or leave it out")
        listing = self._store.list_keys(
            prefix,
            after=check_key(after).encode() if after else None,
            limit=list_limit(parameters),
            delimiter=None if delimiter is None else delimiter.encode(),
        )
        page = Page(
            keys=[_listed(key, await self._complete(key, entry)) for key, entry in listing.entries],
            prefixes=[group.decode() for group in listing.prefixes],
            next=None if listing.next is None else listing.next.decode(),
        )
        if LINES_TYPE in request.headers.get("accept", ""):
            return Response(_lines(page), media_type=LINES_TYPE)
        return Response(_encoder.encode(page), media_type="application/json")

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
