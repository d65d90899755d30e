"""Extensions over HTTP: GET, PUT and POST /third_party/{app_id}/{arg1}/{arg2}/...

What stands behind the name is cut at each `/`, and each piece is decoded: `a%2Fb` is one argument.
The query is handed on as it is. A body is kept in a file, which is there as long as the call.
"""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.disk import Disk
from pulzar.errors import OutOfSpace, ValueTooLarge
from pulzar.extensions.slots import Call, Extensions
from pulzar.http.application import Paths
from pulzar.http.body import body_length, read_pieces
from pulzar.http.keys import base_url
from pulzar.http.patience import Patience
from pulzar.http.query import decode_piece, query_lists
from pulzar.http.sending import send_whole
from pulzar.limits import BODY_SMALL_BYTES, EXTENSION_BODY_BYTES_MAX
from pulzar.threads import to_its_end

PATH = b"/third_party/"
PATHS: Paths = {"/third_party/{app_id}/{args}": (("GET", "PUT", "POST"), "third_party")}


class ThirdParty:
    """Calls extensions."""

    def __init__(self, extensions: Extensions, *, disk: Disk, patience: Patience) -> None:
        self._extensions = extensions
        self._disk = disk
        self._patience = patience

    @property
    def endpoints(self) -> dict[str, ASGIApp]:
        """What answers at PATHS."""
        return {"/third_party/{app_id}/{args}": self.call}

    async def call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what the extension gives back.

        Raises ExtensionNotFound, ExtensionFailed, ExtensionTimeout, InvalidParameter, Unavailable,
        and as reading a body.
        """
        name, *pieces = scope["raw_path"][len(PATH) :].split(b"/")
        arguments = [] if pieces == [b""] else [decode_piece(piece, "path") for piece in pieces]
        params = query_lists(scope["query_string"])
        module = self._extensions.find(decode_piece(name, "path"))
        headers = Request(scope).headers
        base = base_url(scope["scheme"], headers.get("host", "").encode("latin-1")).decode()
        async with self._body(scope, receive) as body:
            call = Call(arguments=arguments, params=params, body=body, base=base)
            output = await self._extensions.call(module, call)
        await send_whole(
            receive, send, "application/json", [output.encode("utf-8", "replace")], self._patience
        )

    @asynccontextmanager
    async def _body(self, scope: Scope, receive: Receive) -> AsyncIterator[str | None]:
        """The path of a file with the body; None for a GET."""
        if scope["method"] == "GET":
            yield None
            return
        path = os.path.join(self._extensions.work, secrets.token_hex(16))
        try:
            try:
                await self._keep(scope, receive, path)
            except OSError as error:
                raise OutOfSpace(f"the body cannot be kept: {error.strerror}") from error
            yield path
        finally:
            with contextlib.suppress(OSError):
                self._disk.unlink(path)

    async def _keep(self, scope: Scope, receive: Receive, path: str) -> None:
        length = body_length(dict(scope["headers"]))
        if length is not None and length > EXTENSION_BODY_BYTES_MAX:
            raise _too_large()
        file = self._disk.create(path)
        at = 0
        try:
            async for piece in read_pieces(scope, receive, length, self._patience):
                if at + len(piece) > EXTENSION_BODY_BYTES_MAX:
                    raise _too_large()
                if len(piece) <= BODY_SMALL_BYTES:
                    file.write([piece], offset=at)
                else:
                    await to_its_end(partial(file.write, [piece], offset=at))
                at += len(piece)
        finally:
            file.close()


def _too_large() -> ValueTooLarge:
    return ValueTooLarge(f"the body of an extension may have {EXTENSION_BODY_BYTES_MAX} bytes")
