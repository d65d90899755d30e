"""Takes the writer's records to the volumes, and what is durable into the catalog.

The writer (varidb/writer.py) decides conditions, versions and turns; here it is decided which
volumes a record goes to, what happens when one of them fails, and when the client is answered:

- A PUT goes to as many volumes as are wanted; where the key is already, it stays.
- A DELETE goes to every holder that is online, and to another volume for each one that is not.
- A volume that fails is replaced by another, as long as there is one that was not tried.
- When nobody is waited for any more, the record is taken into the catalog with all of its holders,
  in one transaction with the cursors, and only then is it visible, and answered.

Everything runs on one event loop. An error of the catalog is final: the volumes have what it
lacks, so only a restart, which follows their logs, can show it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import compress

import msgspec

from pulzar.cluster.flight import Flight, Tracker
from pulzar.cluster.member import Member
from pulzar.cluster.messages import NewRecord
from pulzar.cluster.placement import Placement
from pulzar.errors import (
    NotReady,
    OutcomeUnknown,
    OutOfSpace,
    PulzarError,
    Unavailable,
    WritesStopped,
)
from pulzar.limits import PENDING_RECORDS_MAX
from pulzar.varidb.catalog import Catalog, Holders
from pulzar.varidb.catalog_row import Change, Newest
from pulzar.varidb.commit import Write
from pulzar.varidb.entry import Entry
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.record import Record, Type

_log = logging.getLogger(__name__)


class Replicator:
    """Where the writer's records go. One event loop.

    `hidden` is told of volumes that still hold what a record superseded.
    """

    def __init__(
        self,
        catalog: Catalog,
        members: dict[int, Member],
        *,
        replicas: int,
        min_copies: int,
        draw: Callable[[], float],
        hidden: Callable[[bytes, Entry, Sequence[int]], None],
    ) -> None:
        self._catalog = catalog
        self._members = members
        self._replicas = replicas
        self._min_copies = min_copies
        self._draw = draw
        self._hidden = hidden
        self.placement = Placement(())
        self.master = b""  # to whom epochs are promised
        self.serving = False  # whether the catalog has met all that could be newer
        self.pending = 0
        self._under_way: dict[int, None] = {}  # versions of users' writes, in their order
        self.failed: str | None = None  # why the catalog lacks what volumes have
        self.has_failed = asyncio.Event()
        self.under_replicated_total = 0

    # What the writer calls.

    def submit_many(self, writes: Sequence[Write]) -> None:
        """Take records on their way; each one's `finish` is called. Raises WritesStopped, NotReady:
        then none of them was taken."""
        self.require_writable()
        if not self.serving and any(write.change is not None for write in writes):
            raise NotReady("not all volumes were followed: nothing was written; try again")
        if self.pending + len(writes) > PENDING_RECORDS_MAX:
            raise WritesStopped(f"more than {PENDING_RECORDS_MAX} writes are under way: try again")
        for write in writes:
            change = write.change
            if change is None:
                self._launch_everywhere(write)
            elif write.record.type == Type.DELETE:
                self._launch(write, *self._for_delete(change))
            else:
                self._launch(write, *self._for_put(write, change))

    def oldest(self) -> int | None:
        """The smallest version that is under way; None: nothing is."""
        return next(iter(self._under_way), None)

    def fail(self, reason: str) -> None:
        """Take no more records: the catalog is not to be believed."""
        self.failed = self.failed or reason
        self.has_failed.set()

    def require_writable(self) -> None:
        """Raise WritesStopped where nothing can be written any more."""
        if self.failed is not None:
            raise WritesStopped(f"the master takes no more writes: {self.failed}")

    def _for_put(self, write: Write, change: Newest) -> tuple[tuple[int, ...], int]:
        """The volumes for a value, and how many are wanted."""
        wanted = change.replicas or self._replicas
        if write.uploaded is not None:
            return write.uploaded.volumes, wanted
        old = change.replaces
        holders = old.holders if old is not None else ()
        return self.place(wanted, size=change.size, holders=holders), wanted

    def place(self, wanted: int, *, size: int, holders: Sequence[int] = ()) -> tuple[int, ...]:
        """The volumes for a value of that size, `holders` first."""
        return self.placement.choose(wanted, size=size, holders=holders, draw=self._draw)

    def _for_delete(self, change: Newest) -> tuple[tuple[int, ...], int]:
        """Every holder that is online, and others in place of those that are not."""
        old = change.replaces
        holders = old.holders if old is not None else ()
        wanted = max(1, len(holders))
        online = tuple(number for number in holders if self._is_writable(number))
        missing = wanted - len(online)
        if missing:
            online += self.placement.choose(missing, size=0, avoid=holders, draw=self._draw)
        return online, wanted

    def _launch(self, write: Write, numbers: tuple[int, ...], wanted: int) -> None:
        numbers = tuple(number for number in numbers if self._is_writable(number))
        enough = min(self._min_copies, wanted)
        if len(numbers) < enough:
            write.finish(self._too_few(write, len(numbers), enough))
            return
        change = write.change
        assert change is not None
        old = change.replaces
        flight = Flight(
            _new_record(write),
            wanted=wanted,
            size=change.size if write.uploaded is None else 0,
            write=write,
            replaces=(old.holders, old.size) if old is not None else ((), 0),
        )
        self.pending += 1
        self._under_way[write.record.version] = None
        for number in numbers:
            self._members[number].enqueue(flight)

    def _launch_everywhere(self, write: Write) -> None:
        """A record of the master's own, an epoch: to every volume that is written to."""
        online = [member for member in self._members.values() if member.writable]
        record = msgspec.structs.replace(_new_record(write), value=self.master)
        flight = Flight(record, wanted=len(online), write=write)
        self.pending += 1
        for member in online:
            member.enqueue(flight)
        if not online:
            self._land([flight])

    def launch_to(self, flight: Flight, number: int) -> None:
        """Send a record of the cluster's own to one volume; it is not replaced by another."""
        self.pending += 1
        if self._is_writable(number):
            self._members[number].enqueue(flight)
        else:
            flight.error = Unavailable("the volume is not online, or takes no writes")
            self._land([flight])

    def _is_writable(self, number: int) -> bool:
        member = self._members.get(number)
        return member is not None and member.writable

    def _too_few(self, write: Write, count: int, enough: int) -> PulzarError:
        online = sum(member.writable for member in self._members.values())
        if online >= enough and write.record.type != Type.DELETE:
            return OutOfSpace("no volume has room for this value: delete something, or add one")
        if not online:
            return Unavailable("no volume takes writes now: nothing was written; try again")
        return Unavailable(
            f"{count} of the {enough} volumes that a write needs can take it: nothing was "
            "written; try again"
        )

    # What the members call.

    def acknowledged(self, member: Member, flights: Sequence[Flight], tracker: Tracker) -> None:
        """An append is durable there."""
        place = (member.number, tracker.cursor.seq << 1)
        landed: list[Flight] = []
        for flight in flights:
            flight.holders.append(place)
            flight.tracked.append(tracker)
            flight.waiting -= 1
            if not flight.waiting:
                landed.append(flight)
        if landed:
            self._land(landed)

    def given_back(
        self,
        member: Member,
        sent: Sequence[Flight],
        queued: Sequence[Flight],
        error: PulzarError,
    ) -> None:
        """A volume did not take these: of `sent` it is not known, `queued` was not written."""
        landed: list[Flight] = []
        for flight in sent:
            flight.unknown = True
        for flight in queued:
            flight.error = error
        for flight in (*sent, *queued):
            flight.waiting -= 1
            self._replace(flight)
            if not flight.waiting:
                landed.append(flight)
        if landed:
            self._land(landed)

    def _replace(self, flight: Flight) -> None:
        """Find another volume for a record that one of its volumes did not take."""
        write = flight.write
        if write is None or write.change is None or write.uploaded is not None:
            return
        size = 0 if write.record.type == Type.DELETE else flight.size
        for number in self.placement.choose(1, size=size, avoid=flight.tried, draw=self._draw):
            if self._is_writable(number):
                self._members[number].enqueue(flight)

    # The end of a flight.

    def _land(self, flights: Sequence[Flight]) -> None:
        """Nobody is waited for any more: the catalog, then the answers."""
        self.pending -= len(flights)
        for flight in flights:
            self._under_way.pop(flight.record.version, None)
            self._forget_removed(flight)
        durable = [flight for flight in flights if flight.holders]
        cursors = self._cursors_behind(durable)
        try:
            if self.failed is None and durable:
                self._tell_catalog(durable, cursors, _met(durable, dict(cursors)))
        except Exception as error:  # whatever it was, the catalog lacks these
            self.fail(f"the catalog could not be written: {error}")
            _log.exception("the catalog lacks what volumes have")
        self._catalog.feed.settle()
        for flight in flights:
            self._finish(flight)

    def _forget_removed(self, flight: Flight) -> None:
        """Copies on volumes that were removed meanwhile do not count."""
        if all(number in self._members for number, _ in flight.holders):
            return
        left = [number in self._members for number, _ in flight.holders]
        flight.holders = list(compress(flight.holders, left))
        flight.tracked = list(compress(flight.tracked, left))
        flight.unknown = True

    def _cursors_behind(self, flights: Sequence[Flight]) -> list[tuple[int, Cursor]]:
        """How far the catalog will have followed each volume with these records in it."""
        for flight in flights:
            for tracker in flight.tracked:
                tracker.missing -= 1
        cursors: list[tuple[int, Cursor]] = []
        for number in {number for flight in flights for number, _ in flight.holders}:
            trackers = self._members[number].trackers
            cursor = None
            while trackers and not trackers[0].missing:
                cursor = trackers.popleft().cursor
            if cursor is not None:
                cursors.append((number, cursor))
        return cursors

    def _tell_catalog(
        self,
        flights: Sequence[Flight],
        cursors: Sequence[tuple[int, Cursor]],
        met: Sequence[tuple[int, Cursor]],
    ) -> None:
        changes: list[Newest] = []
        places: list[Holders] = []
        for flight in flights:
            if flight.write is not None and flight.write.change is not None:
                changes.append(flight.write.change)
                places.append(_places(flight.holders))
            elif flight.change is not None:
                ((number, stamp),) = flight.holders
                change = msgspec.structs.replace(flight.change, seq=stamp >> 1)
                self._catalog.apply([change], number, None)
        self._catalog.append(changes, places, cursors, met)

    def _finish(self, flight: Flight) -> None:
        write = flight.write
        if write is None:
            assert flight.landed is not None
            flight.landed(flight)
            return
        copies = len(flight.holders)
        write.copies, write.wanted = copies, flight.wanted
        error = self._error_of(flight, copies)
        if copies < flight.wanted and error is None:
            self.under_replicated_total += 1
        change = write.change
        if copies and self.failed is None and change is not None and change.replaces is not None:
            has = {number for number, _ in flight.holders}
            left = [number for number in change.replaces.holders if number not in has]
            if left:
                self._hidden(write.record.key, change.replaces, left)
        write.finish(error)

    def _error_of(self, flight: Flight, copies: int) -> PulzarError | None:
        version = flight.record.version
        if self.failed is not None:
            return OutcomeUnknown(self.failed, version=version)
        enough = min(self._min_copies, flight.wanted)
        if copies >= max(enough, 1) or (flight.write is not None and flight.write.change is None):
            return None
        if copies:
            return OutcomeUnknown(
                f"durable on {copies} volumes, {enough} are wanted: more is not known",
                version=version,
            )
        if flight.unknown:
            return OutcomeUnknown(
                "no volume said that it has the write, which may or may not have happened",
                version=version,
            )
        if isinstance(flight.error, OutOfSpace):
            return flight.error
        return Unavailable(f"no volume could take the write, nothing happened: {flight.error}")


