"""What a search needs of the server: the file of names, keys by their creation, many keys at once.

    GET  /admin/search                       {"path", "sorted_bytes", "bytes"}   varidb/names.py
    GET  /created_keys?from=MS&before=MS     {"keys": [[ms, key], ...], "next"}  by creation
    POST /stat_keys {"keys": [...]}          {"keys": [as in /list_keys/]}       what is there

The search itself is an extension (extensions/shipped/search.py): a process of its own reads the
file, so that no request waits for it.
"""

import re
from contextlib import AsyncExitStack

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.errors import InvalidParameter
from pulzar.http.application import Paths
from pulzar.http.body import body_length, read_all
from pulzar.http.key_codec import check_keys
from pulzar.http.listing import LISTED_BYTES, Lister
from pulzar.http.patience import Patience, Room
from pulzar.http.problem import shown
from pulzar.http.query import list_limit, parse_query
from pulzar.http.sending import send_whole
from pulzar.limits import BATCH_BODY_BYTES_MAX, STAT_KEYS_MAX
from pulzar.varidb.names import Names
from pulzar.varidb.watching import WatchedStore

PATHS: Paths = {
    "/admin/search": (("GET",), "admin"),
    "/created_keys": (("GET",), "list"),
    "/stat_keys": (("POST",), "list"),
}

_JSON = "application/json"
_MS = re.compile(r"[0-9]{1,15}")
_PLACE = re.compile(r"([0-9]{1,15}):(.+)", re.DOTALL)
_MS_MAX = 10**15


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of /stat_keys."""

    keys: list[str]


class Search:
    """Answers a search. `answers` is room for pages, which `lister` makes."""

    def __init__(
        self,
        store: WatchedStore,
        names: Names,
        *,
        lister: Lister,
        patience: Patience,
        answers: Room,
    ) -> None:
        self._store = store
        self._names = names
        self._lister = lister
        self._patience = patience
        self._answers = answers

    @property
    def endpoints(self) -> dict[str, ASGIApp]:
        """What answers at PATHS."""
        return {
            "/admin/search": self.file,
            "/created_keys": self.created,
            "/stat_keys": self.stat,
        }

    async def file(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /admin/search. Raises OutOfSpace, Unavailable."""
        parse_query(scope["query_string"], ())
        self._require_serving()
        found = msgspec.json.encode(await self._names.file())
        await send_whole(receive, send, _JSON, [found], self._patience)

    async def created(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /created_keys. Raises InvalidParameter, Unavailable."""
        parameters = parse_query(scope["query_string"], ("from", "before", "after", "limit"))
        start, end = _ms(parameters, "from", 0), _ms(parameters, "before", _MS_MAX)
        limit = list_limit(parameters)
        self._require_serving()
        rows = self._store.history.created_between(
            start, end, after=_place(parameters.get("after")), limit=limit
        )
        last = rows[-1] if len(rows) == limit else None
        page = {
            "keys": [(ms, key.decode()) for ms, key in rows],
            "next": None if last is None else f"{last[0]}:{last[1].decode()}",
        }
        await send_whole(receive, send, _JSON, [msgspec.json.encode(page)], self._patience)

    async def stat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /stat_keys. Raises InvalidKey, InvalidParameter, Unavailable."""
        parse_query(scope["query_string"], ())
        length = body_length(dict(scope["headers"]))
        body = await read_all(
            scope, receive, length, bytes_max=BATCH_BODY_BYTES_MAX, patience=self._patience
        )
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except msgspec.DecodeError as error:
            raise InvalidParameter(f'the body must be {{"keys": [...]}}: {error}') from None
        if len(asked.keys) > STAT_KEYS_MAX:
            raise InvalidParameter(f"{STAT_KEYS_MAX} keys at once are allowed")
        keys = check_keys(asked.keys)
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._answers.taken(len(keys) * LISTED_BYTES))
            self._require_serving()
            page = {"keys": await self._lister.listed(keys)}
            await send_whole(receive, send, _JSON, [msgspec.json.encode(page)], self._patience)

    def _require_serving(self) -> None:
        """Raise where an answer might lack what a volume holds: as a listing does."""
        self._store.list_keys(b"", after=None, limit=1, delimiter=None)


def _ms(parameters: dict[str, str], name: str, default: int) -> int:
    text = parameters.get(name)
    if text is None:
        return default
    if not _MS.fullmatch(text):
        raise InvalidParameter(f"{name} must be milliseconds since 1970, not {shown(text)}")
    return int(text)


def _place(text: str | None) -> tuple[int, bytes] | None:
    if text is None:
        return None
    found = _PLACE.fullmatch(text)
    if not found:
        raise InvalidParameter(f"after must be the next of a page, not {shown(text)}")
    return int(found[1]), found[2].encode()
