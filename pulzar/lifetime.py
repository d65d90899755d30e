"""How a program lives: it serves until it is told to stop, or until a part of it has ended.

SIGTERM and the first Ctrl-C stop it cleanly; a second Ctrl-C ends it at once, which loses
nothing that was acknowledged.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine

from pulzar.errors import OpenError, Unavailable
from pulzar.http.application import Application
from pulzar.http.server import serve

FAILURE_GRACE_S = 0.5
GC_THRESHOLD = 10_000  # new objects between two collections; Python's own default is 700
FAILURE_EXIT_CODE = 3  # as for every other Unavailable, see cli/exit.py

log = logging.getLogger(__name__)

OnReady = Callable[[str], None]


async def serve_until_told(
    app: Application,
    host: str,
    port: int,
    *,
    stop: asyncio.Event,
    on_ready: OnReady,
    failure: Callable[[], Awaitable[str]],
    close: Callable[[], Awaitable[None]],
) -> None:
    """Serve what is open until it is to stop; close it."""
    watching = asyncio.create_task(_stop_at_failure(failure, stop))
    _calm_collector()
    try:
        if not stop.is_set():
            await serve(app, host=host, port=port, on_ready=on_ready, stop=stop)
    except OSError as error:
        raise _listen_error(host, port, error) from error
    finally:
        failed = watching.done()
        watching.cancel()
        await close()
    if failed:
        raise Unavailable(watching.result())
    log.info("stopped")


async def first(*reasons: Coroutine[object, object, str]) -> str:
    """What comes first."""
    done, waiting = await asyncio.wait(
        [asyncio.ensure_future(reason) for reason in reasons],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for one in waiting:
        one.cancel()
    return done.pop().result()


async def leave_at(stop: asyncio.Event, *leave: Callable[[], None]) -> None:
    """When it is to stop, let go of machines that wait: an open request would hold it up."""
    await stop.wait()
    for one in leave:
        one()


def stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _stop_once, loop, stop)
    return stop


def _calm_collector() -> None:
    """Look for garbage less often: requests leave cycles only where they fail. What is there when
    the server starts stays, and need not be looked at again (1 to 2 us of a PUT)."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def _stop_at_failure(failure: Callable[[], Awaitable[str]], stop: asyncio.Event) -> str:
    """Stop when a process of the program has ended: the others follow within a second.

    Requests get half of it. Then everything ends, as by `kill -9`, which loses nothing that was
    acknowledged.
    """
    reason = await failure()
    log.critical("stopping: %s", reason)
    asyncio.get_running_loop().call_later(FAILURE_GRACE_S, os._exit, FAILURE_EXIT_CODE)
    stop.set()
    return reason


def _stop_once(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    stop.set()
    loop.remove_signal_handler(signal.SIGINT)


def _listen_error(host: str, port: int, error: OSError) -> OpenError:
    """Why the server cannot listen, and what to do."""
    place = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return OpenError(f"{place} is in use by another program; choose another with --port")
    return OpenError(f"cannot listen at {place}: {error.strerror or error}")
