"""The master of the cluster model: sessions, following, comparison, repair, reading, purge.

What is decided by pure code is decided by that code: reconcile.py, redundancy.py, catalog_row.py.
The rest is what master.py, follower.py, comparison.py and repair.py do, in steps that a history can
interrupt.
"""

from collections import deque

from pulzar.cluster.messages import NewRecord, SessionWanted
from pulzar.cluster.reconcile import (
    Action,
    Do,
    Known,
    decide,
    digest,
    digest_of_columns,
    may_forget,
    reread,
    without,
)
from pulzar.cluster.redundancy import KeyPlan, Standing, plan_key
from pulzar.errors import StaleSession
from pulzar.varidb import catalog_row
from pulzar.varidb.catalog_row import INLINE, Change, Row
from pulzar.varidb.position import NOWHERE, Cursor, Position, pack_position
from pulzar.varidb.record import Record, Type
from tests.model.cluster_disk import Disk, position_of
from tests.model.cluster_membership import Membership
from tests.model.cluster_truth import version_of
from tests.model.cluster_world import Flaw, Member
from tests.model.cluster_writing import change_of


class Master(Membership):
    """One run of a master's program. A new one may be given what the last one kept, or nothing."""

    # Sessions.

    def connect(self, member: Member) -> None:
        """Open a session with a member that was heard."""
        volume = member.volume
        filling = not all(self._is_filled(one) for one in self.members.values())
        unheard = [one for one in self.members.values() if one.entry.id not in self.heard]
        if filling and unheard and self.rules.flaw != Flaw.EARLY_LOGS:
            return
        if member.entry.id in self.kept.unwitnessed and self.rules.flaw != Flaw.NO_WITNESS:
            return
        if volume.disk.promised > self.kept.epoch:
            self._begin_epoch(volume.disk.promised + 1)
        session = self.world.token()
        try:
            opened = volume.open_session(SessionWanted(self.kept.epoch, session, self.promised_to))
        except StaleSession:
            self._begin_epoch(volume.disk.promised + 1)
            return
        if self.rng.random() < self.world.trouble / 4:
            return  # the answer does not come
        self._adopt(volume.members())
        if self.members.get(member.number) is not member:
            return
        member.epoch, member.session, member.appends = self.kept.epoch, session, 0
        member.head = Cursor(opened.opening, opened.seq)
        member.unreadable = self._is_unreadable(member)
        if self.rules.flaw == Flaw.NO_FOLLOWING and self.is_ready():
            self._begin(member)

    def _begin_epoch(self, epoch: int) -> None:
        self.begin_epoch(epoch)
        for member in self.members.values():
            self.break_off(member)

    def _is_unreadable(self, member: Member) -> bool:
        """Whether the log lacks where it was followed to, or where it was met."""
        disk, number = member.volume.disk, member.number
        cursor = self.kept.cursors.get(number, NOWHERE)
        met = self.kept.met.get(number, cursor)
        if self.rules.flaw == Flaw.OLD_STAMPS:
            met = cursor
        if self._purge_mark(member):
            return True
        return cursor == NOWHERE or not disk.behind(cursor, 1) or not disk.behind(met, 1)

    def follow(self, member: Member) -> bool:
        """Follow a log some way; False where a turn must be waited for."""
        assert member.head is not None
        if member.unreadable:
            if not self._may_reread(member):
                return False
            self._reread(member)
            self._begin(member)
            return True
        number = member.number
        page = member.volume.disk.behind(self.kept.cursors[number], self.rng.randint(1, 12))
        if page is None:
            self.break_off(member)
            return True
        records, behind = page
        if any(record.key in self.turns for record in records):
            return False
        for record in records:
            self._take_in(catalog_row.change_of(record.key, position_of(record)), number)
        self.apply_cursor(number, behind)
        if behind.seq >= member.head.seq:
            self._begin(member)
        return True

    def _take_in(self, change: Change, number: int) -> None:
        """A record of a log that is followed, with its key's turn."""
        known = self.rows.get(change.key)
        self.apply(change, number, change.seq)
        if isinstance(known, Row) and known.version < change.version:
            self.supersede(change.key, known, [number])

    def _begin(self, member: Member) -> None:
        """The log was followed to its head: use the member."""
        assert member.head is not None
        self.kept.cursors[member.number] = self.kept.met[member.number] = member.head
        member.head = None
        member.online, member.is_lost = True, False
        known = member.volume.members()
        is_old = known is None or known.generation < self.kept.members.generation
        if is_old and not self._tell(member, self.kept.members):
            return
        member.followed = True
        self._begin_comparison(member)

    # A log that cannot be followed.

    def _may_reread(self, member: Member) -> bool:
        """Whether no record that this concerns is under way."""
        if self._purge_mark(member):  # what others have is known first
            fresh = [one for one in self.members.values() if not self._purge_mark(one)]
            if not all(self._is_filled(one) for one in fresh):
                return False
        landed = all(
            member.number not in [number for number, _ in flight.holders] for flight in self.air
        )
        return landed and not self.turns & self._keys_of(member)

    def _keys_of(self, member: Member) -> set[bytes]:
        rows = {key for key, row in self.rows.items() if isinstance(row, Row)}
        return rows | member.volume.disk.index.keys()

    def _reread(self, member: Member) -> None:
        disk, number = member.volume.disk, member.number
        for key in sorted(self.rows.keys() | disk.index.keys()):
            known, position = self.rows.get(key), disk.position(key)
            if self.rules.flaw in (Flaw.DIGESTS_ONLY, Flaw.OLD_STAMPS):
                self._reread_badly(member, key, position, known)
                continue
            rest = without(known, number)
            action = decide(position, rest, number=number, purged=self._purge_mark(member))
            if action is not None and action.do == Do.SET_ASIDE:
                disk.set_aside(key, action.version)
                position = None
            new = reread(key, position, known, number=number)
            if new is not None:
                self.rows[key] = new
            if isinstance(known, Row) and version_of(new) > known.version:
                self.supersede(key, known, [number])
        if self._purge_mark(member):
            disk.append([Record(type=Type.PURGE, version=self.purged(), value=b"all")])

    def _reread_badly(
        self, member: Member, key: bytes, position: Position | None, known: Known
    ) -> None:
        """Without one of the rules."""
        number = member.number
        lists = isinstance(known, Row) and number in known.copies
        lives = position is not None and position.type == Type.PUT
        is_new = self.kept.cursors.get(number, NOWHERE) == NOWHERE
        if self.rules.flaw == Flaw.DIGESTS_ONLY and not is_new and not lists and not lives:
            return  # equal digests: nobody looks at a delete
        self._settle(member, key, position, known, hides=False)

    def _purge_mark(self, member: Member) -> int:
        """The version up to which deletes were purged without a volume; 0 if it took part."""
        if self.rules.flaw == Flaw.PLAIN_MERGE or not self.rules.purges:
            return 0
        return self.purged() if member.volume.disk.purged < self.purged() else 0

    def purged(self) -> int:
        """Up to which version deletes may be gone: all members have said that they hold nothing
        below, and then were told so."""
        if self.rules.flaw == Flaw.PURGED_ONCE:
            return max([self.kept.purged, *(disk.purged for disk in self.disks())])
        return max([self.kept.purged, *(disk.all_purged for disk in self.disks())])

    def purge(self) -> bool:
        """Every member is online and was compared: deletes of which no log has anything older may
        go, once every member's log says so."""
        members = list(self.members.values())
        idle = not self.air and not self.hides and self.is_ready()
        if not idle or not all(one.online and one.comparing is None for one in members):
            return False
        dead = [(k, at) for k, at in self.rows.items() if isinstance(at, int)]
        dead = [(key, at) for key, at in dead if purgeable(key, at, self.disks())]
        if not dead:
            return False
        mark = max(version for _, version in dead)
        for value in (b"", b"all"):
            for member in members:
                reached = self.world.reaches(member.volume)
                if not reached or self.rng.random() < self.world.trouble / 4:
                    self.break_off(member)
                    return True
                member.volume.disk.append([Record(type=Type.PURGE, version=mark, value=value)])
        self.kept.purged = max(self.kept.purged, mark)
        for key, version in dead:
            del self.rows[key]
            for member in members:
                member.volume.droppable.add((key, version))
        return True

    # Comparison.

    def _begin_comparison(self, member: Member) -> None:
        disk, number = member.volume.disk, member.number
        keys = sorted(disk.index)
        there = here = digest(b"", [])
        if keys:
            entries = [pack_position(key, position_of(disk.index[key])) for key in keys]
            there = digest_of_columns(keys, entries)
        rows = {key: row for key, row in self.rows.items() if isinstance(row, Row)}
        held = [(key, row.version) for key, row in rows.items() if number in row.copies]
        here = digest(there.last, held)
        if here == there:
            return
        member.rows_then = dict(self.rows)
        member.positions = {key: position_of(record) for key, record in disk.index.items()}
        member.comparing = deque(sorted(self.rows.keys() | disk.index.keys()))

    def compare(self, member: Member) -> None:
        """Compare one key, with its turn."""
        assert member.comparing is not None
        if not member.comparing:
            member.comparing = None
            return
        key = member.comparing.popleft()
        if key in self.turns:
            member.comparing.append(key)
            return
        self._settle(member, key, member.positions.get(key), member.rows_then.get(key), hides=True)

    def _settle(
        self,
        member: Member,
        key: bytes,
        position: Position | None,
        known_then: Known,
        *,
        hides: bool,
    ) -> None:
        """As comparison.py: until nothing is to be done."""
        number = member.number
        while action := decide(position, self.rows.get(key), number=number):
            known = self.rows.get(key)
            if action.do == Do.HIDE:
                if hides:
                    self._hide(number, key, action)
                return
            if action.do == Do.FORGET:
                assert isinstance(known, Row)
                if not self._may_forget(known_then, known, number):
                    return  # it was written meanwhile
                self._forget(key, known, number)
                continue
            assert position is not None
            self._take_in(catalog_row.change_of(key, position), number)
            if self.rows.get(key) == known:
                return  # a later record of that volume was met already

    def _may_forget(self, then: Known, known: Row, number: int) -> bool:
        if self.rules.flaw == Flaw.FORGOTTEN_BY_VERSION:
            return isinstance(then, Row) and then.version == known.version
        return may_forget(then, known, number=number)

    def _forget(self, key: bytes, known: Row, number: int) -> None:
        if self.rules.flaw != Flaw.OLD_STAMPS:
            new = without(known, number)
            assert new is not None
            self.rows[key] = new
            return
        seq = max(stamp >> 1 for holder, stamp in known.holders if holder == number)
        change = Change(key, Type.MOVED, known.version, known.size, known.created_ms, 0)
        self.apply(change, number, seq)

    def _hide(self, number: int, key: bytes, action: Action) -> None:
        version = action.version
        if self.rules.flaw == Flaw.NEW_MOVED and action.type == Type.MOVED:
            self.version += 1
            version = self.version
        self.launch_to(number, NewRecord(action.type, key, b"", b"", version, 1, 0), None)

    # Repair.

    def hide_next(self) -> bool:
        """Tell a volume that it has what was superseded; False where the turn is not free."""
        key, version, number = self.rng.choice(list(self.hides))
        if key in self.turns:
            return False
        del self.hides[key, version, number]
        member, known = self.members.get(number), self.rows.get(key)
        if member is None or not member.online:
            return True
        if isinstance(known, Row):
            if known.version != version or number not in known.copies:
                self._hide(number, key, Action(Do.HIDE, version, Type.MOVED))
        elif known is not None and known >= version:
            self._hide(number, key, Action(Do.HIDE, known, Type.DELETE))
        return True

    def plan(self, key: bytes) -> KeyPlan:
        """What a key wants; only its turn is not looked at."""
        row = self.rows.get(key)
        if not isinstance(row, Row):
            return KeyPlan(0, (), ())
        if self.rules.flaw == Flaw.LAST_COPY:
            extra = tuple(n for n in row.copies if n in self.candidates())[: len(row.copies) - 1]
            standings = dict.fromkeys(row.copies, Standing(online=True, counts=True))
            plan = plan_key(row.copies, self.rules.replicas, standings)
            return KeyPlan(0, (), extra) if plan.extra else plan
        return plan_key(row.copies, self.rules.replicas, self.standings())

    def mend(self, key: bytes) -> bool:
        """One copy more, or one less; False where there is nothing to do, or to be done."""
        row, plan = self.rows.get(key), self.plan(key)
        if key in self.turns or not isinstance(row, Row) or not self.is_ready():
            return False
        if plan.extra:
            if not self._is_kept(key, row, plan.extra):
                return False
            record = NewRecord(Type.MOVED, key, b"", b"", row.version, 1, 0)
            self.launch_to(plan.extra[0], record, change_of_moved(key, row))
            return True
        targets = [number for number in self.candidates() if number not in row.copies]
        if not plan.lacking or not targets or not self._finds(key, row, plan.sources):
            return False
        record = NewRecord(Type.PUT, key, b"x" * row.size, b"", row.version, 1, row.expires_s)
        self.launch_to(self.rng.choice(targets), record, change_of(record))
        return True

    def heal(self, key: bytes) -> bool:
        """A copy was found to be damaged: it is written there again, from another one."""
        row = self.rows.get(key)
        if key in self.turns or not isinstance(row, Row) or not self.is_ready():
            return False
        targets = [n for n in row.copies if n in self.members and self.members[n].online]
        for number in targets[-1:]:
            if self._finds(key, row, tuple(n for n in targets if n != number)):
                size, expires_s = row.size, row.expires_s
                record = NewRecord(Type.PUT, key, b"x" * size, b"", row.version, 1, expires_s)
                self.launch_to(number, record, change_of(record))
                return True
        return False

    def _is_kept(self, key: bytes, row: Row, extra: tuple[int, ...]) -> bool:
        """Whether those that are to keep a copy have it: they are asked. One that was put back as
        it was may not have been noticed yet."""
        if self.rules.flaw in (Flaw.EXTRA_UNASKED, Flaw.LAST_COPY):
            return True
        kept = [
            self.members[number]
            for number, standing in self.standings().items()
            if standing.online and standing.counts and number in row.copies and number not in extra
        ]
        for member in kept:
            volume = member.volume
            if not self.world.reaches(volume) or not volume.disk.holds(key, row.version):
                self.break_off(member)
                return False
        return True

    def _finds(self, key: bytes, row: Row, numbers: tuple[int, ...]) -> bool:
        """Whether the value can be had: from a copy, or from the catalog."""
        volumes = [one.volume for n, one in self.members.items() if n in numbers]
        found = any(one.disk.holds(key, row.version) for one in volumes if self.world.reaches(one))
        return found or bool(row.flags & INLINE)

    # Reading.

    def read(self, key: bytes) -> bool:
        """A GET; whether it was answered, truthfully or not at all."""
        known = self.rows.get(key)
        if not self.is_ready():
            return False
        if not isinstance(known, Row):
            self.truth.absent(key)
            return True
        if 0 < known.expires_s <= self.world.now_s:
            if self.rules.flaw == Flaw.EXPIRED_UNWRITTEN:
                self.truth.absent(key)
            return self.write(key, Type.DELETE)
        if known.flags & INLINE:
            self.truth.read(key, known.version)
            return True
        for number in known.copies:
            member = self.members.get(number)
            if member is None or not member.online or not self.world.reaches(member.volume):
                continue
            disk = member.volume.disk
            if self.rules.flaw == Flaw.UNNAMED_FETCH and key in disk.index:
                self.truth.read(key, disk.index[key].version)
                return True
            if disk.holds(key, known.version):
                self.truth.read(key, known.version)
                return True
        return False


def change_of_moved(key: bytes, row: Row) -> Change:
    """What the catalog is told of a copy that was hidden."""
    return Change(key, Type.MOVED, row.version, row.size, row.created_ms, row.expires_s)


def purgeable(key: bytes, version: int, disks: list[Disk]) -> bool:
    """Whether no log has anything of a key below the version at which it was deleted."""
    return not any(
        record.key == key and record.version < version and record.type != Type.DELETE
        for disk in disks
        for record in disk.records()
    )
