"""What `pulzar up`, `pulzar master` and `pulzar volume` run: settings, store and server, wired.

    settings -> open what is served (recovery) -> build the application -> serve until told to stop
             -> finish the requests under way -> close

How it stops is in lifetime.py.
"""

import asyncio
import errno
import gc
import logging
import os
import random
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from pulzar.backup.auto import AutoBackup
from pulzar.backup.once import Site
from pulzar.backup.place import place_of
from pulzar.clock import Clock
from pulzar.cluster.front import FrontStore
from pulzar.cluster.heartbeat import Heartbeat
from pulzar.cluster.identity import (
    KEY_NAME,
    STATE_NAME,
    cluster_id,
    keep_key,
    own_key,
    read_key,
    read_state,
)
from pulzar.cluster.opening import open_cluster
from pulzar.cluster.remote import MasterLink, Network
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.store import ClusterOptions, ClusterStore
from pulzar.config import Config, url_of
from pulzar.disk import Disk
from pulzar.errors import NotAVolume, OpenError, VolumeReadOnly
from pulzar.extensions.slots import Extensions, sweep
from pulzar.http.master_app import Services, build_front_app, build_master_app
from pulzar.http.volume_app import VolumeApp
from pulzar.jobs.agent_process import AgentProcess
from pulzar.jobs.dask_engine import DaskEngine
from pulzar.jobs.dask_lines import Begin
from pulzar.jobs.ledger import Kept
from pulzar.jobs.local import LocalEngine
from pulzar.jobs.scripts import Scripts
from pulzar.jobs.system import JobSystem
from pulzar.lifetime import OnReady, first, leave_at, serve_until_told, stop_on_signals
from pulzar.varidb.entry import Store
from pulzar.varidb.identity import IDENTITY_NAME
from pulzar.varidb.names import Names
from pulzar.varidb.serving import ServingVolume, StoreOptions, open_volume
from pulzar.varidb.store import open_store
from pulzar.varidb.volume import cannot_open

AGENT_NAME = "agent"
BODIES_NAME = "third_party"  # of extensions, while they are called
NAMES_NAME = "names.views"  # for searches; may be deleted while the process is down
OUR_NAMES = {
    AGENT_NAME,
    BODIES_NAME,
    NAMES_NAME,
    "scrub.json",
    "volume",
    "volume.views",
    "catalog.views",
    "lost+found",
    "master",
    KEY_NAME,
    STATE_NAME,
}
SLOTS_PER_PROCESSOR = 4  # of extensions: they wait for the store, or for others

log = logging.getLogger(__name__)


def configure_log(level: str) -> None:
    """Write the log of the whole program to stderr, one plain line per event."""
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        level=level.upper(),
        force=True,
    )


def log_settings(config: Config, directory: str, field: str) -> None:
    """Say where the site, its settings and its data are."""
    log.info("site %s, settings from %s", config.app_dir, config.file or "nowhere: defaults")
    log.info("data in %s (%s)", directory, config.origins[field])


async def run(config: Config, *, disk: Disk, clock: Clock, on_ready: OnReady) -> None:
    """Serve everything from this machine until SIGTERM or SIGINT. `on_ready` is given the URL once
    it answers.

    Raises OpenError where the data directory or the port cannot be had, Unavailable where a
    process that belongs to the program has ended.
    """
    stop = stop_on_signals()
    _require_backup_target(config)
    log_settings(config, config.data_dir, "data_dir")
    directory = config.data_dir
    check_data_directory(disk, directory)
    gc.disable()  # what an opening holds, it holds until it ends
    key, alone = _own_cluster(disk, directory)
    local = await open_store(
        directory, disk=disk, clock=clock, options=store_options(config), alone=alone
    )
    network = Network(key)
    front = FrontStore(
        local,
        key,
        directory,
        name=config.volume_name or socket.gethostname(),
        disk=disk,
        clock=clock,
        connect=network.volume,
        options=cluster_options(config),
    )

    agent = _agent(config, key, front.name, directory)
    services = _services(config, key, front, directory, disk=disk, clock=clock)
    jobs = services.jobs

    def ready(url: str) -> None:
        front.url = config.advertise or url
        services.start(url)
        agent.start(url)
        on_ready(url)

    async def close() -> None:
        leaving.cancel()
        await agent.close()
        await services.close()
        await front.close()
        await network.close()

    leaving = asyncio.create_task(leave_at(stop, front.leave, front.feed.close, jobs.leave))

    if not local.alone:
        front.url = config.advertise or url_of(config.host, config.port)
        await front.become_cluster()
    jobs.start()
    app = build_front_app(
        front,
        key,
        clock=clock,
        disk=disk,
        services=services,
        chunk_timeout_s=config.client_timeout_s,
    )
    await serve_until_told(
        app,
        config.host,
        config.port,
        stop=stop,
        on_ready=ready,
        failure=front.failure,
        close=close,
    )


