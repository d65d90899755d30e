"""What the endpoints between machines share: the cluster's key, messages in and out.

The key is looked at before anything else, also before the body: without it, 403 and nothing more.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from pulzar.cluster.messages import MEDIA_TYPE, Message, decode, encode
from pulzar.errors import Forbidden, UnsupportedMediaType
from pulzar.http.body import body_length, read_all
from pulzar.http.patience import Patience
from pulzar.limits import MESSAGE_BYTES_MAX

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_TYPE = MEDIA_TYPE.encode()
_ANSWER_TYPE = (b"content-type", _TYPE)


class Internal:
    """Endpoints for those who have the cluster's key (hex)."""

    def __init__(self, key: str, *, patience: Patience) -> None:
        self._authorization = f"Bearer {key}".encode()
        self._forbidden = ""  # the machine that was told last, so that it is logged once
        self._patience = patience

    def guarded(self, endpoint: ASGIApp) -> ASGIApp:
        """`endpoint`, for those who have the key. Raises Forbidden."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self.authorize(scope)
            await endpoint(scope, receive, send)

        return app

    def authorize(self, scope: Scope) -> None:
        """Raise Forbidden where a request does not carry the key."""
        for name, value in scope["headers"]:
            if name == b"authorization" and hmac.compare_digest(value, self._authorization):
                return
        client = scope.get("client")
        host = str(client[0]) if client else ""
        if host != self._forbidden:
            self._forbidden = host
            _log.warning("a request from %s does not carry the cluster's key", host)
        raise Forbidden("this is for the machines of the cluster: the cluster's key is wanted")

    def call(
        self, kind: type[M], work: Callable[[M], Awaitable[Message]], check: Callable[[M], None]
    ) -> ASGIApp:
        """An endpoint that takes a message of that kind, checks it, and answers another one."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope["headers"])
            if headers.get(b"content-type") != _TYPE:
                raise UnsupportedMediaType(f"the body is to be {MEDIA_TYPE}")
            content = await read_all(
                scope,
                receive,
                body_length(headers),
                bytes_max=MESSAGE_BYTES_MAX,
                patience=self._patience,
            )
            message = decode(kind, content)
            check(message)
            await answer(send, await work(message))

        return self.guarded(app)


async def answer(send: Send, message: Message) -> None:
    """Answer a message."""
    content = encode(message)
    headers = [_ANSWER_TYPE, (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