def _met(flights: Sequence[Flight], cursors: dict[int, Cursor]) -> list[tuple[int, Cursor]]:
    """The places behind these records, where the cursors do not get as far."""
    met: dict[int, Cursor] = {}
    for flight in flights:
        for (number, _), tracker in zip(flight.holders, flight.tracked, strict=True):
            if tracker.cursor.seq > met.get(number, cursors.get(number, NOWHERE)).seq:
                met[number] = tracker.cursor
    return list(met.items())


def _places(holders: list[tuple[int, int]]) -> Holders:
    return tuple(holders) if len(holders) == 1 else tuple(sorted(holders))


def _new_record(write: Write) -> NewRecord:
    record: Record = write.record
    return NewRecord(
        record.type,
        record.key,
        record.value,
        record.meta,
        record.version,
        record.created_ms,
        record.expires_s,
        write.uploaded.upload if write.uploaded is not None else "",
        record.flags,
    )


def moved(key: bytes, entry: Entry, *, now_ms: int) -> tuple[NewRecord, Change]:
    """The record that hides a version on one volume, and what the catalog is told of it."""
    record = NewRecord(Type.MOVED, key, b"", b"", entry.version, now_ms, 0)
    change = Change(key, Type.MOVED, entry.version, entry.size, entry.created_ms, entry.expires_s)
    return record, change