def _own_cluster(disk: Disk, directory: str) -> tuple[str, bool]:
    """The key of the cluster that a machine is the master of, and whether it is alone in it.
    Raises OpenError."""
    try:
        disk.make_directory(directory)
        key = own_key(disk, directory, token=secrets.token_bytes)
        return key, not read_state(disk, directory, cluster_id(key)).members.generation
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise cannot_open(directory, error) from error
        raise VolumeReadOnly(f"{directory} cannot be written: {error.strerror}") from error


async def run_master(
    config: Config, *, disk: Disk, clock: Clock, on_ready: OnReady, new_cluster: bool = False
) -> None:
    """Serve as the master of volumes that are programs of their own. As `run`.

    `new_cluster`: the key that is there is that of a cluster which has no volumes yet.
    """
    stop = stop_on_signals()
    _require_backup_target(config)
    directory = config.master_dir
    log_settings(config, directory, "master_dir")
    check_data_directory(disk, directory)
    gc.disable()
    try:
        disk.make_directory(directory)
        key = own_key(disk, directory, token=secrets.token_bytes, new_cluster=new_cluster)
        async with AsyncExitStack() as undo:
            network = Network(key)
            undo.push_async_callback(network.close)
            store = await open_cluster(
                directory,
                key,
                disk=disk,
                clock=clock,
                connect=network.volume,
                options=cluster_options(config),
            )
            undo.pop_all()
    except OSError as error:
        raise OpenError(f"{directory} cannot be used: {error}") from error
    services = _services(config, key, store, directory, disk=disk, clock=clock)
    jobs = services.jobs
    leaving = asyncio.create_task(leave_at(stop, store.feed.close, jobs.leave))
    jobs.start()
    app = build_master_app(
        store,
        key,
        clock=clock,
        disk=disk,
        services=services,
        chunk_timeout_s=config.client_timeout_s,
    )

    def ready(url: str) -> None:
        services.start(url)
        on_ready(url)

    async def close() -> None:
        leaving.cancel()
        await services.close()
        await store.close()
        await network.close()

    await serve_until_told(
        app,
        config.host,
        config.port,
        stop=stop,
        on_ready=ready,
        failure=store.failure,
        close=close,
    )


def _key_path(disk: Disk, directory: str, master_dir: str) -> str:
    """Where the key of a volume's cluster is: where it keeps it, else with a master of the same
    site."""
    kept, masters = f"{directory}/{KEY_NAME}", f"{master_dir}/{KEY_NAME}"
    return masters if not disk.exists(kept) and disk.exists(masters) else kept


