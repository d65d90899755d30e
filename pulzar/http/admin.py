"""/admin/status, /admin/compact, /healthz and /readyz."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pulzar.errors import NotReady
from pulzar.varidb.entry import Store

_JSON = "application/json"


class Admin:
    """What an operator asks of a running server."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def status(self, _: Request) -> Response:
        """GET /admin/status: exactly the fields that the specification shows."""
        return Response(msgspec.json.encode(self._store.status()), media_type=_JSON)

    async def compact(self, _: Request) -> Response:
        """POST /admin/compact: rewrite what holds superseded records; answers when done."""
        done = await self._store.compact()
        return Response(msgspec.json.encode(done), media_type=_JSON)

    async def health(self, _: Request) -> Response:
        """GET /healthz: the process answers."""
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def ready(self, _: Request) -> Response:
        """GET /readyz: it can serve. Raises NotReady with the reason."""
        reason = self._store.not_ready()
        if reason is not None:
            raise NotReady(reason)
        return Response(b'{"status":"ready"}', media_type=_JSON)
