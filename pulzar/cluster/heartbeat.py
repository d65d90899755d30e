"""A volume's word to its master, each second.

The first one makes it a member. A master that does not answer is asked again; one that does not
want this volume (another cluster's key, a second instance, a name that is taken) ends the program.
A volume that was known to its master waits where the key is not right any more, or where another
program answers: that may be put right again.
"""

import asyncio
import logging

from pulzar.cluster.remote import MasterLink
from pulzar.cluster.served import ServedVolume
from pulzar.errors import (
    Forbidden,
    MemberRefused,
    NotFoundPath,
    OutOfSpace,
    PulzarError,
    Unavailable,
)
from pulzar.limits import CLOCK_OFF_MS, HEARTBEAT_S

_log = logging.getLogger(__name__)


class Heartbeat:
    """The heartbeats of one volume. One event loop. `key_path` is the file of the key."""

    def __init__(self, volume: ServedVolume, master: MasterLink, *, key_path: str) -> None:
        self._volume = volume
        self._key_path = key_path
        self._is_known = False
        self._master = master
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._beating: asyncio.Task[None] | None = None
        self._last = ""  # what was logged last, so that it is logged once
        self._clock_told = False

    def start(self) -> None:
        """Begin."""
        self._beating = asyncio.create_task(self._beat())

    async def refused(self) -> str:
        """Waits until the master does not want this volume, and says why."""
        return await asyncio.shield(self._refused)

    async def close(self) -> None:
        """End."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            next_s = loop.time() + HEARTBEAT_S
            try:
                presence = self._volume.presence()
                welcome = await self._master.heartbeat(presence)
            except PulzarError as error:
                waits = self._is_known or isinstance(error, (Unavailable, OutOfSpace))
                if isinstance(error, MemberRefused) or not waits:
                    self._refused.set_result(self._explained(error))
                    return
                self._tell(logging.WARNING, self._explained(error))
            else:
                self._is_known = True
                known = f"known to the master at {self._master.url} as {self._volume.name}"
                self._tell(logging.INFO, known)
                self._check_clock(presence.now_ms - welcome.now_ms)
            await asyncio.sleep(max(0.0, next_s - loop.time()))

    def _explained(self, error: PulzarError) -> str:
        url = self._master.url
        if isinstance(error, Unavailable):
            return f"the master at {url} does not answer, it is asked again: {error}"
        if isinstance(error, NotFoundPath):
            return f"there is no master at {url}: give the URL of `pulzar master` or `pulzar up`"
        if isinstance(error, Forbidden):
            return f"the master at {url} has another key than {self._key_path}"
        return f"the master at {url} refuses: {error}"

    def _tell(self, level: int, text: str) -> None:
        if text != self._last:
            self._last = text
            _log.log(level, "%s", text)

    def _check_clock(self, off_ms: int) -> None:
        if abs(off_ms) > CLOCK_OFF_MS and not self._clock_told:
            self._clock_told = True
            _log.warning(
                "the clock of this machine is %+d s off that of the master: nothing depends on it "
                "but the times in this log",
                round(off_ms / 1000),
            )
