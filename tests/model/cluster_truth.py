"""What must hold in the cluster model, whatever happened: what clients were told, held against what
is on the disks and what the master says.

Of each key the `floor` is the newest that a client was told or could have read: a version, and
whether it is a value. Only the directory of a volume that is put back as it was, and a volume that
is given up, may take something away; what they take is in `gone`, from the disks themselves, and
nothing else may be missing. While the catalog is intact, what is gone is still refused, not
answered by something older.
"""

from collections.abc import Iterable

import msgspec

from pulzar.cluster.reconcile import Known
from pulzar.varidb.catalog_row import Row
from pulzar.varidb.record import Type, epoch_of
from tests.model.cluster_disk import PUTS, Disk


class Violation(AssertionError):
    """A promise is broken."""


class Floor(msgspec.Struct, frozen=True):
    """The newest that is known of a key by somebody outside."""

    version: int = 0
    is_value: bool = False


NOTHING = Floor()


def version_of(known: Known) -> int:
    """The version at which the catalog has a key, deleted or not; 0 for nothing."""
    return known.version if isinstance(known, Row) else known or 0


class Truth:
    """One history's."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.floors = dict.fromkeys(keys, NOTHING)
        self.gone: set[bytes] = set()
        self.excused: set[bytes] = set()  # of these nothing was promised since all memory was lost
        self.given: dict[int, tuple[bytes, Type, bytes]] = {}  # the last one is the master's id
        self.refused: set[int] = set()
        self.doubtful: set[int] = set()  # a disk that acknowledged it has lost it since

    # What clients are told.

    def give(
        self, version: int, key: bytes, type_: Type, *, master: bytes, disks: Iterable[Disk]
    ) -> None:
        """A master gives a version to a write."""
        if version in self.given:
            raise Violation(f"version {version:x} is given twice")
        newest = max((disk.index[key].version for disk in disks if key in disk.index), default=0)
        if version <= max(newest, self.floors[key].version):
            raise Violation(f"a new write of {key!r} at {version:x} sorts below {newest:x}")
        self.given[version] = key, type_, master

    def answer(self, key: bytes, floor: Floor) -> None:
        """A write is acknowledged."""
        if floor.version <= self.floors[key].version:
            raise Violation(f"{key!r}: acknowledged at {floor.version:x}, which is not the newest")
        self.floors[key] = floor
        self.excused.discard(key)
        self.gone.discard(key)
        if floor.version in self.doubtful:
            self.gone.add(key)

    def condition(self, key: bytes, version: int | None) -> None:
        """A condition was held against a version, or against nothing."""
        floor = self.floors[key]
        told = floor.version if floor.is_value else None
        if version != told:
            raise Violation(f"{key!r}: a condition was held against {version}, not {told}")

    def refuse(self, version: int) -> None:
        """A client is told that nothing was written."""
        self.refused.add(version)

    def read(self, key: bytes, version: int) -> None:
        """A read is answered with the value of a version."""
        if version != self.floors[key].version or not self.floors[key].is_value:
            raise Violation(f"{key!r}: read {version:x}, the newest is {self.floors[key]}")

    def absent(self, key: bytes) -> None:
        """A read is answered 404: what was there has expired, or is deleted."""
        self.floors[key] = msgspec.structs.replace(self.floors[key], is_value=False)

    # What is looked at after every step.

    def look(self, rows: dict[bytes, Known], now_s: int, *, is_ready: bool) -> None:
        """Where the catalog is served, what it says is what anybody may read now. What it has
        taken in that is newer than what was told is true from then on, served or not."""
        for key, floor in self.floors.items():
            known = rows.get(key)
            version = version_of(known)
            if version > floor.version:
                self._see(key, known, version)
            if not is_ready:
                continue
            if version < floor.version and (isinstance(known, Row) or floor.is_value):
                what = "came back" if isinstance(known, Row) else "is a false 404"
                raise Violation(f"{key!r} {what} at {version:x}: {floor.version:x} was told")
            if version != floor.version or floor.is_value or not isinstance(known, Row):
                continue
            if not 0 < known.expires_s <= now_s:
                raise Violation(f"{key!r} came back: it was said to be gone at {version:x}")

    def _see(self, key: bytes, known: Known, version: int) -> None:
        """Something newer than what was known outside: a write whose outcome was not known."""
        given = self.given.get(version)
        if given is None or given[0] != key or version in self.refused:
            raise Violation(f"{key!r} is at {version:x}, which nobody wrote")
        is_value = isinstance(known, Row)
        if is_value != (given[1] in PUTS):
            raise Violation(f"{key!r} at {version:x} is not what was written: {known}")
        self.floors[key] = Floor(version, is_value=is_value)
        if key in self.excused:
            self.gone.add(key)
        else:
            self.gone.discard(key)

    def hold(self, disks: list[Disk], *, purges: bool) -> None:
        """What was told is on some disk, at that version or at a newer one; deletes need not be
        where they are purged."""
        for key, floor in self.floors.items():
            if key in self.gone or (purges and not floor.is_value):
                continue
            if newest(key, disks) < floor.version:
                raise Violation(f"{key!r}: no disk has what was told: {floor}")

    # What fate takes.

    def take(self, before: list[Disk], after: list[Disk]) -> None:
        """Disks went back in time, or were given up: what only they had is gone."""
        for key, floor in self.floors.items():
            if newest(key, before) >= floor.version > newest(key, after):
                self.gone.add(key)

    def begin_again(
        self,
        disks: list[Disk],
        awaited: list[Disk],
        *,
        rows: dict[bytes, Known],
        was_taken: bool,
    ) -> None:
        """There is no catalog, or one that is being filled. Of a key of which neither that nor any
        disk has the newest version any more, not even that it was moved away, nothing is promised
        but what is there. An epoch of which none of the disks that are `awaited` knows may be taken
        a second time, and its versions given again."""
        for key in list(self.gone):
            left = max(newest(key, disks, moved=True), version_of(rows.get(key)))
            if left < self.floors[key].version:
                is_lost = left > newest(key, disks)
                self.floors[key] = Floor(left, is_value=True) if is_lost else NOTHING
                self.excused.add(key)
                if not is_lost:
                    self.gone.discard(key)
        self.excused |= {
            key for key, known in rows.items() if version_of(known) > newest(key, disks)
        }
        known = {version_of(row) for row in rows.values()}
        lost = {
            version
            for version, (_, _, master) in self.given.items()
            if version not in known and not _is_promised(epoch_of(version), master, awaited)
        }
        if not was_taken and not lost <= self.refused:
            raise Violation("a version was sent before its epoch was promised")
        self.refused -= lost
        for version in lost:
            del self.given[version]


def _is_promised(epoch: int, master: bytes, disks: list[Disk]) -> bool:
    """Whether no other master can come to use an epoch."""
    return any(
        disk.promised > epoch or (disk.promised, disk.promised_to) == (epoch, master)
        for disk in disks
    )


def newest(key: bytes, disks: Iterable[Disk], *, moved: bool = False) -> int:
    """The largest version of a key that some index has as the newest of its volume."""
    found = (disk.index[key] for disk in disks if key in disk.index)
    return max((one.version for one in found if moved or one.type != Type.MOVED), default=0)
