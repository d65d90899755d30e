"""A whole cluster in one process and one event loop: a master, and volumes that it calls directly.

    async with LocalCluster(directory, clock, volumes=3, replicas=2) as cluster:
        await cluster.store.put(...)
        await cluster.stop(0)      # a volume goes away, as by kill -9
        await cluster.start(0)     # and returns

Links are the volumes themselves, through a gate that can be shut; heartbeats come when they should.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Self

from pulzar.clock import Clock
from pulzar.cluster.identity import own_key
from pulzar.cluster.link import Link
from pulzar.cluster.messages import (
    Append,
    Appended,
    Compacted,
    DigestPage,
    Fetch,
    Fetched,
    LogPage,
    Presence,
    Pull,
    SessionOpened,
    SessionWanted,
    SnapshotPage,
    Staged,
)
from pulzar.cluster.opening import open_cluster
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.store import ClusterOptions, ClusterStore
from pulzar.disk import Disk, SystemDisk
from pulzar.errors import LinkBroken, PulzarError
from pulzar.varidb.entry import Upload
from pulzar.varidb.position import Cursor
from pulzar.varidb.serving import ServingVolume, StoreOptions, open_volume

KEY = "5a" * 32
HEARTBEAT_S = 0.05
READY_S_MAX = 20.0


class Gate:
    """Implements `link.Link`: calls go to the volume of that name while it is there."""

    def __init__(self, cluster: "LocalCluster", name: str) -> None:
        self._cluster = cluster
        self._name = name

    def _volume(self) -> ServedVolume:
        volume = self._cluster.volumes.get(self._name)
        if volume is None or self._name in self._cluster.cut_off:
            raise LinkBroken(f"{self._name} does not answer")
        return volume

    async def hello(self) -> Presence:
        return await self._volume().hello()

    async def alive(self, wait_s: float) -> Presence:
        return await self._volume().alive(wait_s)

    async def open_session(self, wanted: SessionWanted) -> SessionOpened:
        return await self._volume().open_session(wanted)

    async def append(self, append: Append) -> Appended:
        return await self._volume().append(append)

    async def fetch(self, fetch: Fetch) -> Fetched:
        return await self._volume().fetch(fetch)

    async def log(self, after: Cursor, *, limit: int, wait_s: float) -> LogPage:
        return await self._volume().log(after, limit=limit, wait_s=wait_s)

    async def snapshot(self, after: bytes, *, limit: int) -> SnapshotPage:
        return await self._volume().snapshot(after, limit=limit)

    async def digests(self, after: bytes, *, limit: int) -> DigestPage:
        return await self._volume().digests(after, limit=limit)

    async def pull(self, pull: Pull) -> Staged:
        return await self._volume().pull(pull)

    async def compact(self) -> Compacted:
        return await self._volume().compact()

    async def upload(self, upload: str, *, size: int, peers: list[str]) -> Upload:
        return await self._volume().upload(upload, size=size, peers=peers)

    async def chunks(
        self, key: bytes, version: int, *, start: int, end: int
    ) -> AsyncIterator[bytes]:
        async for chunk in self._volume().chunks(key, version, start=start, end=end):
            yield chunk

    async def close(self) -> None:
        return


class LocalCluster:
    """See the module. Volumes are named v0, v1, ...; their URLs are their names."""

    store: ClusterStore

    def __init__(
        self,
        directory: str,
        clock: Clock,
        *,
        volumes: int = 3,
        replicas: int = 1,
        min_copies: int = 1,
        lost_after_s: float = 600.0,
        disk: Disk | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        self.directory = directory
        self.clock = clock
        self.volumes: dict[str, ServedVolume] = {}
        self.cut_off: set[str] = set()
        self.silent: set[str] = set()  # these send no heartbeats
        self.refused: dict[str, PulzarError] = {}
        self._disk = disk or SystemDisk()
        self._count = volumes
        self._options = options or StoreOptions(reserve_bytes=0)
        self._cluster_options = ClusterOptions(
            replicas=replicas, min_copies=min_copies, lost_after_s=lost_after_s
        )
        self._instances = 0
        self._is_founded = False
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start_master()
        for number in range(self._count):
            await self.start(number)
            await self.until(lambda name=f"v{number}": self.is_online(name))  # type: ignore[misc]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_master()
        for name in list(self.volumes):
            await self.stop(int(name[1:]))

    def connect(self, url: str) -> Link:
        """The link to a volume."""
        return Gate(self, url)

    async def start_master(self) -> None:
        """Start the master on its directory."""
        directory = f"{self.directory}/master"
        self._disk.make_directory(directory)
        if not self._is_founded:
            self._is_founded = True
            own_key(self._disk, directory, token=lambda _: bytes.fromhex(KEY))
        self.store = await open_cluster(
            directory,
            KEY,
            disk=self._disk,
            clock=self.clock,
            connect=self.connect,
            options=self._cluster_options,
        )
        self._beating = asyncio.create_task(self._beat())

    async def stop_master(self) -> None:
        """Stop it."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
            self._beating = None
            await self.store.close()

    async def start(self, number: int) -> ServedVolume:
        """Start a volume on its directory."""
        name = f"v{number}"
        directory = f"{self.directory}/{name}"
        self._disk.make_directory(directory)
        volume = open_volume(directory, disk=self._disk, clock=self.clock, options=self._options)
        self._instances += 1
        serving = ServingVolume(
            directory,
            volume,
            disk=self._disk,
            clock=self.clock,
            options=self._options,
            token=os.urandom,
        )
        served = ServedVolume(
            serving,
            name=name,
            url=name,
            instance=str(self._instances),
            clock=self.clock,
            connect=self.connect,
        )
        await serving.start()
        self.volumes[name] = served
        return served

    async def stop(self, number: int, *, clean: bool = True) -> None:
        """A volume goes away."""
        served = self.volumes.pop(f"v{number}")
        await served.close()
        await served.serving.stop()
        if clean:
            served.serving.close()
        else:
            served.serving.volume.abandon()

    async def _beat(self) -> None:
        while True:
            for name, volume in list(self.volumes.items()):
                if name not in self.cut_off | self.silent:
                    try:
                        await self.store.heartbeat(volume.presence(), name)
                        self.refused.pop(name, None)
                    except PulzarError as error:
                        self.refused[name] = error
            await asyncio.sleep(HEARTBEAT_S)

    def is_online(self, name: str) -> bool:
        """Whether the master uses a volume."""
        return any(
            member.entry.name == name and member.online for member in self.store.members.values()
        )

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds. Raises TimeoutError."""
        async with asyncio.timeout(READY_S_MAX):
            while not holds():
                with contextlib.suppress(TimeoutError):
                    await asyncio.sleep(0.005)
