"""Writes of the cluster model on their way to volumes: what replicator.py and member.py do.

There is no clock: each member has at most one append under way, with all that has gathered; how it
ends is drawn. When nobody is waited for any more, the catalog takes a record in, and the client is
answered.
"""

from pulzar.cluster.messages import Append, NewRecord
from pulzar.cluster.reconcile import Known
from pulzar.cluster.redundancy import Standing
from pulzar.errors import OutOfSpace, StaleSession
from pulzar.varidb import catalog_row
from pulzar.varidb.catalog_row import Change, Row
from pulzar.varidb.condition import Condition
from pulzar.varidb.position import NOWHERE, Cursor
from pulzar.varidb.record import Type, make_version
from tests.model.cluster_disk import PUTS, Disk
from tests.model.cluster_truth import Floor
from tests.model.cluster_world import Flaw, Flight, Kept, Member, Tracker, World


class Writing:
    """Flights, and what becomes of them."""

    def __init__(self, world: World, kept: Kept) -> None:
        self.world = world
        self.rng = world.rng
        self.rules = world.rules
        self.truth = world.truth
        self.kept = kept
        self.rows = kept.rows
        self.members: dict[int, Member] = {}
        self.turns: set[bytes] = set()
        self.air: list[Flight] = []
        self.hides: dict[tuple[bytes, int, int], None] = {}
        self.version = 0
        self.id = world.token().to_bytes(16, "little")

    # What is known.

    def disks(self) -> list[Disk]:
        """Those of the members."""
        return [member.volume.disk for member in self.members.values()]

    def candidates(self) -> list[int]:
        """Members that take new copies."""
        return [n for n, one in self.members.items() if one.online and not self.drains(one)]

    def drains(self, member: Member) -> bool:
        """Whether its copies are to go elsewhere."""
        return member.entry.id in self.kept.draining

    def standings(self) -> dict[int, Standing]:
        """As redundancy.py sees the members."""
        return {
            number: Standing(
                online=member.online, counts=not member.is_lost and not self.drains(member)
            )
            for number, member in self.members.items()
        }

    # Writes.

    def write(
        self,
        key: bytes,
        type_: Type,
        *,
        expires_s: int = 0,
        size: int = 1,
        condition: Condition | None = None,
    ) -> bool:
        """A client's PUT or DELETE, or an expiry, with its turn; False where it must wait."""
        if key in self.turns:
            return False
        known = self.rows.get(key)
        row = known if isinstance(known, Row) else None
        if type_ == Type.DELETE and row is None:
            return False
        if condition is not None:
            if row is not None and 0 < row.expires_s <= self.world.now_s:
                return self.write(key, Type.DELETE)  # first: that it is gone must be durable
            version = row.version if row is not None else None
            self.truth.condition(key, version)
            if not condition.holds(version):
                return True
        self.version += 1
        holders = row.copies if row is not None else ()
        if type_ == Type.DELETE:
            numbers, wanted = self._for_delete(holders)
        else:
            wanted = self.rules.replicas
            numbers = self._place(wanted, [n for n in holders if n in self.candidates()])
        self.truth.give(self.version, key, type_, master=self.id, disks=self.disks())
        if not numbers:
            self.truth.refuse(self.version)
            return True
        value = b"x" * size if type_ == Type.PUT else b""
        record = NewRecord(type_, key, value, b"", self.version, 1, expires_s)
        self.launch(Flight(record, wanted=wanted, replaces=row), numbers)
        return True

    def _for_delete(self, holders: tuple[int, ...]) -> tuple[list[int], int]:
        wanted = max(1, len(holders))
        online = [n for n in holders if n in self.members and self.members[n].online]
        others = [n for n in self.candidates() if n not in holders]
        self.rng.shuffle(others)
        return online + others[: wanted - len(online)], wanted

    def _place(self, wanted: int, chosen: list[int]) -> list[int]:
        rest = [number for number in self.candidates() if number not in chosen]
        self.rng.shuffle(rest)
        return (chosen + rest)[:wanted]

    def launch(self, flight: Flight, numbers: list[int]) -> None:
        """Send a record to volumes; its key's turn is taken."""
        self.turns.add(flight.record.key)
        self.air.append(flight)
        for number in numbers:
            self._enqueue(self.members[number], flight)

    def launch_to(self, number: int, record: NewRecord, change: Change | None) -> None:
        """Send a record of the cluster's own to one volume that is online."""
        self.launch(Flight(record, wanted=1, is_write=False, change=change), [number])

    def _enqueue(self, member: Member, flight: Flight) -> None:
        flight.waiting += 1
        flight.tried.add(member.number)
        member.queue.append(flight)
        self._pump(member)

    def _pump(self, member: Member) -> None:
        """What has gathered is the next append."""
        if member.online and member.sent is None and member.queue:
            flights = list(member.queue)
            member.queue.clear()
            records = [flight.record for flight in flights]
            append = Append(member.epoch, member.session, member.appends, records)
            member.appends += 1
            member.sent = append, flights

    # What becomes of an append.

    def settle(self, member: Member) -> None:
        """The append that is under way to a member ends, one way or another."""
        assert member.sent is not None
        append, flights = member.sent
        volume = member.volume
        chance = self.rng.random() / self.world.trouble if self.world.trouble else 9.0
        if not self.world.reaches(volume) or chance < 0.3:
            if self.rng.random() < 0.7:
                self.world.wire.append((volume, append))  # in some buffer
            self.break_off(member)
            return
        try:
            cursor = volume.receive(append, is_full=0.9 < chance < 1)
        except OutOfSpace:
            self._refused(member, flights)
            return
        except StaleSession:
            self.break_off(member)
            return
        if chance < 0.9:  # the answer does not come; the append may come a second time
            if chance < 0.5:
                self.world.wire.append((volume, append))
            if chance > 0.8:
                volume.is_up = False
            self.break_off(member)
            return
        member.sent = None
        self._acknowledged(member, flights, cursor)
        self._pump(member)

    def _refused(self, member: Member, flights: list[Flight]) -> None:
        """No room: what needs some goes elsewhere, what needs none is sent again."""
        small = [one for one in flights if one.record.type != Type.PUT]
        large = [one for one in flights if one.record.type == Type.PUT]
        member.sent = None
        if not large:
            small, large = [], small
        member.queue.extendleft(reversed(small))
        self._given_back([], large)
        self._pump(member)

    def break_off(self, member: Member) -> None:
        """The session is over: everything is given back."""
        member.head = None
        member.comparing = None
        if not member.online:
            return
        member.online = False
        member.trackers.clear()
        sent = member.sent[1] if member.sent is not None else []
        member.sent = None
        queued = list(member.queue)
        member.queue.clear()
        self._given_back(sent, queued)

    def _acknowledged(self, member: Member, flights: list[Flight], cursor: Cursor) -> None:
        tracker = Tracker(cursor, len(flights))
        member.trackers.append(tracker)
        self.kept.met[member.number] = cursor  # now: a record may land later than its volume dies
        for flight in flights:
            flight.holders.append((member.number, cursor))
            flight.trackers.append(tracker)
            flight.waiting -= 1
        for flight in flights:
            if not flight.waiting:
                self._land(flight)
        if self.rules.flaw == Flaw.EARLY_CURSOR:
            self.kept.cursors[member.number] = cursor

    def _given_back(self, sent: list[Flight], queued: list[Flight]) -> None:
        for flight in sent:
            flight.unknown = True
        for flight in (*sent, *queued):
            flight.waiting -= 1
            left = [n for n in self.candidates() if n not in flight.tried]
            if flight.is_write and left:
                self._enqueue(self.members[self.rng.choice(left)], flight)
        for flight in (*sent, *queued):
            if not flight.waiting:
                self._land(flight)

    def _land(self, flight: Flight) -> None:
        """Nobody is waited for any more: the catalog, then the answer, then the turn."""
        self.air.remove(flight)
        for number, _ in flight.holders:
            flight.unknown |= number not in self.members  # it was removed meanwhile
        flight.holders = [one for one in flight.holders if one[0] in self.members]
        if flight.holders:
            self._tell_catalog(flight)
        if flight.is_write:
            self._answer(flight, flight.record)
        self.turns.discard(flight.record.key)

    def _tell_catalog(self, flight: Flight) -> None:
        record = flight.record
        change = change_of(record) if flight.is_write else flight.change
        for number, cursor in flight.holders:
            if change is not None:
                self.apply(change, number, cursor.seq)
        for tracker in flight.trackers:
            tracker.missing -= 1
        for number, _ in flight.holders:
            member = self.members.get(number)
            while member is not None and member.trackers and not member.trackers[0].missing:
                self.kept.cursors[number] = member.trackers.popleft().cursor

    def _answer(self, flight: Flight, record: NewRecord) -> None:
        if not flight.holders:
            if not flight.unknown:
                self.truth.refuse(record.version)
            return
        is_value = record.type in PUTS
        self.truth.answer(record.key, Floor(record.version, is_value=is_value))
        if flight.replaces is not None:
            has = [number for number, _ in flight.holders]
            self.supersede(record.key, flight.replaces, has)

    # The catalog.

    def apply(self, change: Change, number: int, seq: int) -> Known:
        """Take in a record of a volume; what is known of its key then."""
        known = catalog_row.decide(self.rows.get(change.key), change, holder=number, seq=seq)
        if known is not None:
            self.rows[change.key] = known
        return known

    def apply_cursor(self, number: int, cursor: Cursor) -> None:
        """The catalog has followed a volume so far."""
        self.kept.cursors[number] = cursor
        if cursor.seq > self.kept.met.get(number, NOWHERE).seq:
            self.kept.met[number] = cursor

    def supersede(self, key: bytes, row: Row, has: list[int]) -> None:
        """Volumes hold an older version: those that are online are told."""
        for number in row.copies:
            member = self.members.get(number)
            if number not in has and member is not None and member.online:
                self.hides[key, row.version, number] = None

    def begin_epoch(self, epoch: int) -> None:
        """Versions of an epoch that is larger than all that this master knows of."""
        self.kept.epoch = epoch
        self.version = make_version(epoch, 0)


def change_of(record: NewRecord) -> Change:
    """What the catalog is told of a write."""
    small = record.type == Type.PUT and len(record.value) <= 1024
    return Change(
        record.key,
        record.type,
        record.version,
        len(record.value),
        record.created_ms,
        record.expires_s,
        "",
        record.value if small else None,
    )
