"""Random histories of a cluster: what clients, operators, clocks, machines and networks do to it.

    history(seed, rules)     one history; raises Violation with the seed where a promise is broken

A step is one small thing: a message arrives or does not, a key is written, a volume dies, is
compared, comes back as an older copy of itself; a master is restarted, or loses its disk. After
each one `Truth` looks at what anybody could read, and at what is on the disks. In the end all is
brought together, and then a master without memory has to come to the same catalog from the logs.
"""

import random
from collections.abc import Callable

from pulzar.cluster.reconcile import Known
from pulzar.varidb.catalog_row import Row
from pulzar.varidb.record import Record, Type
from tests.model.cluster_disk import Disk, Volume
from tests.model.cluster_master import Master, purgeable
from tests.model.cluster_truth import Truth, Violation
from tests.model.cluster_writing import Flaw, Kept, Member, Rules, World

KEYS = (b"a", b"b", b"c")
VOLUMES_MAX = 5
SETTLE_ROUNDS = 400
DRAWS = 12  # of a step that can be done now
LARGE = 1025  # of such a value nothing is in the catalog


class Life:
    """One cluster and what happens to it."""

    def __init__(self, rng: random.Random, rules: Rules) -> None:
        self.rng = rng
        self.rules = rules
        self.truth = Truth(KEYS)
        self.world = World(rng, rules, self.truth)
        self.kept = Kept(founded=True)
        self.was_taken = False  # something was rolled back or given up
        for _ in range(rules.volumes):
            self._new_volume()
        self.master = Master(self.world, self.kept)
        self.counted: list[Volume] = []
        self.generation = 0  # of the newest list that a master used
        self.sizes = {key: rng.choice([1, LARGE]) for key in KEYS}
        self.world.trouble = rng.choice([0.05, 0.2, 0.5])
        steps: list[tuple[Callable[[], bool], float]] = [
            (self._put, 14),
            (self._delete, 7),
            (self._read, 4),
            (self._settle_append, 30),
            (self._late, 5),
            (self._beat, 5),
            (self._connect, 10),
            (self._follow, 14),
            (self._compare, 14),
            (self._hide, 8),
            (self._mend, 8),
            (self._bring_together, rng.choice([1, 4])),
            (self._stop, rng.choice([1, 3])),
            (self._start, 6),
            (self._cut, 1),
            (self._mend_network, 5),
            (self._roll, 3),
            (self._compact, 5),
            (self._copy, rng.choice([0, 1])),
            (self._put_back, rng.choice([0, 1])),
            (self._restart, rng.choice([0, 1])),
            (self._wipe, rng.choice([0, 0, 1])),
            (self._grow, rng.choice([0, 1])),
            (self._drain, rng.choice([0, 0.5])),
            (self._remove, rng.choice([0, 0.5])),
            (self._expire, 3),
            (self._step_clock, 3),
            (self._purge, 12 if rules.purges else 0),
        ]
        self.steps = [step for step, _ in steps]
        self.weights = [weight for _, weight in steps]

    def _new_volume(self) -> Volume:
        fenced = self.rules.flaw != Flaw.NO_FENCE
        volume = Volume(len(self.world.volumes) + 1, is_fenced=fenced)
        self.world.volumes[volume.id] = volume
        volume.start(self._opening())
        return volume

    def _opening(self) -> bytes:
        return self.world.token().to_bytes(16, "little")

    def run(self) -> None:
        """Live."""
        for _ in range(self.rules.steps):
            self.step()
            self.look()
        self.settle()
        self._agree()
        self._wipe_and_compare()

    def step(self) -> None:
        """Something happens."""
        for step in self.rng.choices(self.steps, self.weights, k=DRAWS):
            if step():
                return

    def look(self) -> None:
        """See whether the promises hold now."""
        if self.master.is_ready():
            self.truth.look(self.master.rows, self.world.now_s)
        self.truth.hold(self._disks())

    def _disks(self) -> list[Disk]:
        """Those of the members. While a master without memory does not know all of them yet, those
        of the members before."""
        if self.master.is_ready():
            self.counted = [member.volume for member in self.master.members.values()]
            self.generation = self.kept.members.generation
        return [volume.disk for volume in self.counted]

    def _take(self, before: list[Disk]) -> None:
        """Something went that no rule can bring back."""
        self.was_taken = True
        self.truth.take(before, self._disks())
        if not self.master.is_ready():  # and perhaps no catalog remembers it
            self.truth.begin_again(self._disks(), rows=self.master.rows, was_taken=True)

    # Clients. Each step tells whether it did anything.

    def _put(self) -> bool:
        key = self.rng.choice(KEYS)
        expires_s = self.world.now_s + self.rng.randint(1, 9) if self.rng.random() < 0.2 else 0
        size = self.sizes[key]
        return self.master.is_ready() and self.master.write(
            key, Type.PUT, expires_s=expires_s, size=size
        )

    def _delete(self) -> bool:
        return self.master.is_ready() and self.master.write(self.rng.choice(KEYS), Type.DELETE)

    def _read(self) -> bool:
        return self.master.read(self.rng.choice(KEYS))

    def _expire(self) -> bool:
        rows = self.master.rows
        expired = [
            key
            for key in KEYS
            if isinstance(row := rows.get(key), Row) and 0 < row.expires_s <= self.world.now_s
        ]
        ready = bool(expired) and self.master.is_ready()
        return ready and self.master.write(expired[0], Type.DELETE)

    # Messages and work.

    def _any_member(self, holds: Callable[[Member], object]) -> Member | None:
        found = [member for member in self.master.members.values() if holds(member)]
        return self.rng.choice(found) if found else None

    def _settle_append(self) -> bool:
        member = self._any_member(lambda one: one.sent is not None)
        if member is not None:
            self.master.settle(member)
        return member is not None

    def _late(self) -> bool:
        """Something that was in a buffer arrives, perhaps not for the last time."""
        if not self.world.wire:
            return False
        at = self.rng.randrange(len(self.world.wire))
        volume, append = self.world.wire[at]
        if self.rng.random() < 0.7:
            self.world.wire.pop(at)
        if self.world.reaches(volume):
            volume.receive_late(append)
        return True

    def _beat(self) -> bool:
        volume = self._any_volume(self.world.reaches)
        if volume is not None:
            self.master.hear(volume)
        return volume is not None

    def _connect(self) -> bool:
        member = self._any_member(
            lambda one: (
                not one.online
                and one.head is None
                and one.entry.id in self.master.heard
                and self.world.reaches(one.volume)
            )
        )
        if member is not None:
            self.master.connect(member)
        return member is not None

    def _follow(self) -> bool:
        member = self._any_member(lambda one: one.head is not None)
        if member is None:
            return False
        if not self.world.reaches(member.volume) or member.opening != member.volume.disk.opening:
            self.master.break_off(member)
            return True
        return self.master.follow(member)

    def _compare(self) -> bool:
        member = self._any_member(lambda one: one.online and one.comparing is not None)
        if member is not None:
            self.master.compare(member)
        return member is not None

    def _hide(self) -> bool:
        return bool(self.master.hides) and self.master.hide_next()

    def _mend(self) -> bool:
        return self.master.mend(self.rng.choice(KEYS))

    # Machines and networks.

    def _any_volume(self, holds: Callable[[Volume], object]) -> Volume | None:
        found = [volume for volume in self.world.volumes.values() if holds(volume)]
        return self.rng.choice(found) if found else None

    def _stop(self) -> bool:
        volume = self._any_volume(lambda one: one.is_up)
        if volume is not None:
            volume.is_up = False
        return volume is not None

    def _start(self) -> bool:
        volume = self._any_volume(lambda one: not one.is_up)
        if volume is not None:
            volume.start(self._opening())
        return volume is not None

    def _cut(self) -> bool:
        volume = self._any_volume(self.world.reaches)
        if volume is not None:
            self.world.cut_off.add(volume.id)
        return volume is not None

    def _mend_network(self) -> bool:
        volume = self._any_volume(lambda one: one.id in self.world.cut_off)
        if volume is not None:
            self.world.cut_off.remove(volume.id)
        return volume is not None

    def _bring_together(self) -> bool:
        """A quiet moment: everybody gets a step further."""
        self._work()
        return True

    def _roll(self) -> bool:
        self.rng.choice(list(self.world.volumes.values())).disk.roll()
        return True

    def _compact(self) -> bool:
        volume = self.rng.choice(list(self.world.volumes.values()))
        dropped = frozenset(volume.droppable)
        if self.rules.flaw == Flaw.PURGED_BY_HOLDERS:
            dropped = frozenset(self._held_by_all())
        return volume.disk.compact(self.rng, dropped=dropped)

    def _held_by_all(self) -> list[tuple[bytes, int]]:
        """Deletes that every volume has that the master knows of as online."""
        online = [one.volume.disk for one in self.master.members.values() if one.online]
        return [
            (key, record.version)
            for key in KEYS
            for record in [disk.index[key] for disk in online if key in disk.index][:1]
            if record.type == Type.DELETE
        ]

    def _step_clock(self) -> bool:
        self.world.now_s += self.rng.choice([1, 2, 4, -3])
        return True

    # Fate.

    def _copy(self) -> bool:
        volume = self.rng.choice(list(self.world.volumes.values()))
        volume.saved = volume.disk.copy()
        return True

    def _put_back(self) -> bool:
        """A directory is replaced by an older copy of itself."""
        volume = self._any_volume(lambda one: one.saved is not None)
        if volume is None or volume.saved is None:
            return False
        before = [disk.copy() for disk in self._disks()]
        now, volume.disk = volume.disk, volume.saved.copy()
        if not self.master.is_ready() and not self._is_list_safe():
            volume.disk = now
            return False
        for flight in self.master.air:
            if any(self._is_on(volume, number) for number, _ in flight.holders):
                self.truth.doubtful.add(flight.record.version)
        volume.start(self._opening())
        volume.is_up = self.rng.random() < 0.5
        self._take(before)
        return True

    def _is_on(self, volume: Volume, number: int) -> bool:
        member = self.master.members.get(number)
        return member is not None and member.volume is volume

    def _restart(self) -> bool:
        """The master's program is started again."""
        self._end_master()
        self.master = Master(self.world, self.kept)
        return True

    def _end_master(self) -> None:
        for member in self.master.members.values():
            if member.sent is not None:
                self.world.wire.append((member.volume, member.sent[0]))

    def _wipe(self) -> bool:
        """The master's disk is lost; it has the cluster's key still."""
        if not self.master.is_ready() or not self._is_list_safe():
            return False
        self._end_master()
        self.truth.begin_again(self._disks(), rows={}, was_taken=self.was_taken)
        self.kept = Kept(founded=False)
        self.master = Master(self.world, self.kept)
        return True

    def _is_list_safe(self) -> bool:
        """Whether a master without memory meets the newest list, whomever it meets first. An
        older copy of a directory may have lost it: then nothing is promised."""
        lists = {
            volume.id: members
            for volume in self.world.volumes.values()
            if (members := volume.members()) is not None
        }
        if not lists:
            return False  # nobody knows that there is a cluster
        for first in lists.values():
            best, waiting = first, True
            while waiting:
                met = [lists[one.id] for one in best.members if one.id in lists]
                better = max([best, *met], key=lambda one: one.generation)
                waiting, best = better.generation > best.generation, better
            if best.generation < self.generation:
                return False
        return True

    # Operators.

    def _grow(self) -> bool:
        if len(self.world.volumes) == VOLUMES_MAX:
            return False
        self._new_volume()
        return True

    def _drain(self) -> bool:
        member = self._any_member(lambda one: one.online)
        if member is None or len(self.master.candidates()) < 2:
            return False
        self.kept.draining.add(member.entry.id)
        return True

    def _remove(self) -> bool:
        """A member is given up, or is empty after a drain."""
        member = self._any_member(lambda _: True)
        if member is None or len(self.master.members) < 2 or not self.master.is_ready():
            return False
        before = [disk.copy() for disk in self._disks()]
        self.master.remove(member)
        self._take(before)
        return True

    def _purge(self) -> bool:
        """Every member is online and was compared: deletes of which no log has anything older go,
        once every member's log says so."""
        master = self.master
        members = list(master.members.values())
        idle = not master.air and not master.hides
        if not idle or not all(one.online and one.comparing is None for one in members):
            return False
        disks = master.disks()
        dead = [
            (key, known)
            for key, known in master.rows.items()
            if isinstance(known, int) and purgeable(key, known, disks)
        ]
        if not dead:
            return False
        mark = max(version for _, version in dead)
        for member in members:
            if not self.world.reaches(member.volume) or self.rng.random() < self.world.trouble / 4:
                master.break_off(member)
                return True
            member.volume.disk.append([Record(type=Type.PURGE, version=mark)])
        master.kept.purged = max(master.kept.purged, mark)
        for key, version in dead:
            del master.rows[key]
            for member in members:
                member.volume.droppable.add((key, version))
        return True

    # The end.

    def settle(self) -> None:
        """Nothing goes wrong any more: everything is brought together."""
        self.world.trouble = 0.0
        self.world.cut_off.clear()
        self.world.wire.clear()
        for volume in self.world.volumes.values():
            if not volume.is_up:
                volume.start(self._opening())
        quiet = 0
        for _ in range(SETTLE_ROUNDS):
            before = self._progress()
            self._work()
            self.look()
            quiet = quiet + 1 if self._progress() == before and not self.master.air else 0
            if quiet > 2 * len(KEYS):
                return
        raise Violation("repair does not come to an end")

    def _work(self) -> None:
        master = self.master
        for volume in list(self.world.volumes.values()):
            if self.world.reaches(volume):
                master.hear(volume)
        for member in list(master.members.values()):
            if self.master.members.get(member.number) is not member:
                continue
            if not self.world.reaches(member.volume):
                master.break_off(member)
                continue
            if not member.online and member.head is None and member.entry.id in master.heard:
                master.connect(member)
            if member.head is not None:
                master.follow(member)
            if member.comparing is not None:
                master.compare(member)
        while master.hides and not master.turns:
            master.hide_next()
            self._land_all()
        self._land_all()
        for key in KEYS:
            master.mend(key)
            self._land_all()

    def _land_all(self) -> None:
        while member := self._any_member(lambda one: one.sent is not None):
            self.master.settle(member)

    def _progress(self) -> tuple[object, ...]:
        members = self.master.members.values()
        return (
            [(one.online, one.head, one.comparing and len(one.comparing)) for one in members],
            [one.volume.disk.seq for one in members],
            self.kept.epoch,
            len(self.master.hides),
        )

    def _agree(self) -> None:
        """Catalog and volumes say the same."""
        master = self.master
        if not master.is_ready():
            raise Violation("the master does not become ready")
        disks = {number: one.volume.disk for number, one in master.members.items()}
        for key in KEYS:
            known = master.rows.get(key)
            if not isinstance(known, Row):
                continue
            holders = tuple(
                n for n, disk in sorted(disks.items()) if disk.holds(key, known.version)
            )
            listed = tuple(number for number in known.copies if number in disks)
            if listed != holders:
                raise Violation(f"{key!r} is on {holders}, the catalog says {known.copies}")
            if not holders and key not in self.truth.gone and self.truth.floors[key].is_value:
                raise Violation(f"{key!r} is lost: {known}")
            stays = [n for n in holders if n in master.candidates()]
            if holders and len(stays) < min(self.rules.replicas, len(master.candidates())):
                raise Violation(f"{key!r} has too few copies: {holders}")
            if holders and not master.read(key):
                raise Violation(f"{key!r} cannot be read from {holders}")
        for disk in disks.values():
            if _index_of(disk) != disk.index:
                raise Violation("an index made from its log is another one")

    def _wipe_and_compare(self) -> None:
        """A master without memory comes to the same."""
        if not self._is_list_safe():
            return
        live = dict(self.master.rows)
        gone = set(self.truth.gone)
        self._wipe()
        self.settle()
        self._agree()
        for key in KEYS:
            if key not in gone and _said(live.get(key)) != _said(self.master.rows.get(key)):
                raise Violation(f"{key!r} is {live.get(key)}, rebuilt {self.master.rows.get(key)}")


def _said(known: Known) -> object:
    """What a rebuilt catalog has to say, too. That a key was deleted may be forgotten."""
    return known.version if isinstance(known, Row) else None


def _index_of(disk: Disk) -> dict[bytes, Record]:
    index: dict[bytes, Record] = {}
    for record in disk.records():
        if record.key:
            old = index.get(record.key)
            if old is None or (old.version, old.seq) < (record.version, record.seq):
                index[record.key] = record
    return index


def history(seed: int, rules: Rules) -> None:
    """One history. Raises Violation."""
    life = Life(random.Random(seed), rules)
    try:
        life.run()
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}") from None


def rules_of(seed: int, *, purges: bool = False, flaw: Flaw | None = None) -> Rules:
    """The rules of history number `seed`: sizes change with it."""
    rng = random.Random(seed)
    return Rules(
        volumes=rng.choice([1, 2, 2, 3, 3]),
        replicas=rng.choice([1, 2]),
        steps=rng.choice([60, 150, 300]),
        purges=purges,
        flaw=flaw,
    )
