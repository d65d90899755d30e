"""The master of the cluster model, first half: writes on their way to volumes.

As replicator.py and member.py do it, without a clock: each member has at most one append under way,
with all that has gathered; how it ends is drawn. What a master keeps on its disk is in `Kept`.
"""

import random
from collections import deque
from enum import StrEnum

import msgspec

from pulzar.cluster.membership import Entry, Members
from pulzar.cluster.messages import Append, NewRecord
from pulzar.cluster.reconcile import Known
from pulzar.cluster.redundancy import Standing
from pulzar.errors import OutOfSpace, StaleSession
from pulzar.varidb import catalog_row
from pulzar.varidb.catalog_row import Change, Row
from pulzar.varidb.position import NOWHERE, Cursor, Position
from pulzar.varidb.record import Type, make_version
from tests.model.cluster_disk import PUTS, Disk, Volume
from tests.model.cluster_truth import Floor, Truth

CLUSTER = "c1" * 16


class Flaw(StrEnum):
    """Rules that are left out, to see that the model sees it."""

    NO_FENCE = "a volume takes appends of any session"
    NO_WAIT = "a master without a catalog does not wait for all members"
    NO_FOLLOWING = "a member is used before its log was followed to the head"
    EARLY_CURSOR = "the catalog's cursor moves past what is not in the catalog"
    EPOCH_TWICE = "an epoch may be promised to two masters"
    EARLY_LOGS = "logs are followed before all members of the newest list were heard"
    NO_WITNESS = "a new member gets data before a member of before knows the new list"
    DIGESTS_ONLY = "a volume that cannot be followed is compared by digests only"
    FORGOTTEN_BY_VERSION = "a copy that was made while a volume is compared is forgotten"
    OLD_STAMPS = "stamps of before a rollback count"
    EXTRA_UNCOMPARED = "copies are extra while others were not compared"
    LAST_COPY = "a copy is extra if others are listed, wherever they are"
    UNNAMED_FETCH = "a volume is asked for a key, not for a version of it"
    EXPIRED_UNWRITTEN = "an expired key is answered 404 before its DELETE is durable"
    NEW_MOVED = "MOVED carries a version of its own"
    PURGED_BY_HOLDERS = "a DELETE is dropped when the volumes that the catalog lists have it"
    PLAIN_MERGE = "with purge on, an older copy of a directory is merged as any volume"


class Rules(msgspec.Struct, frozen=True):
    """How a history goes."""

    volumes: int
    replicas: int
    steps: int
    purges: bool = False
    flaw: Flaw | None = None


class World:
    """What is around the master: volumes, the network between, chance and the clock."""

    def __init__(self, rng: random.Random, rules: Rules, truth: Truth) -> None:
        self.rng = rng
        self.rules = rules
        self.truth = truth
        self.volumes: dict[str, Volume] = {}
        self.cut_off: set[str] = set()
        self.wire: list[tuple[Volume, Append]] = []  # appends that may yet come, late or twice
        self.now_s = 1000
        self.trouble = 0.2
        self.tokens = 0

    def token(self) -> int:
        """A number that was not there before."""
        self.tokens += 1
        return self.tokens

    def reaches(self, volume: Volume) -> bool:
        """Whether a message gets to a volume and back."""
        return volume.is_up and volume.id not in self.cut_off


class Kept:
    """What a master has on its disk: its state, and the catalog."""

    def __init__(self, *, founded: bool) -> None:
        self.founded = founded
        self.epoch = 0
        self.members = Members(cluster=CLUSTER)
        self.unwitnessed: set[str] = set()  # new members of which only this master knows yet
        self.draining: set[str] = set()
        self.rows: dict[bytes, Known] = {}
        self.cursors: dict[int, Cursor] = {}
        self.met: dict[int, Cursor] = {}  # behind the last append that the rows know of
        self.purged = 0


class Flight:
    """One record on its way; see flight.py. `change` is what the catalog is told of a repair."""

    def __init__(
        self,
        record: NewRecord,
        *,
        wanted: int,
        is_write: bool = True,
        change: Change | None = None,
        replaces: Row | None = None,
    ) -> None:
        self.record = record
        self.wanted = wanted
        self.is_write = is_write
        self.change = change
        self.replaces = replaces
        self.waiting = 0
        self.holders: list[tuple[int, Cursor]] = []
        self.trackers: list[Tracker] = []
        self.tried: set[int] = set()
        self.unknown = False


class Tracker:
    """One acknowledged append, and how many of its records are not in the catalog yet."""

    def __init__(self, cursor: Cursor, missing: int) -> None:
        self.cursor = cursor
        self.missing = missing


class Member:
    """One member. `head` is where its log has to be followed to, while it is followed;
    `comparing` what is left to be compared: key, what the catalog had of it then."""

    def __init__(self, entry: Entry, volume: Volume) -> None:
        self.entry = entry
        self.volume = volume
        self.online = False
        self.followed = False
        self.head: Cursor | None = None
        self.unreadable = False  # its log cannot be followed from the cursor
        self.comparing: deque[bytes] | None = None
        self.rows_then: dict[bytes, Known] = {}
        self.positions: dict[bytes, Position] = {}
        self.opening = b""
        self.epoch = 0
        self.session = 0
        self.appends = 0
        self.queue: deque[Flight] = deque()
        self.sent: tuple[Append, list[Flight]] | None = None
        self.trackers: deque[Tracker] = deque()

    @property
    def number(self) -> int:
        """Its number in rows."""
        return self.entry.number


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

    def standings(self, *, compared: bool = False) -> dict[int, Standing]:
        """As redundancy.py sees the members. `compared`: without those that are not, of which it
        is not sure that they have what the catalog says."""
        return {
            number: Standing(
                online=member.online and not (compared and member.comparing is not None),
                counts=not self.drains(member),
            )
            for number, member in self.members.items()
        }

    # Writes.

    def write(self, key: bytes, type_: Type, *, expires_s: int = 0, size: int = 1) -> bool:
        """A client's PUT or DELETE, or an expiry, with its turn; False where it must wait."""
        if key in self.turns:
            return False
        known = self.rows.get(key)
        row = known if isinstance(known, Row) else None
        if type_ == Type.DELETE and row is None:
            return False
        self.version += 1
        holders = row.copies if row is not None else ()
        if type_ == Type.DELETE:
            numbers, wanted = self._for_delete(holders)
        else:
            wanted = self.rules.replicas
            numbers = self._place(wanted, [n for n in holders if n in self.candidates()])
        self.truth.give(self.version, key, type_, self.disks())
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
            if cursor.seq > self.kept.met.get(number, NOWHERE).seq:
                self.kept.met[number] = cursor
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