async def run_volume(config: Config, *, disk: Disk, clock: Clock, on_ready: OnReady) -> None:
    """Serve a volume to its master. As `run`; also raises InvalidSetting without the cluster's
    key, MemberRefused and Forbidden where the master does not want the volume."""
    stop = stop_on_signals()
    directory = config.data_dir
    log_settings(config, directory, "data_dir")
    check_data_directory(disk, directory)
    key_path = config.key_file or _key_path(disk, directory, config.master_dir)
    key = read_key(disk, key_path)
    gc.disable()
    options = store_options(config)
    volume = open_volume(directory, disk=disk, clock=clock, options=options)
    network = Network(key)
    master = MasterLink(network, config.master_url or url_of(config.host, config.port))
    serving = ServingVolume(
        directory, volume, disk=disk, clock=clock, options=options, token=os.urandom
    )
    served = ServedVolume(
        serving,
        name=config.volume_name or socket.gethostname(),
        url=config.volume_advertise,
        instance=secrets.token_hex(8),
        clock=clock,
        connect=network.volume,
    )
    await serving.start()
    heartbeat = Heartbeat(served, master, key_path=key_path)
    leaving = asyncio.create_task(leave_at(stop, served.leave))

    agent = _agent(config, key, served.name, directory)

    def ready(url: str) -> None:
        served.url = served.url or url
        keep_key(disk, directory, key)
        heartbeat.start()
        agent.start(master.url)
        on_ready(url)

    async def close() -> None:
        leaving.cancel()
        await agent.close()
        await heartbeat.close()
        await served.close()
        await serving.stop()
        serving.close()
        await network.close()

    async def failure() -> str:
        return await first(serving.failure(), heartbeat.refused())

    app = VolumeApp(served, master, key=key, clock=clock, chunk_timeout_s=config.client_timeout_s)
    await serve_until_told(
        app,
        config.volume_host,
        config.volume_port,
        stop=stop,
        on_ready=ready,
        failure=failure,
        close=close,
    )


def store_options(config: Config) -> StoreOptions:
    """What the settings say of a volume."""
    return StoreOptions(
        reserve_bytes=config.reserve_bytes,
        segment_bytes=config.segment_bytes,
        grace_s=config.retired_grace_s,
    )


def cluster_options(config: Config) -> ClusterOptions:
    """What the settings say of a cluster."""
    return ClusterOptions(
        replicas=config.replicas,
        min_copies=config.min_copies,
        lost_after_s=config.lost_after_s,
        follow_records=config.backup_chunk_records,
    )


def _job_system(
    config: Config,
    key: str,
    store: Store,
    holders: Callable[[bytes], Sequence[str]],
    *,
    clock: Clock,
) -> JobSystem:
    begin = Begin(key, config.host, config.log_level)
    dask = partial(DaskEngine, begin=begin, nodes_min=1 if config.job_engine == "dask" else 2)
    return JobSystem(
        store,
        Scripts(config.jobs_dir),
        clock=clock,
        holders=lambda key: holders(key.encode()),
        draw=random.random,
        kept=Kept(config.job_keep, config.job_keep_s),
        engine=LocalEngine if config.job_engine == "local" else dask,
    )


def _agent(config: Config, key: str, node: str, directory: str) -> AgentProcess:
    return AgentProcess(
        key=key,
        node=node,
        slots=(os.cpu_count() or 1) if config.job_slots < 0 else config.job_slots,
        directory=os.path.join(directory, AGENT_NAME),
        memory_bytes=config.job_memory_bytes,
        is_fresh=config.job_isolation == "fresh",
        log_level=config.log_level,
    )


def _services(
    config: Config,
    key: str,
    store: FrontStore | ClusterStore,
    directory: str,
    *,
    disk: Disk,
    clock: Clock,
) -> Services:
    """What works beside a store. Raises OpenError."""
    return Services(
        jobs=_job_system(config, key, store, store.holders, clock=clock),
        extensions=_extensions(config, directory),
        names=Names(f"{directory}/{NAMES_NAME}", store.history, store.feed, disk=disk),
        backup=_backup(config, key, clock),
    )


def _require_backup_target(config: Config) -> None:
    """Raise BackupUnfit where backups are active and have no target, before anything is opened."""
    if config.backup_active:
        place_of(config)


def _backup(config: Config, key: str, clock: Clock) -> AutoBackup | None:
    if not config.backup_active:
        return None
    place = place_of(config)
    site = Site(
        url="",
        key=key,
        target=place.url,
        options=place.options,
        keep=config.backup_keep,
        interval_s=config.backup_interval_s,
    )
    return AutoBackup(site, clock)


def _extensions(config: Config, directory: str) -> Extensions:
    """Raises OpenError."""
    processors = os.cpu_count() or 1
    work = os.path.join(directory, BODIES_NAME)
    try:
        sweep(work)
    except OSError as error:
        raise cannot_open(work, error) from error
    return Extensions(
        config.third_party_dir,
        slots=SLOTS_PER_PROCESSOR * processors
        if config.third_party_slots < 0
        else config.third_party_slots,
        timeout_s=config.third_party_timeout_s,
        memory_bytes=config.third_party_memory_bytes,
        work=work,
    )


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
