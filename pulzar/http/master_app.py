"""The application of a server that other machines can join: that of a store, and the cluster's."""

import msgspec
from starlette.types import Receive, Scope, Send

from pulzar.backup.auto import AutoBackup
from pulzar.clock import Clock
from pulzar.cluster.front import FrontStore
from pulzar.cluster.lone import LoneOperations
from pulzar.cluster.operations import Operable, Operations
from pulzar.cluster.store import ClusterStore
from pulzar.disk import Disk
from pulzar.errors import Unavailable
from pulzar.extensions.slots import Extensions
from pulzar.http import (
    agents,
    app,
    autodiscovery,
    cluster_admin,
    files,
    search,
    skynet,
    third_party,
)
from pulzar.http import jobs as job_paths
from pulzar.http.agents import Agents
from pulzar.http.app import App
from pulzar.http.application import Paths
from pulzar.http.autodiscovery import Autodiscovery
from pulzar.http.cluster_admin import ClusterAdmin
from pulzar.http.files import Files
from pulzar.http.internal import Internal
from pulzar.http.jobs import Jobs
from pulzar.http.search import Search
from pulzar.http.skynet import Skynet
from pulzar.http.third_party import ThirdParty
from pulzar.jobs.system import JobSystem
from pulzar.limits import UPLOAD_CHUNK_TIMEOUT_S
from pulzar.varidb.names import Names
from pulzar.varidb.watching import WatchedStore

PATHS: Paths = {
    **app.PATHS,
    **cluster_admin.PATHS,
    **job_paths.PATHS,
    **third_party.PATHS,
    **search.PATHS,
    **skynet.PATHS,
    **agents.PATHS,
}
FRONT_PATHS: Paths = {**PATHS, **autodiscovery.PATHS, **files.PATHS}


class Services(msgspec.Struct, frozen=True):
    """What works beside the store."""

    jobs: JobSystem
    extensions: Extensions
    names: Names
    backup: AutoBackup | None = None

    def start(self, url: str) -> None:
        """The server answers at `url`."""
        self.extensions.url = url
        if self.backup is not None:
            self.backup.start(url)

    async def close(self) -> None:
        """End it all; before the store."""
        if self.backup is not None:
            await self.backup.close()
        await self.extensions.close()
        await self.names.close()
        await self.jobs.close()


def build_master_app(
    cluster: ClusterStore,
    key: str,
    *,
    clock: Clock,
    disk: Disk,
    services: Services,
    chunk_timeout_s: float = UPLOAD_CHUNK_TIMEOUT_S,
) -> App:
    """The application of a master. `key` is the cluster's (hex)."""
    built = App(cluster, clock=clock, chunk_timeout_s=chunk_timeout_s, paths=PATHS)
    internal = Internal(key, patience=built.patience)
    operations = Operations(cluster, clock=clock)
    built.answer(Skynet(cluster, internal).endpoints)
    _answer_services(built, cluster, services, internal, disk)
    built.answer(ClusterAdmin(lambda: operations, patience=built.patience).endpoints)
    return built


def build_front_app(
    front: FrontStore,
    key: str,
    *,
    clock: Clock,
    disk: Disk,
    services: Services,
    chunk_timeout_s: float = UPLOAD_CHUNK_TIMEOUT_S,
) -> App:
    """The application of `pulzar up`: a master, and a volume that other volumes can ask once they
    have joined. `key` is the cluster's (hex)."""
    built = App(front, clock=clock, chunk_timeout_s=chunk_timeout_s, paths=FRONT_PATHS)
    internal = Internal(key, patience=built.patience)
    built.answer(Skynet(front, internal).endpoints)
    _answer_services(built, front, services, internal, disk)
    built.answer(ClusterAdmin(_Current(front, clock), patience=built.patience).endpoints)
    volume_files = Files(front.local.serving, front.name, internal, patience=built.patience)
    built.answer(volume_files.endpoints)
    volume = _Volume(front, internal, built)
    built.answer(dict.fromkeys(autodiscovery.PATHS, volume))
    return built


def _answer_services(
    built: App, store: WatchedStore, services: Services, internal: Internal, disk: Disk
) -> None:
    patience = built.patience
    jobs, extensions = services.jobs, services.extensions
    searches = Search(
        store, services.names, lister=built.lister, patience=patience, answers=built.answers
    )
    built.answer(Jobs(jobs, patience=patience).endpoints)
    built.answer(Agents(jobs, internal).endpoints)
    built.answer(ThirdParty(extensions, disk=disk, patience=patience).endpoints)
    built.answer(searches.endpoints)
    built.metrics.add(jobs.statistics)
    built.metrics.add(extensions.statistics)
    if services.backup is not None:
        built.metrics.add(services.backup.statistics)


class _Current:
    """What is operated on: one machine, or the cluster that it became."""

    def __init__(self, front: FrontStore, clock: Clock) -> None:
        self._front = front
        self._clock = clock
        self._lone = LoneOperations(front)
        self._cluster: Operations | None = None

    def __call__(self) -> Operable:
        if self._front.cluster is None:
            return self._lone
        if self._cluster is None:
            self._cluster = Operations(self._front.cluster, clock=self._clock)
        return self._cluster


class _Volume:
    """The endpoints of the volume in this process, once it is a member."""

    def __init__(self, front: FrontStore, internal: Internal, built: App) -> None:
        self._front = front
        self._internal = internal
        self._app = built

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._internal.authorize(scope)
        served = self._front.served
        if served is None:
            raise Unavailable("this machine is alone: its volume is no member of a cluster")
        patience = self._app.patience
        self._app.answer(Autodiscovery(served, self._internal, patience=patience).endpoints)
        await self._app.again(scope, receive, send)
