"""How much of the disk values may still take: what is free above the reserve.

The disk is asked now and then, and between two looks the bytes that were taken are counted, so
that a fast sender does not run through the reserve. The reserve is for deletes, the growth of the
views, compaction, and the next start.
"""

from pulzar.clock import Clock
from pulzar.disk import Disk
from pulzar.errors import OutOfSpace, Unavailable
from pulzar.limits import ROOM_CHECK_S


class DiskRoom:
    """The room on the disk of one directory. One thread."""

    def __init__(self, disk: Disk, directory: str, *, clock: Clock, reserve_bytes: int) -> None:
        self._disk = disk
        self._directory = directory
        self._clock = clock
        self.reserve_bytes = reserve_bytes
        self._looked_s = -ROOM_CHECK_S
        self._left = 0

    def require(self, size: int) -> None:
        """Raise OutOfSpace where `size` more bytes would not fit, Unavailable where nobody
        knows."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= ROOM_CHECK_S or self._left < size:
            try:
                free = self._disk.free_bytes(self._directory)
            except OSError as error:
                raise Unavailable(f"the disk does not say how much is free: {error}") from None
            self._looked_s = now_s
            self._left = free - self.reserve_bytes
        if self._left < size:
            raise OutOfSpace("the disk is full up to its reserve: delete something, or add room")

    def take(self, size: int) -> None:
        """Count `size` bytes that will be written. Raises as `require`."""
        self.require(size)
        self._left -= size
