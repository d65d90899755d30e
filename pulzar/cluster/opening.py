"""Opens the master's side of a cluster: catalog and memory, wired to what works with them."""

import logging
import os
import random
from collections.abc import Callable

from pulzar.clock import Clock
from pulzar.cluster.identity import STATE_NAME, cluster_id, read_state
from pulzar.cluster.link import Link
from pulzar.cluster.master import Master
from pulzar.cluster.served import ServedVolume
from pulzar.cluster.store import ClusterOptions, ClusterStore
from pulzar.disk import Disk
from pulzar.varidb.catalog import Catalog

_log = logging.getLogger(__name__)


async def open_cluster(
    directory: str,
    key: str,
    *,
    disk: Disk,
    clock: Clock,
    connect: Callable[[str], Link],
    options: ClusterOptions | None = None,
    token: Callable[[int], bytes] = os.urandom,
    draw: Callable[[], float] = random.random,
) -> ClusterStore:
    """Open the master's side of the cluster with that key. Raises OpenError, OSError."""
    identity = bytes.fromhex(cluster_id(key))
    catalog = Catalog.open(f"{directory}/catalog.views", identity=identity)
    try:
        return begin_cluster(
            directory,
            key,
            catalog,
            disk=disk,
            clock=clock,
            connect=connect,
            options=options or ClusterOptions(),
            token=token,
            draw=draw,
        )
    except BaseException:  # whatever it is, nothing may stay open
        catalog.close(clean=False)
        raise


def begin_cluster(
    directory: str,
    key: str,
    catalog: Catalog,
    *,
    disk: Disk,
    clock: Clock,
    connect: Callable[[str], Link],
    options: ClusterOptions,
    token: Callable[[int], bytes] = os.urandom,
    draw: Callable[[], float] = random.random,
    local: ServedVolume | None = None,
) -> ClusterStore:
    """Begin to be the master of a cluster with this catalog; `local` is the volume of this
    process, if it has one. Raises OpenError, OSError, OutOfSpace.

    The catalog is kept only where cluster.json tells whom its numbers mean.
    """
    catalog.feed.pause()
    state = read_state(disk, directory, cluster_id(key))
    generation = catalog.generation()
    if generation != state.members.generation:
        _log.warning(
            "the catalog belongs to list of members %d, %s has list %d: it is filled anew",
            generation,
            STATE_NAME,
            state.members.generation,
        )
        catalog.reset()
    store = ClusterStore(catalog, clock=clock, options=options, draw=draw)
    store.master = Master(
        directory,
        state,
        disk=disk,
        clock=clock,
        catalog=catalog,
        writer=store.writer,
        replicator=store.replicator,
        follower=store.follower,
        members=store.members,
        lost_after_s=options.lost_after_s,
        connect=connect,
        token=token,
        changed=store.changed,
        returned=store.repair.returned,
        local=local,
    )
    store.start()
    return store
