"""What every application of Pulzar does with a request: find what answers, and catch errors.

The data verbs stand in front, chosen by the beginning of the path; the rest is found by its path,
as it was sent: what is percent-encoded is part of a key or of nothing.

An error that Pulzar raises on purpose becomes the answer that `problem.py` gives it, `Elsewhere`
a redirect. Anything else is a bug: it is logged with its traceback and answered 500 `internal`.

A refusal is sent at once, also in the middle of a body. If little of that is left, it is read, and
the connection serves the next request. Else the refusal says `Connection: close`: without it, a
client would send its next request behind a body that nobody reads.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from difflib import get_close_matches
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulzar.errors import MethodNotAllowed, NotFoundPath, NotReady, PulzarError
from pulzar.http.body import drain, left_to_read
from pulzar.http.metrics import Tally
from pulzar.http.patience import Patience
from pulzar.http.problem import Elsewhere, Refusal, bug, redirect, refusal, shown
from pulzar.http.query import parse_query
from pulzar.http.sending import AnswerBroken
from pulzar.limits import DRAIN_BYTES_MAX

_log = logging.getLogger(__name__)

Paths: TypeAlias = Mapping[str, tuple[tuple[str, ...], str]]
"""Path, methods, the word that counts it in the metrics."""

_OTHER = "other"
_UNTOLD = frozenset({"admin", "internal"})  # paths that a lost client is not sent to
_CLOSE = (b"connection", b"close")


class Application:
    """An ASGI application. `tally.open` says how many requests are at work, `client_timeout_s` how
    long a client may take or give no byte. Of a subclass are `paths` and what answers them."""

    def __init__(self, paths: Paths, *, chunk_timeout_s: float) -> None:
        self.tally = Tally()
        self.client_timeout_s = chunk_timeout_s
        self.patience = Patience(chunk_timeout_s)
        self._paths = paths
        self._put: ASGIApp = _closed
        self._get: ASGIApp = _closed
        self._delete: ASGIApp = _closed
        self._rest: ASGIApp = self._route
        self._endpoints: dict[str, ASGIApp] = {}

    def answer(self, endpoints: Mapping[str, ASGIApp]) -> None:
        """Answer at some of `paths`."""
        self._endpoints.update(endpoints)

    async def again(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What answers at this path now, after `answer`."""
        path: bytes = scope["raw_path"]
        await self._endpoints[find_path(path.decode("latin-1"), self._paths)](scope, receive, send)

    def close(self) -> None:
        """Serve nothing more: what still waits for its client is given up, and what is asked
        from now on is refused."""
        self._put = self._get = self._delete = self._rest = _closed
        self.patience.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, 3.0."""
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} is served here")
        tally = self.tally
        tally.open += 1
        path: bytes = scope["raw_path"]
        try:
            if path.startswith(b"/get_key/"):
                await self._get(scope, receive, send)
            elif path.startswith(b"/add_key/"):
                await self._put(scope, receive, send)
            elif path.startswith(b"/delete_key/"):
                await self._delete(scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        except PulzarError as error:
            await self._refuse(scope, receive, send, refusal(error))
        except Elsewhere as elsewhere:
            await self._refuse(scope, receive, send, redirect(elsewhere))
        except AnswerBroken as error:
            _log.warning("the answer to %s was cut off: %s", _line(scope), error)
            raise
        except Exception:  # a bug: logged here, and the server goes on
            _log.exception("a bug met %s", _line(scope))
            await self._refuse(scope, receive, send, bug())
        finally:
            tally.open -= 1

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = find_path(_raw_path(scope), self._paths)
        methods, verb = self._paths[path]
        if scope["method"] not in methods:
            raise MethodNotAllowed(
                f"{scope['method']} is not for {path}: use {' or '.join(methods)}", allow=methods
            )
        started = False

        async def counting_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.tally.answers[verb, message["status"]] += 1
            await send(message)

        try:
            await self._endpoints[path](scope, receive, counting_send)
        except Exception as error:  # there is no second answer to a request
            if started and not isinstance(error, AnswerBroken):
                raise AnswerBroken(repr(error)) from error
            raise

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, answer: Refusal) -> None:
        self.tally.answers[self._verb(_raw_path(scope)), answer.status] += 1
        left, can_drain = left_to_read(scope)
        closes = left > DRAIN_BYTES_MAX or not can_drain
        headers = [*answer.headers, _CLOSE] if closes else answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
        if left and can_drain:
            await drain(receive)

    def _verb(self, path: str) -> str:
        try:
            return self._paths[find_path(path, self._paths)][1]
        except NotFoundPath:
            return _OTHER


def find_path(path: str, paths: Paths) -> str:
    """The entry of `paths` that `path` is one of. Raises NotFoundPath with the nearest one."""
    for known in paths:
        front, parameter, _ = known.partition("{")
        if path.startswith(front) if parameter else path == known:
            return known
    words = path.split("/")
    candidates = ["/".join(words[:3]), "/".join(words[:2])]
    hints = {known.partition("{")[0].rstrip("/"): known for known in paths}
    for candidate in candidates:
        near = get_close_matches(candidate, hints, n=1)
        if near:
            raise NotFoundPath(
                f"there is nothing at {shown(path)}; did you mean {hints[near[0]]} ?"
            )
    told = [known for known, (_, verb) in paths.items() if verb not in _UNTOLD]
    raise NotFoundPath(f"there is nothing at {shown(path)}; there is {', '.join(told)}")


def short(endpoint: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """An endpoint with a short answer and no query parameters."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        parse_query(scope["query_string"], ())
        response = await endpoint(Request(scope))
        await response(scope, receive, send)

    return app


async def _closed(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotReady("the server is stopping")


def _raw_path(scope: Scope) -> str:
    """The path as it was sent. `scope["path"]` is decoded: an encoded slash looks like one."""
    raw: bytes = scope["raw_path"]
    return raw.decode("latin-1")


def _line(scope: Scope) -> str:
    return f"{scope['method']} {scope['path']}"
