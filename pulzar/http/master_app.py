"""The application of a server that other machines can join: that of a store, and the cluster's."""

from pulzar.clock import Clock
from pulzar.cluster.operations import Operations
from pulzar.cluster.store import ClusterStore
from pulzar.http import app, cluster_admin, skynet
from pulzar.http.app import App
from pulzar.http.application import Paths
from pulzar.http.cluster_admin import ClusterAdmin
from pulzar.http.internal import Internal
from pulzar.http.skynet import Skynet
from pulzar.limits import UPLOAD_CHUNK_TIMEOUT_S

PATHS: Paths = {**app.PATHS, **cluster_admin.PATHS, **skynet.PATHS}


def build_master_app(
    cluster: ClusterStore,
    key: str,
    *,
    clock: Clock,
    chunk_timeout_s: float = UPLOAD_CHUNK_TIMEOUT_S,
) -> App:
    """The application over a cluster. `key` is the cluster's (hex)."""
    built = App(cluster, clock=clock, chunk_timeout_s=chunk_timeout_s, paths=PATHS)
    internal = Internal(key, patience=built.patience)
    built.answer(Skynet(cluster, internal).endpoints)
    operations = Operations(cluster, clock=clock)
    built.answer(ClusterAdmin(operations, patience=built.patience).endpoints)
    return built
