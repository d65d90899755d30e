"""A record on its way to the volumes that are to have it.

    launched -> queued at each of its volumes -> each one answers: durable, refused, or unknown
             -> landed: nobody is waited for any more

An acknowledgement carries a `Tracker`: the cursor behind the append that it was in, and how many of
that append's records are not in the catalog yet. The catalog's cursor of a volume may move past an
append only when that is zero.
"""

from collections.abc import Callable

from pulzar.cluster.messages import NewRecord
from pulzar.errors import PulzarError
from pulzar.varidb.catalog_row import Change
from pulzar.varidb.commit import Write
from pulzar.varidb.position import Cursor


class Tracker:
    """One acknowledged append of one volume."""

    __slots__ = ("cursor", "missing")

    def __init__(self, cursor: Cursor, missing: int) -> None:
        self.cursor = cursor
        self.missing = missing


class Flight:
    """One record. `holders` are (number, stamp) of the volumes on which it is durable.

    `write` is a client's, or None for a record of the cluster's own: then `change` is what the
    catalog is told of it, if anything, and `landed` is called at the end.
    """

    __slots__ = (
        "change",
        "error",
        "holders",
        "landed",
        "record",
        "replaces",
        "size",
        "tracked",
        "tried",
        "unknown",
        "waiting",
        "wanted",
        "write",
    )

    def __init__(
        self,
        record: NewRecord,
        *,
        wanted: int,
        size: int = 0,
        write: Write | None = None,
        change: Change | None = None,
        replaces: tuple[tuple[int, ...], int] = ((), 0),
        landed: Callable[["Flight"], None] | None = None,
    ) -> None:
        """`size` is what it takes of a disk; `replaces` are the volumes that hold the version
        before, and its size."""
        self.record = record
        self.wanted = wanted
        self.size = size
        self.write = write
        self.change = change
        self.replaces = replaces
        self.landed = landed
        self.waiting = 0
        self.holders: list[tuple[int, int]] = []
        self.tracked: list[Tracker] = []
        self.tried: set[int] = set()
        self.unknown = False  # some volume may have it, and did not say so
        self.error: PulzarError | None = None  # why a volume refused it
