"""Runs an application under Granian, in this process and on the running event loop.

Granian's Rust threads speak HTTP; the application runs on the loop that calls `serve`, so requests
reach the store without another hop. The listening socket is made here: Granian would set
SO_REUSEPORT, and then a second server on the same port would be no error but take half of the
connections.

Stopping: no new connection is taken, idle ones are closed, open requests may finish. Granian waits
for all of them without a bound, also for a connection that never sent a whole request. So the wait
ends after SHUTDOWN_GRACE_S, or FLUSH_GRACE_S after the last request that was open.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server as EmbeddedServer

from pulzar.config import url_of
from pulzar.errors import NotReady
from pulzar.http.application import Application
from pulzar.limits import (
    CONNECTIONS_MAX,
    FLUSH_GRACE_S,
    HEAD_BYTES_MAX,
    IDLE_CONNECTION_S,
    OPEN_FILES_MAX,
    SHUTDOWN_GRACE_S,
)

_log = logging.getLogger(__name__)

BACKLOG = 1024
READY_TIMEOUT_S = 10.0
_POLL_S = 0.02
_LOOPBACKS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to compare
_FILES = 2 * (CONNECTIONS_MAX + OPEN_FILES_MAX)


async def serve(
    app: Application,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None],
    stop: asyncio.Event,
    grace_s: float = SHUTDOWN_GRACE_S,
) -> None:
    """Serve until `stop` is set. Port 0 takes a free one.

    `on_ready` is given the URL once a request was answered. Raises OSError where it cannot listen
    there, NotReady where no request was answered.
    """
    listener = listen(host, port, client_timeout_s=app.client_timeout_s)
    port = listener.getsockname()[1]
    _allow_files()
    server = _Server(app, listener, host, port)
    serving = asyncio.ensure_future(server.serve())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await _answers(_LOOPBACKS.get(host, host), port)
        on_ready(url_of(host, port))
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not stop.is_set():
            raise NotReady("the HTTP server ended by itself")
    finally:
        stopping.cancel()
        server.signal_handler_interrupt()  # type: ignore[no-untyped-call]  # Granian has none
        await _finish(app, serving, grace_s)


def listen(host: str, port: int, *, client_timeout_s: float) -> socket.socket:
    """A listening socket. Raises OSError.

    Its connections are cut by the kernel when a client takes no byte for `client_timeout_s`: a
    small value is out of the application's hands while its client does not read it.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # So that a restart need not wait for the connections of the server before.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        timeout_ms = round(client_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(EmbeddedServer):
    """Granian's server on a socket that listens already."""

    def __init__(self, app: Application, listener: socket.socket, host: str, port: int) -> None:
        super().__init__(
            app,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            runtime_threads=1,
            backlog=BACKLOG,
            backpressure=CONNECTIONS_MAX,
            http1_settings=HTTP1Settings(
                header_read_timeout=IDLE_CONNECTION_S * 1000,
                keep_alive=True,
                max_buffer_size=HEAD_BYTES_MAX,
            ),
            log_level=LogLevels.critical,
            log_dictconfig=_LOG_SETTINGS,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        # Granian's stub tells neither SocketHolder's arguments nor the type of these attributes.
        holder: Any = SocketHolder
        self._shd: Any = holder(self._listener.detach(), False, BACKLOG)
        self._sfd: Any = self._shd.get_fd()


# Granian logs to stdout unless told otherwise. What it has to say of an application that raised
# was logged by the application already.
_LOG_SETTINGS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "CRITICAL", "propagate": False}
        for name in ("_granian", "granian.access")
    },
}


async def _answers(host: str, port: int) -> None:
    """Returns when the server has answered a request. Raises NotReady."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: ready\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
                await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise NotReady(f"the HTTP server does not answer: {error!r}") from error
    if b" 200 " not in line:
        raise NotReady(f"the HTTP server answers {line!r}")


async def _finish(app: Application, serving: "asyncio.Future[None]", grace_s: float) -> None:
    """Wait for open requests, for `grace_s` at most; then give up those that wait for clients.

    `serving` may be left waiting for connections without a request; it ends with the event loop.
    """
    await _until_idle(app, serving, grace_s)
    unfinished = app.tally.open
    app.close()
    if unfinished:
        _log.warning("stopping with %d requests unfinished", unfinished)
        await _until_idle(app, serving, 2 * FLUSH_GRACE_S)


async def _until_idle(app: Application, serving: "asyncio.Future[None]", limit_s: float) -> None:
    """Wait until no connection is left, or until no request was open for a while."""
    loop = asyncio.get_running_loop()
    idle_since = loop.time()
    deadline = idle_since + limit_s
    while not serving.done():
        now = loop.time()
        if app.tally.open:
            idle_since = now
        if now >= deadline or now - idle_since >= FLUSH_GRACE_S:
            break
        await asyncio.wait((serving,), timeout=_POLL_S)


def _allow_files() -> None:
    """Raise the soft limit of open files, often 1024, to what connections and segments need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
