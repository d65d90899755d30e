"""What clients, operators, clocks, machines and networks do to a cluster, step by step.

A step is one small thing: a message arrives or does not, a key is written, a volume dies, is
compared, comes back as an older copy of itself; a master is restarted, or loses its disk. Each
tells whether it did anything. After each one `Truth` looks at what anybody could read, and at what
is on the disks.
"""

import random
from collections.abc import Callable

from pulzar.cluster.membership import Members
from pulzar.cluster.reconcile import Known
from pulzar.varidb.catalog_row import Row
from pulzar.varidb.condition import Condition
from pulzar.varidb.record import Type
from tests.model.cluster_disk import Disk, Volume
from tests.model.cluster_master import Master
from tests.model.cluster_truth import Truth
from tests.model.cluster_world import CLUSTER, Flaw, Kept, Member, Rules, World

Step = Callable[[], bool]

KEYS = (b"a", b"b", b"c")
VOLUMES_MAX = 5
FOCUS = 5  # so much more often happens what a history is about
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
        self.was_put_back = False
        for _ in range(rules.volumes):
            self._new_volume()
        self.master = Master(self.world, self.kept)
        self.counted: list[Volume] = []
        self.generation = 0  # of the newest list that a master used
        self.sizes = {key: rng.choice([1, LARGE]) for key in KEYS}
        self.world.trouble = rng.choice([0.05, 0.2, 0.5])
        steps = self._steps()
        self.steps = [step for step, _ in steps]
        self.weights = [weight for _, weight in steps]

    def _steps(self) -> list[tuple[Step, float]]:
        """What may happen, and how often."""
        rng, rules = self.rng, self.rules
        steps: list[tuple[Step, float]] = [
            (self.put, 14),
            (self.delete, 7),
            (self.read, 4),
            (self.settle_append, 30),
            (self.late, 5),
            (self.beat, 5),
            (self.connect, 10),
            (self.follow, 14),
            (self.compare, 14),
            (self.hide, 8),
            (self.mend, 8),
            (self.heal, 1),
            (self.bring_together, rng.choice([1, 4])),
            (self.stop, rng.choice([1, 3])),
            (self.start, 6),
            (self.give_up_waiting, 1),
            (self.cut, 1),
            (self.mend_network, 5),
            (self.roll, 3),
            (self.compact, 5),
            (self.copy, rng.choice([0, 1])),
            (self.put_back, rng.choice([0, 1])),
            (self.restart, rng.choice([0, 1])),
            (self.wipe, rng.choice([0, 0, 1])),
            (self.grow, rng.choice([0, 1])),
            (self.drain, rng.choice([0, 0.5])),
            (self.remove, rng.choice([0, 0.5])),
            (self.expire, 3),
            (self.step_clock, 3),
            (self.purge, 12 if rules.purges else 0),
        ]
        focus = dict.fromkeys(rules.often, FOCUS)
        return [
            (step, max(weight, 1) * focus[step.__name__] if step.__name__ in focus else weight)
            for step, weight in steps
            if step.__name__ not in rules.never
        ]

    def _new_volume(self) -> Volume:
        fenced = self.rules.flaw != Flaw.NO_FENCE
        volume = Volume(len(self.world.volumes) + 1, is_fenced=fenced)
        self.world.volumes[volume.id] = volume
        volume.start(self._opening())
        return volume

    def _opening(self) -> bytes:
        return self.world.token().to_bytes(16, "little")

    def step(self) -> None:
        """Something happens."""
        for step in self.rng.choices(self.steps, self.weights, k=DRAWS):
            if step():
                return

    def look(self) -> None:
        """See whether the promises hold now."""
        is_ready = self.master.is_ready()
        self.truth.look(self.master.rows, self.world.now_s, is_ready=is_ready)
        self.truth.hold(self._disks(), purges=self.rules.purges)

    def _members(self) -> list[Volume]:
        """The volumes of the members; a master without memory does not know all of them yet."""
        if self.master.is_ready():
            self.counted = [member.volume for member in self.master.members.values()]
            self.generation = self.kept.members.generation
        return self.counted

    def _disks(self) -> list[Disk]:
        """All that may be followed: a master without memory may also take a volume for a member
        that was removed when only the master before knew."""
        others = [member.volume for member in self.master.members.values()]
        members = self._members()
        return [one.disk for one in (*members, *(one for one in others if one not in members))]

    def _begin_again(self, rows: dict[bytes, Known]) -> None:
        """No catalog is whole: what the disks say of those that a new master will wait for."""
        members = self._members()
        lists = [one.members() or Members(cluster=CLUSTER) for one in self.world.volumes.values()]
        newest = max(lists, key=lambda one: one.generation)
        listed = [one for one in self.world.volumes.values() if newest.by_id(one.id) is not None]
        self.truth.begin_again(
            [volume.disk for volume in members],
            [volume.disk for volume in (*members, *listed)],
            rows=rows,
            was_taken=self.was_taken,
        )

    def _take(self, before: list[Disk]) -> None:
        """Something went that no rule can bring back. A copy that is being hidden, since there
        were others, is as good as hidden."""
        self.was_taken = True
        after = {volume.id: volume.disk.copy() for volume in self._members()}
        hiding = [(volume, one) for volume, append in self.world.wire for one in append.records]
        for member in self.master.members.values():
            sent = member.sent[1] if member.sent is not None else []
            hiding += [(member.volume, flight.record) for flight in (*sent, *member.queue)]
        for volume, record in hiding:
            disk = after.get(volume.id)
            if record.type != Type.MOVED or disk is None:
                continue
            if disk.holds(record.key, record.version):
                del disk.index[record.key]
        self.truth.take(before, list(after.values()))
        if not self.master.is_ready():  # and perhaps no catalog remembers it
            self._begin_again(self.master.rows)

    # Clients.

    def put(self) -> bool:
        key = self.rng.choice(KEYS)
        expires_s = self.world.now_s + self.rng.randint(1, 9) if self.rng.random() < 0.2 else 0
        return self.master.is_ready() and self.master.write(
            key,
            Type.PUT,
            expires_s=expires_s,
            size=self.sizes[key],
            condition=self._condition(key),
        )

    def delete(self) -> bool:
        key = self.rng.choice(KEYS)
        condition = self._condition(key)
        return self.master.is_ready() and self.master.write(key, Type.DELETE, condition=condition)

    def _condition(self, key: bytes) -> Condition | None:
        """If-Match with the version that the client knows, or If-None-Match: *, now and then."""
        known = Condition(match=(self.truth.floors[key].version,))
        return self.rng.choice([None, None, None, known, Condition(none_match_any=True)])

    def read(self) -> bool:
        return self.master.read(self.rng.choice(KEYS))

    def expire(self) -> bool:
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

    def settle_append(self) -> bool:
        member = self._any_member(lambda one: one.sent is not None)
        if member is not None:
            self.master.settle(member)
        return member is not None

    def late(self) -> bool:
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

    def beat(self) -> bool:
        volume = self._any_volume(self.world.reaches)
        if volume is not None:
            self.master.hear(volume)
        return volume is not None

    def connect(self) -> bool:
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

    def follow(self) -> bool:
        member = self._any_member(lambda one: one.head is not None)
        if member is None:
            return False
        if not self.world.reaches(member.volume) or member.opening != member.volume.disk.opening:
            self.master.break_off(member)
            return True
        return self.master.follow(member)

    def compare(self) -> bool:
        member = self._any_member(lambda one: one.online and one.comparing is not None)
        if member is not None:
            self.master.compare(member)
        return member is not None

    def hide(self) -> bool:
        return bool(self.master.hides) and self.master.hide_next()

    def mend(self) -> bool:
        return self.master.mend(self.rng.choice(KEYS))

    def heal(self) -> bool:
        return self.master.heal(self.rng.choice(KEYS))

    # Machines and networks.

    def _any_volume(self, holds: Callable[[Volume], object]) -> Volume | None:
        found = [volume for volume in self.world.volumes.values() if holds(volume)]
        return self.rng.choice(found) if found else None

    def stop(self) -> bool:
        volume = self._any_volume(lambda one: one.is_up)
        if volume is not None:
            volume.is_up = False
        return volume is not None

    def start(self) -> bool:
        volume = self._any_volume(lambda one: not one.is_up)
        if volume is not None:
            volume.start(self._opening())
        return volume is not None

    def give_up_waiting(self) -> bool:
        """A member was silent for ten minutes."""
        member = self._any_member(lambda one: not one.online and not one.is_lost)
        if member is not None:
            member.is_lost = True
        return member is not None

    def cut(self) -> bool:
        volume = self._any_volume(self.world.reaches)
        if volume is not None:
            self.world.cut_off.add(volume.id)
        return volume is not None

    def mend_network(self) -> bool:
        volume = self._any_volume(lambda one: one.id in self.world.cut_off)
        if volume is not None:
            self.world.cut_off.remove(volume.id)
        return volume is not None

    def bring_together(self) -> bool:
        """A quiet moment: everybody gets a step further."""
        self._work()
        return True

    def roll(self) -> bool:
        self.rng.choice(list(self.world.volumes.values())).disk.roll()
        return True

    def compact(self) -> bool:
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

    def step_clock(self) -> bool:
        self.world.now_s += self.rng.choice([1, 2, 4, -3])
        return True

    # Fate.

    def copy(self) -> bool:
        volume = self.rng.choice(list(self.world.volumes.values()))
        volume.saved = volume.disk.copy()
        return True

    def put_back(self) -> bool:
        """A directory is replaced by an older copy of itself."""
        volume = self._any_volume(lambda one: one.saved is not None)
        if volume is None or volume.saved is None:
            return False
        before = [volume.disk.copy() for volume in self._members()]
        self.was_put_back = True
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

    def restart(self) -> bool:
        """The master's program is started again."""
        self._end_master()
        self.master = Master(self.world, self.kept)
        return True

    def _end_master(self) -> None:
        for member in self.master.members.values():
            if member.sent is not None:
                self.world.wire.append((member.volume, member.sent[0]))

    def wipe(self) -> bool:
        """The master's disk is lost; it has the cluster's key still."""
        if not self.master.is_ready() or not self._is_list_safe():
            return False
        self._end_master()
        self._begin_again({})
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
        if not self.was_put_back:
            return True
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

    def grow(self) -> bool:
        if len(self.world.volumes) == VOLUMES_MAX:
            return False
        self._new_volume()
        return True

    def drain(self) -> bool:
        member = self._any_member(lambda one: one.online)
        if member is None or len(self.master.candidates()) < 2:
            return False
        self.kept.draining.add(member.entry.id)
        return True

    def remove(self) -> bool:
        """A member is given up, or is empty after a drain."""
        member = self._any_member(lambda _: True)
        if member is None or not self.master.may_remove(member):
            return False
        before = [volume.disk.copy() for volume in self._members()]
        if self.master.remove(member):
            self._take(before)
        return True

    def purge(self) -> bool:
        return self.master.purge()

    # Bringing together.

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
