"""A volume that serves: its log with the commit thread, its readers, its maintenance.

    DIRECTORY/volume/          the volume: the log is the database
    DIRECTORY/volume.views/    its index           (may be deleted while the process is down)
    DIRECTORY/scrub.json       how far the scrub is

A store on one machine is one of these with a catalog (store.py); a volume of a cluster is one
with a master elsewhere.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec

from pulzar.clock import Clock
from pulzar.disk import Disk
from pulzar.errors import PulzarError, Unavailable
from pulzar.limits import (
    COMPACT_MANUAL_RATIO_MAX,
    DISK_RESERVE_BYTES,
    DISK_THREADS,
    RETIRED_GRACE_S,
    SEGMENT_BYTES,
)
from pulzar.varidb.commit import Committer, Follow, Worker
from pulzar.varidb.disk_room import DiskRoom
from pulzar.varidb.index import Index
from pulzar.varidb.maintenance import Maintenance, Purged
from pulzar.varidb.reader import Reader
from pulzar.varidb.upload import BlobUpload
from pulzar.varidb.volume import Options, Volume

_log = logging.getLogger(__name__)


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be set of a volume and the disk that it is on."""

    reserve_bytes: int = DISK_RESERVE_BYTES
    segment_bytes: int = SEGMENT_BYTES
    grace_s: int = RETIRED_GRACE_S


def views_of(directory: str) -> str:
    """Where the index of the volume in `directory` is."""
    return f"{directory}/volume.views"


def open_volume(
    directory: str,
    *,
    disk: Disk,
    clock: Clock,
    options: StoreOptions,
    token: Callable[[int], bytes] = os.urandom,
) -> Volume:
    """Open the volume in `directory`, or begin one there. Raises OpenError, OutOfSpace."""
    return Volume.open(
        f"{directory}/volume",
        disk=disk,
        open_index=lambda volume_id: Index.open(views_of(directory), identity=volume_id),
        token=token,
        now_ms=clock.now_ms(),
        options=Options(segment_bytes=options.segment_bytes, grace_s=options.grace_s),
    )


class ServingVolume:
    """One event loop. `follow` and `purged` are the catalog's, where it is in this process;
    `take_superseded` says how many bytes were superseded since the last call."""

    def __init__(
        self,
        directory: str,
        volume: Volume,
        *,
        disk: Disk,
        clock: Clock,
        options: StoreOptions,
        token: Callable[[int], bytes],
        take_superseded: Callable[[], int] = int,
        follow: Follow | None = None,
        purged: Purged | None = None,
        executor: Executor | None = None,
        worker: Worker | None = None,
    ) -> None:
        """`executor` and `worker` do what waits for disks: threads, unless others are given."""
        self.directory = directory
        self.volume = volume
        self.disk = disk
        self.executor = executor or ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self.committer = Committer(volume, clock=clock, follow=follow, worker=worker)
        self.reader = Reader(volume, self.executor)
        self.room = DiskRoom(disk, directory, clock=clock, reserve_bytes=options.reserve_bytes)
        self.maintenance = Maintenance(
            volume,
            self.committer,
            disk=disk,
            directory=directory,
            views=views_of(directory),
            clock=clock,
            token=token,
            take_superseded=take_superseded,
            purged=purged,
        )
        self._clock = clock

    async def start(self) -> None:
        """Start the work beside requests, and say what the opening met."""
        await self.maintenance.start()
        for damaged in self.volume.damaged:
            _log.error("damage in the log: %s", damaged)
        for remark in self.volume.remarks:
            _log.warning("opening the volume: %s; `pulzar check` tells more", remark)

    async def failure(self) -> str:
        """Waits until the volume cannot go on, and says why: then the process must end."""
        return await asyncio.shield(self.maintenance.failed)

    async def upload(self, *, size: int = 0) -> BlobUpload:
        """Begin a value of any size; `size` is what was announced. Raises OutOfSpace,
        Unavailable."""
        self.committer.require_writable()
        self.room.require(size)
        loop = asyncio.get_running_loop()
        try:
            writer = await loop.run_in_executor(self.executor, self.volume.blob_writer)
        except OSError as error:
            raise Unavailable(f"a file for the value could not be made: {error}") from None
        return BlobUpload(writer, self.executor, room=self.room)

    async def compact(self) -> dict[str, int]:
        """Rewrite every sealed segment that holds superseded records; returns what was done."""
        self.committer.require_writable()
        return await self.maintenance.compact(live_ratio_max=COMPACT_MANUAL_RATIO_MAX)

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name, see `Store.statistics`."""
        log = self.volume.log
        return {
            "commit_batches_total": self.committer.batches_total,
            "compactions_total": self.maintenance.compactions_total,
            "purged_deletes_total": self.maintenance.purged_total,
            "scrubbed_bytes_total": self.maintenance.scrubbed_bytes_total,
            "damaged_copies": len(self.maintenance.damaged()),
            "damaged_reads_total": self.reader.damaged_total,
            "damaged_places": len(self.volume.damaged),
            "log_seq": log.durable_seq,
            "segments": len(self.volume.segments) + 1,
            "disk_free_bytes": self.disk.free_bytes(self.directory),
            "writable": 0.0 if log.failed else 1.0,
        }

    async def stop(self) -> None:
        """End what runs beside requests, after the writes under way."""
        await self.maintenance.close()
        await self.committer.close()
        self.executor.shutdown(wait=True)

    def close(self) -> None:
        """Write a checkpoint, close cleanly. Behind `stop`. Raises Unavailable."""
        try:
            self.volume.close(now_ms=self._clock.now_ms())
        except (OSError, PulzarError) as error:
            raise Unavailable(f"the volume could not be closed cleanly: {error}") from None
