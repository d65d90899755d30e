"""What `pulzar up` runs: the settings, the store and the server, wired into one program.

    settings -> open the store (recovery) -> build the application -> serve until told to stop
             -> finish the requests under way -> close the store

SIGTERM and the first Ctrl-C stop it cleanly; a second Ctrl-C ends it at once, which loses
nothing that was acknowledged.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable

from pulzar.clock import Clock
from pulzar.config import Config
from pulzar.disk import Disk
from pulzar.errors import NotAVolume, OpenError, Unavailable, VolumeReadOnly
from pulzar.http.app import build_app
from pulzar.http.server import serve
from pulzar.varidb.identity import IDENTITY_NAME
from pulzar.varidb.serving import StoreOptions
from pulzar.varidb.store import LocalStore, open_store

OUR_NAMES = {"volume", "volume.views", "catalog.views", "lost+found"}
FAILURE_GRACE_S = 0.5
GC_THRESHOLD = 10_000  # new objects between two collections; Python's own default is 700
FAILURE_EXIT_CODE = 3  # as for every other Unavailable, see cli/exit.py

log = logging.getLogger(__name__)


def configure_log(level: str) -> None:
    """Write the log of the whole program to stderr, one plain line per event."""
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=level.upper(),
        force=True,
    )


def log_settings(config: Config) -> None:
    """Say where the site, its settings and its data are, and what has no effect."""
    log.info("site %s, settings from %s", config.app_dir, config.file or "nowhere: defaults")
    log.info("data in %s (%s)", config.data_dir, config.origins["data_dir"])
    for setting in config.without_effect():
        log.warning("%s has no effect in this version. %s", setting, setting.later)


async def run(config: Config, *, disk: Disk, clock: Clock, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready` is given the URL once it answers.

    Raises OpenError where the data directory or the port cannot be had, Unavailable where a
    process that belongs to the program has ended.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _stop_once, loop, stop)
    log_settings(config)
    check_data_directory(disk, config.data_dir)
    gc.disable()  # what an opening holds, it holds until it ends
    store = await open_store(
        config.data_dir,
        disk=disk,
        clock=clock,
        options=StoreOptions(
            reserve_bytes=config.reserve_bytes,
            segment_bytes=config.segment_bytes,
            grace_s=config.retired_grace_s,
        ),
    )
    failure = asyncio.create_task(_stop_at_failure(store, stop))
    _calm_collector()
    try:
        if not stop.is_set():
            app = build_app(store, clock=clock, chunk_timeout_s=config.client_timeout_s)
            await serve(app, host=config.host, port=config.port, on_ready=on_ready, stop=stop)
    except OSError as error:
        raise _listen_error(config, error) from error
    finally:
        failed = failure.done()
        failure.cancel()
        await store.close()
    if failed:
        raise Unavailable(failure.result())
    log.info("stopped")


def _calm_collector() -> None:
    """Look for garbage less often: requests leave cycles only where they fail. What is there when
    the server starts stays, and need not be looked at again (1 to 2 us of a PUT)."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def check_data_directory(disk: Disk, directory: str) -> None:
    """Raise NotAVolume for a directory that holds something else than our data.

    What is missing is made; only a directory that holds nothing but ours is taken.
    """
    try:
        names = set(disk.list(directory))
    except NotADirectoryError:
        raise NotAVolume(f"{directory} is a file; the data needs a directory") from None
    except OSError as error:
        raise VolumeReadOnly(f"{directory} cannot be read: {error.strerror}") from error
    if IDENTITY_NAME in names:
        raise NotAVolume(f"{directory} is a volume itself; name the directory that holds it")
    if names - OUR_NAMES and "volume" not in names:
        raise NotAVolume(f"{directory} holds other files and no volume; use an empty directory")


async def _stop_at_failure(store: LocalStore, stop: asyncio.Event) -> str:
    """Stop when a process of the program has ended: the others follow within a second.

    Requests get half of it. Then everything ends, as by `kill -9`, which loses nothing that was
    acknowledged.
    """
    reason = await store.failure()
    log.critical("stopping: %s", reason)
    asyncio.get_running_loop().call_later(FAILURE_GRACE_S, os._exit, FAILURE_EXIT_CODE)
    stop.set()
    return reason


def _stop_once(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    stop.set()
    loop.remove_signal_handler(signal.SIGINT)


def _listen_error(config: Config, error: OSError) -> OpenError:
    """Why the server cannot listen, and what to do."""
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return OpenError(f"{place} is in use by another program; choose another with --port")
    return OpenError(f"cannot listen at {place}: {error.strerror or error}")
