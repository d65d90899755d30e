"""The application of a server that has a store: what answers at which path.

PATHS is the list of everything there is; master_app.py adds what there is of a cluster.
"""

from pulzar.clock import Clock
from pulzar.http import watch
from pulzar.http.admin import Admin
from pulzar.http.application import Application, Paths, short
from pulzar.http.batch import Batches
from pulzar.http.keys import KeyVerbs
from pulzar.http.listing import Lister
from pulzar.http.metrics import Metrics
from pulzar.http.patience import Room
from pulzar.http.watch import Watches
from pulzar.limits import ANSWERS_BYTES_MAX, UPLOAD_CHUNK_TIMEOUT_S
from pulzar.varidb.watching import WatchedStore

PATHS: Paths = {
    "/add_key/{key}": (("PUT",), "put"),
    "/get_key/{key}": (("GET", "HEAD"), "get"),
    "/delete_key/{key}": (("DELETE",), "delete"),
    "/list_keys/{prefix}": (("GET", "HEAD"), "list"),
    **watch.PATHS,
    "/batch": (("POST",), "batch"),
    "/admin/status": (("GET", "HEAD"), "admin"),
    "/admin/compact": (("POST",), "admin"),
    "/healthz": (("GET", "HEAD"), "health"),
    "/readyz": (("GET", "HEAD"), "health"),
    "/metrics": (("GET", "HEAD"), "metrics"),
}


class App(Application):
    """The application over one store."""

    def __init__(
        self,
        store: WatchedStore,
        *,
        clock: Clock,
        chunk_timeout_s: float,
        paths: Paths = PATHS,
    ) -> None:
        super().__init__(paths, chunk_timeout_s=chunk_timeout_s)
        patience = self.patience
        feed = store.feed
        verbs = KeyVerbs(store, feed=feed, clock=clock, tally=self.tally, patience=patience)
        self._put = verbs.put
        self._get = verbs.get
        self._delete = verbs.delete
        admin = Admin(store)
        self.answers = Room(ANSWERS_BYTES_MAX, patience)
        self.lister = Lister(store, patience=patience, answers=self.answers)
        batches = Batches(store, clock=clock, patience=patience, answers=self.answers)
        self.metrics = Metrics(self.tally, store.statistics, feed.statistics)
        self._endpoints = {
            "/list_keys/{prefix}": self.lister.get,
            "/batch": batches.post,
            "/admin/status": short(admin.status),
            "/admin/compact": short(admin.compact),
            "/healthz": short(admin.health),
            "/readyz": short(admin.ready),
            "/metrics": short(self.metrics.get),
            **Watches(store, patience=patience).endpoints,
        }


def build_app(
    store: WatchedStore, *, clock: Clock, chunk_timeout_s: float = UPLOAD_CHUNK_TIMEOUT_S
) -> App:
    """The application over `store`. A client that takes or gives no byte for `chunk_timeout_s`
    in the middle of a value is given up."""
    return App(store, clock=clock, chunk_timeout_s=chunk_timeout_s)
