"""What `pulzar up` runs: the settings, the store and the server, wired into one program.

    settings -> open the store (recovery) -> build the application -> serve until told to stop
             -> finish the requests under way -> close the store

SIGTERM and the first Ctrl-C stop it cleanly; a second Ctrl-C ends it at once, which loses
nothing that was acknowledged.
"""

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import Callable

from pulzar.clock import Clock
from pulzar.config import Config
from pulzar.disk import Disk
from pulzar.errors import OpenError
from pulzar.http.app import build_app
from pulzar.http.server import serve
from pulzar.varidb.store import StoreOptions, open_store

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

    Raises OpenError where the data directory or the port cannot be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, _stop_once, loop, stop)
    log_settings(config)
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
    try:
        if not stop.is_set():
            app = build_app(store, clock=clock)
            await serve(app, host=config.host, port=config.port, on_ready=on_ready, stop=stop)
    except OSError as error:
        raise _listen_error(config, error) from error
    finally:
        await store.close()
    log.info("stopped")


def _stop_once(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    stop.set()
    loop.remove_signal_handler(signal.SIGINT)


def _listen_error(config: Config, error: OSError) -> OpenError:
    """Why the server cannot listen, and what to do."""
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return OpenError(f"{place} is in use by another program; choose another with --port")
    return OpenError(f"cannot listen at {place}: {error.strerror or error}")
