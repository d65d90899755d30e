"""One backup of a cluster: from who its volumes are to the pruning of old snapshots."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from pulzar.backup.run import Asked, Ran, back_up, snapshot_ids
from pulzar.backup.source import LocalSource, Network, open_source, read_files
from pulzar.backup.stock import prune
from pulzar.backup.target import DirectoryTarget, Target
from pulzar.client.save import OnBytes
from pulzar.client.sync import Client
from pulzar.cluster.identity import cluster_id
from pulzar.disk import Disk
from pulzar.errors import BackupUnfit, LinkBroken, PulzarError


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be backed up where. `url` is the master's, `key` the cluster's (hex); `options`
    are for `open_target`. `keep` snapshots stay, 0 for all; `interval_s` is between two."""

    url: str
    key: str
    target: str
    options: dict[str, str] = {}
    keep: int = 0
    interval_s: int = 0


def back_up_site(
    site: Site,
    target: Target,
    *,
    disk: Disk,
    now: datetime,
    on_size: Callable[[int], None],
    on_bytes: OnBytes,
) -> Ran:
    """Make a snapshot of every volume that answers, and prune.

    Raises BackupUnfit, BackupUnreachable, OutOfSpace, Unavailable where no volume answers.
    """
    network = Network(site.key)
    try:
        with Client(site.url) as client:
            nodes: list[dict[str, Any]] = client.admin("GET", "cluster")["nodes"]
        asked = [_asked(network, node, disk) for node in nodes]
        sources = [one.source for one in asked if one.source is not None]
        if not sources:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in asked) or "there is none"
            raise BackupUnfit(f"no volume can be backed up ({reasons})")
        for source in sources:
            if isinstance(source, LocalSource) and isinstance(target, DirectoryTarget):
                _require_outside(target.where, os.path.dirname(source.files.directory))
        on_size(sum(segment.bytes for one in sources for segment in one.files.segments))
        ran = back_up(
            target,
            asked,
            key=site.key,
            cluster=cluster_id(site.key),
            alone=len(nodes) == 1 and _is_volume(network, site.url, nodes[0]["id"]),
            now=now,
            on_bytes=on_bytes,
        )
    finally:
        network.close()
    if site.keep:
        prune(target, site.keep)
    return ran


def due_in_s(target: Target, interval_s: int, now: datetime) -> float:
    """How long until the next snapshot is due; 0 for now."""
    ids = snapshot_ids(target)
    if not ids:
        return 0.0
    last = datetime.strptime(ids[-1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return max(0.0, (last + timedelta(seconds=interval_s) - now).total_seconds())


def _asked(network: Network, node: dict[str, Any], disk: Disk) -> Asked:
    if node["state"] in ("offline", "lost"):
        return Asked(node["id"], node["node"], None, f"it is {node['state']}")
    try:
        return Asked(node["id"], node["node"], open_source(network, node["url"], disk))
    except PulzarError as error:
        return Asked(node["id"], node["node"], None, str(error))


def _is_volume(network: Network, url: str, volume: str) -> bool:
    """Whether what answers as the master is that volume itself: one machine, `pulzar up`."""
    try:
        return read_files(network, url).id == volume
    except LinkBroken:
        return False


def _require_outside(target: str, data: str) -> None:
    """Raise BackupUnfit for a target inside of what is backed up."""
    where, data = os.path.realpath(target), os.path.realpath(data)
    if where == data or where.startswith(data + os.sep):
        raise BackupUnfit(f"{target} is inside the data directory {data}: use another disk")
