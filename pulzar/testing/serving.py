"""A server in a thread, for tests that need real sockets but no process of their own.

with ServerThread(MemoryStore(clock), clock=clock) as server:
    socket.create_connection(server.address)
"""

import asyncio
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import uvloop

from pulzar.clock import Clock
from pulzar.http.app import App, build_app
from pulzar.http.server import serve
from pulzar.limits import SHUTDOWN_GRACE_S, UPLOAD_CHUNK_TIMEOUT_S
from pulzar.varidb.watching import WatchedStore

READY_S_MAX = 20.0


class ServerThread:
    """Serves `store` at a free port of 127.0.0.1 while the context is open."""

    def __init__(
        self,
        store: WatchedStore,
        *,
        clock: Clock,
        chunk_timeout_s: float = UPLOAD_CHUNK_TIMEOUT_S,
        grace_s: float = SHUTDOWN_GRACE_S,
    ) -> None:
        self.app: App = build_app(store, clock=clock, chunk_timeout_s=chunk_timeout_s)
        self.url = ""
        self._grace_s = grace_s
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(READY_S_MAX) or self._failed is not None:
            raise AssertionError("the server did not start") from self._failed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self.join()

    def stop(self) -> None:
        """Begin to stop, as SIGTERM does."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Wait until it has stopped. Raises what it failed with."""
        self._thread.join()
        if self._failed is not None:
            raise AssertionError("the server failed") from self._failed

    def is_stopped(self) -> bool:
        """Whether it has stopped."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as failure:  # told to the thread that waits
            self._failed = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await serve(
            self.app,
            host="127.0.0.1",
            port=0,
            on_ready=self._on_ready,
            stop=self._stop,
            grace_s=self._grace_s,
        )

    def _on_ready(self, url: str) -> None:
        self.url = url
        self._ready.set()
