"""The store of `pulzar up`: that of one machine, until another machine joins.

Alone, every call goes to the store of this machine (varidb/store.py), which needs no network. When
a volume announces itself, or one is known from before, the same volume and the same catalog go on
as the first member of a cluster:

    alone -> writes wait; those under way end -> the volume serves as a member, the catalog follows
          -> its session is open -> the writes that waited go on, in the cluster

There is no way back but `pulzar cluster remove` and a restart.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence

from pulzar.clock import Clock
from pulzar.cluster.identity import cluster_id
from pulzar.cluster.link import Link
from pulzar.cluster.membership import Members, check_presence, may_join
from pulzar.cluster.messages import (
    Committed,
    Presence,
    UploadDone,
    UploadPlan,
    UploadWanted,
    Welcome,
)
from pulzar.cluster.opening import begin_cluster
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.store import ClusterOptions, ClusterStore
from pulzar.disk import Disk
from pulzar.errors import NotReady, PulzarError, Unavailable
from pulzar.limits import HEARTBEAT_S, SWITCH_S_MAX
from pulzar.varidb.entry import (
    Delete,
    Entry,
    Get,
    Got,
    Listing,
    Put,
    Status,
    Store,
    Upload,
    Written,
)
from pulzar.varidb.feed import Feed
from pulzar.varidb.store import LocalStore
from pulzar.varidb.watching import History

_log = logging.getLogger(__name__)


class FrontStore:
    """Implements `entry.Store` over the store of this machine, or that of the cluster it became.

    `key` is the cluster's, `url` where others find this machine; `connect(url)` gives the link to
    another volume.
    """

    def __init__(
        self,
        local: LocalStore,
        key: str,
        directory: str,
        *,
        name: str,
        disk: Disk,
        clock: Clock,
        connect: Callable[[str], Link],
        options: ClusterOptions,
    ) -> None:
        self.url = ""
        self.name = name
        self.local = local
        self.cluster: ClusterStore | None = None
        self.served: ServedVolume | None = None
        self._current: Store = local
        self._key = key
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._connect = connect
        self._options = options
        self._switching = asyncio.Lock()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._beating: asyncio.Task[None] | None = None
        self._instance = os.urandom(8).hex()

    # Becoming a cluster.

    async def become_cluster(self) -> ClusterStore:
        """The store of the cluster, begun if there is none yet. Raises Unavailable."""
        async with self._switching:
            if self.cluster is None:
                self._may_write.clear()
                try:
                    self.cluster = await self._switch()
                finally:
                    self._may_write.set()
            return self.cluster

    async def _switch(self) -> ClusterStore:
        _log.info("this volume goes on as a member of a cluster")
        await self.local.hand_over()
        served = self.served = ServedVolume(
            self.local.serving,
            name=self.name,
            url=self.url,
            instance=self._instance,
            clock=self._clock,
            connect=self._connect,
        )
        cluster = begin_cluster(
            self._directory,
            self._key,
            self.local.catalog,
            disk=self._disk,
            clock=self._clock,
            connect=self._connect,
            options=self._options,
            local=served,
        )
        self._current = cluster
        self._beating = asyncio.create_task(self._beat(cluster, served))
        with contextlib.suppress(TimeoutError):  # it answers 503 until its members are here
            async with asyncio.timeout(SWITCH_S_MAX):
                await cluster.served()
        return cluster

    async def _beat(self, cluster: ClusterStore, served: ServedVolume) -> None:
        """The volume of this process is there, too."""
        while True:
            try:
                await cluster.heartbeat(served.presence(), "")
            except PulzarError as error:
                _log.warning("the volume of this machine: %s", error)
            await asyncio.sleep(HEARTBEAT_S)

    # What volumes ask of a master.

    async def heartbeat(self, presence: Presence, host: str) -> Welcome:
        """See `ClusterStore.heartbeat`. One that may not join leaves this machine alone."""
        if self.cluster is None:
            check_presence(presence)
            itself = Members(cluster=cluster_id(self._key), generation=1)
            may_join(itself, presence, may_found=True)
        cluster = self.cluster or await self.become_cluster()
        if not cluster.members and self.served is not None and presence.id != self.served.id:
            raise NotReady("the volume of this machine comes first: it is no member yet")
        return await cluster.heartbeat(presence, host)

    async def plan_upload(self, wanted: UploadWanted) -> UploadPlan:
        """See `ClusterStore.plan_upload`."""
        return await self._clustered().plan_upload(wanted)

    async def commit_upload(self, done: UploadDone) -> Committed:
        """See `ClusterStore.commit_upload`."""
        return await self._clustered().commit_upload(done)

    def _clustered(self) -> ClusterStore:
        if self.cluster is None:
            raise Unavailable("this machine is alone: no volume has joined it")
        return self.cluster

    # The store.

    @property
    def direct_bytes_max(self) -> int:
        """See `entry.Store`."""
        return self._current.direct_bytes_max

    @property
    def feed(self) -> Feed:
        """See `watching.Watchable`."""
        return self.local.feed

    @property
    def history(self) -> History:
        """See `watching.Watchable`."""
        return self.local.history

    def lookup(self, key: bytes) -> Entry | None:
        """See `entry.Store`."""
        return self._current.lookup(key)

    async def confirm(self, key: bytes, entry: Entry) -> Entry | None:
        """See `entry.Store`."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        return await self._current.confirm(key, entry)

    async def complete(self, key: bytes, entry: Entry) -> Entry:
        """See `entry.Store`."""
        return await self._current.complete(key, entry)

    async def read(self, key: bytes, entry: Entry) -> bytes:
        """See `entry.Store`."""
        return await self._current.read(key, entry)

    def chunks(self, key: bytes, entry: Entry, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See `entry.Store`."""
        return self._current.chunks(key, entry, start=start, end=end)

    async def put(self, put: Put) -> Written:
        """See `entry.Store`."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        return await self._current.put(put)

    async def delete(self, delete: Delete) -> Written:
        """See `entry.Store`."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        return await self._current.delete(delete)

    def elsewhere(self, entry: Entry) -> str | None:
        """See `entry.Store`."""
        return self._current.elsewhere(entry)

    def upload_elsewhere(self, size: int, replicas: int) -> str | None:
        """See `entry.Store`."""
        return self._current.upload_elsewhere(size, replicas)

    async def upload(self, *, size: int = 0, replicas: int = 0) -> Upload:
        """See `entry.Store`."""
        return await self._current.upload(size=size, replicas=replicas)

    async def put_upload(self, put: Put, upload: Upload) -> Written:
        """See `entry.Store`. An upload that began while this machine was alone is refused when it
        is not any more."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        return await self._current.put_upload(put, upload)

    async def batch(
        self, operations: Sequence[Put | Delete | Get]
    ) -> list[Written | Got | Exception]:
        """See `entry.Store`."""
        if not self._may_write.is_set():
            await self._may_write.wait()
        return await self._current.batch(operations)

    def list_keys(
        self, prefix: bytes, *, after: bytes | None, limit: int, delimiter: bytes | None
    ) -> Listing:
        """See `entry.Store`."""
        return self._current.list_keys(prefix, after=after, limit=limit, delimiter=delimiter)

    def status(self) -> Status:
        """See `entry.Store`."""
        return self._current.status()

    def holders(self, key: bytes) -> list[str]:
        """The names of the volumes that have a key and are online; none where it is not there."""
        if self.cluster is not None:
            return self.cluster.holders(key)
        return [] if self.local.lookup(key) is None else [self.name]

    def not_ready(self) -> str | None:
        """See `entry.Store`."""
        return self._current.not_ready()

    def statistics(self) -> dict[str, float]:
        """See `entry.Store`."""
        found = self._current.statistics()
        return found if self.cluster is None else {**self.local.serving.statistics(), **found}

    async def compact(self) -> dict[str, int]:
        """See `entry.Store`."""
        return await self._current.compact()

    async def failure(self) -> str:
        """Waits until this machine cannot go on, and says why: then the process must end."""
        return await self.local.failure()

    def leave(self) -> None:
        """It is about to stop: let go of machines that wait for something to happen."""
        if self.served is not None:
            self.served.leave()

    async def close(self) -> None:
        """See `entry.Store`."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        if self.cluster is None:
            await self.local.close()
            return
        await self.cluster.close()
        if self.served is not None:
            await self.served.close()
        await self.local.serving.stop()
        self.local.serving.close()
