"""Brings every key to as many copies as it should have, beside requests.

    hide      a volume still has what was superseded elsewhere: DELETE, or MOVED at that version
    mend      a key has too few copies: copy it to another volume; or too many: hide one
    heal      a copy is damaged: append the value again, from another copy
    move      volumes are filled unevenly: copy a key to the emptiest, hide it on the fullest
    compare   a volume has returned: comparison.py

Which keys have too few or too many copies is known by their sets of volumes (copies.py); then the
keys are walked through once, in order (repair_walk.py). Every change of a key takes its turn, like
a write. What cannot be done now is found again by the next walk or comparison, so nothing here need
be durable.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from pulzar.clock import Clock
from pulzar.cluster.comparison import Compared, Comparison
from pulzar.cluster.copying import Copying
from pulzar.cluster.link import Link
from pulzar.cluster.member import Member
from pulzar.cluster.membership import State
from pulzar.cluster.messages import NewRecord
from pulzar.cluster.placement import Filled, balance, still_barred
from pulzar.cluster.reconcile import Action, Do
from pulzar.cluster.redundancy import (
    Redundancy,
    Standing,
    may_hide,
    plan_key,
    redundancy,
    wants_work,
)
from pulzar.cluster.repair_queue import RepairQueue, Task
from pulzar.cluster.repair_walk import RepairWalk
from pulzar.cluster.replicator import Replicator
from pulzar.errors import PulzarError, Unavailable
from pulzar.limits import REPAIR_WALK_PAUSE_S, REPAIRS_AT_ONCE
from pulzar.varidb.catalog import Catalog
from pulzar.varidb.catalog_row import Change, Row
from pulzar.varidb.entry import Entry
from pulzar.varidb.record import Type
from pulzar.varidb.turns import Turns

_log = logging.getLogger(__name__)


class Repair:
    """The repairs of one cluster. One event loop."""

    def __init__(
        self,
        catalog: Catalog,
        members: dict[int, Member],
        replicator: Replicator,
        turns: Turns,
        *,
        clock: Clock,
        replicas: int,
        draw: Callable[[], float],
    ) -> None:
        self._catalog = catalog
        self._members = members
        self._replicator = replicator
        self._turns = turns
        self._clock = clock
        self._replicas = replicas
        self._draw = draw
        self._copying = Copying(members, replicator, damaged=self.damaged)
        self._comparison = Comparison(catalog, turns, superseded=self.hide, hide=self._append_hide)
        self._queue = RepairQueue()
        self._walk = RepairWalk(
            catalog,
            self._queue,
            replicas=replicas,
            standings=self.standings,
        )
        self._comparing: dict[int, asyncio.Task[None]] = {}
        self._unsure: set[int] = set()  # volumes that may still have what was superseded
        self._hiding = 0  # copies that are one too many, and are being hidden
        self._hidden = asyncio.Event()
        self._held_back = 0  # while that is not zero, no copy that is one too many is hidden
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._walking = False
        self._serving = False
        self._standings: dict[int, Standing] = {}
        # Between these, source and target, there was nothing to move.
        self._barred: set[tuple[int, int]] = set()
        self.copied_total = 0
        self.hidden_total = 0
        self.healed_total = 0
        self.moved_total = 0
        self.failed_total = 0

    def start(self) -> None:
        """Begin the work."""
        self._tasks = [asyncio.create_task(self._walk_forever())]
        self._tasks += [asyncio.create_task(self._work()) for _ in range(REPAIRS_AT_ONCE)]

    async def close(self) -> None:
        """End it."""
        tasks = [*self._tasks, *self._comparing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, *, serving: bool) -> None:
        """See what is to be done, if a member's state has changed. While the catalog is not
        `serving`, it does not know of all copies: none is made or hidden."""
        for number in self._comparing.keys() - self._members.keys():
            self._comparing[number].cancel()  # what it knows is nobody's any more
        standings = self.standings()
        if standings != self._standings or serving != self._serving:
            self._standings, self._serving = standings, serving
            self._barred.clear()
            self._wake.set()

    def statistics(self) -> dict[str, float]:
        """Counters and gauges by name."""
        return {
            "copies_made_total": self.copied_total,
            "copies_hidden_total": self.hidden_total,
            "copies_healed_total": self.healed_total,
            "copies_moved_total": self.moved_total,
            "repairs_failed_total": self.failed_total,
            "repairs_waiting": self._queue.waiting,
        }

    def doing(self) -> list[str]:
        """What is being done now, in plain words."""
        doing = [
            f"comparing volume {self._members[number].entry.name} with the catalog"
            for number in self._comparing
            if number in self._members
        ]
        if left := self._queue.left:
            doing.append(f"repairing copies: {left} keys are left")
        elif self._walking:
            doing.append("looking for keys with too few or too many copies")
        for member in self._members.values():
            left = self._held(member.number) if member.draining else 0
            if left:
                doing.append(f"draining volume {member.entry.name}: {left} keys are left")
        return doing

    def _held(self, number: int) -> int:
        """How many keys a volume has a copy of."""
        return sum(copies.keys for copies in self._catalog.copies() if number in copies.numbers)

    # What is known of the members.

    def standings(self) -> dict[int, Standing]:
        """Each member as redundancy.py sees it."""
        return {
            number: Standing(
                online=member.online,
                counts=member.keeps and member.state != State.LOST,
            )
            for number, member in self._members.items()
        }

    def redundancy(self) -> Redundancy:
        """How redundant all keys are. Raises ViewBroken."""
        return redundancy(self._catalog.copies(), self._replicas, self.standings())

    # What others ask for.

    def hide(self, key: bytes, entry: Entry, numbers: Sequence[int]) -> None:
        """Volumes hold a version that was superseded: tell those that are online; the others are
        compared when they return."""
        for number in numbers:
            member = self._members.get(number)
            if member is None or not member.online:
                continue
            if not self._queue.add(Task("hide", key, entry.version, number)):
                self._unsure.add(number)

    def damaged(self, key: bytes, version: int, number: int) -> None:
        """A copy is damaged: make it anew."""
        self._queue.add(Task("heal", key, version, number))

    def mend(self, key: bytes) -> None:
        """A key may have too few copies."""
        self._queue.add(Task("mend", key))

    async def reread(self, link: Link, number: int) -> None:
        """Let the catalog know of a volume what its index says, before the volume is used. What it
        acknowledged before must have landed: it would be taken for what the index has now."""
        member = self._members.get(number)
        if member is not None and not member.is_landed:
            raise Unavailable("writes that it acknowledged before still wait for other volumes")
        await self._comparison.reread(link, number)

    def returned(self, member: Member) -> None:
        """A member is online again: compare it, both ways."""
        old = self._comparing.get(member.number)
        if old is not None:
            old.cancel()
        task = asyncio.create_task(self._compare(member))
        self._comparing[member.number] = task

    async def _compare(self, member: Member) -> None:
        number = member.number
        self._unsure.discard(number)
        try:
            done: Compared = await self._comparison.compare(member.link, number)
            if done != Compared():
                _log.info("volume %s compared, in keys: %s", member.entry.name, done.text)
            self._wake.set()
        except PulzarError as error:
            self._unsure.add(number)
            _log.warning("volume %s could not be compared: %s", member.entry.name, error)
        except BaseException:  # a bug, or it is compared anew
            self._unsure.add(number)
            raise
        finally:
            if self._comparing.get(number) is asyncio.current_task():
                del self._comparing[number]

    # What a volume that leaves waits for.

    def is_settled(self, number: int) -> bool:
        """Whether a volume may be written to, and has nothing any more that the catalog knows to be
        superseded: then no other volume's deletes are needed to hide that."""
        member = self._members.get(number)
        return (
            member is not None
            and member.writable
            and number not in self._comparing
            and number not in self._unsure
            and not self._queue.has("hide", number)
        )

    @asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """While this lasts, no copy is being hidden: so all that are known may be counted on."""
        self._held_back += 1
        try:
            while self._hiding:
                self._hidden.clear()
                await self._hidden.wait()
            yield
        finally:
            self._held_back -= 1

    # The work.

    async def _work(self) -> None:
        while True:
            async with self._queue.taken() as task:
                try:
                    await self._do(task)
                except PulzarError as error:
                    self._failed(task)
                    _log.debug("%s of a key failed: %s", task.what, error)
                except Exception:  # a bug: this key is left, the others go on
                    self._failed(task)
                    _log.exception("a bug met a repair")

    def _failed(self, task: Task) -> None:
        self.failed_total += 1
        if task.what == "hide":
            self._unsure.add(task.number)

    async def _do(self, task: Task) -> None:
        """One task, with the key's turn."""
        await self._turns.take(task.key)
        try:
            if task.what == "hide":
                await self._hide_version(task.key, task.version, task.number)
            elif not self._serving:
                return
            elif task.what == "heal":
                await self._heal(task.key, task.version, task.number)
            elif task.what == "move":
                await self._move(task.key, source=task.source, target=task.number)
            else:
                await self._mend(task.key)
        finally:
            self._turns.give(task.key)

    async def _hide_version(self, key: bytes, version: int, number: int) -> None:
        known = self._catalog.known(key)
        if isinstance(known, Row):
            if known.version == version and number in known.copies:
                return
            await self._append_hide(number, key, Action(Do.HIDE, version, Type.MOVED))
        elif known is not None and known >= version:
            await self._append_hide(number, key, Action(Do.HIDE, known, Type.DELETE))

    async def _append_hide(self, number: int, key: bytes, action: Action) -> None:
        now_ms = self._clock.now_ms()
        record = NewRecord(action.type, key, b"", b"", action.version, now_ms, 0)
        await self._copying.append(record, number, None)
        self.hidden_total += 1

    async def _heal(self, key: bytes, version: int, number: int) -> None:
        entry = self._catalog.get(key)
        if entry is None or entry.version != version or number not in entry.holders:
            return
        sources = [one for one in entry.holders if one != number]
        await self._copy(key, entry, sources, number)
        self.healed_total += 1
        self.mend(key)  # a copy too many had to wait for this

    async def _mend(self, key: bytes) -> None:
        entry = self._catalog.get(key)
        if entry is None:
            return
        plan = plan_key(entry.holders, entry.replicas or self._replicas, self.standings())
        for _ in range(plan.lacking):
            size = entry.size
            targets = self._replicator.placement.choose(
                1, size=size, avoid=entry.holders, draw=self._draw
            )
            if not targets:
                return
            await self._copy(key, entry, plan.sources, targets[0])
            now = self._catalog.get(key)
            if now is None:
                return
            entry = now
        plan = plan_key(entry.holders, entry.replicas or self._replicas, self.standings())
        if plan.extra and await self._are_kept(key, entry, plan.extra):
            for number in plan.extra:
                await self._hide_copy(key, entry.version, number)

    async def _are_kept(self, key: bytes, entry: Entry, extra: Sequence[int]) -> bool:
        """Whether those that are to keep a copy have it."""
        standings = self.standings()
        kept = [number for number in entry.holders if number not in extra]
        for number in kept:
            standing = standings.get(number)
            usable = standing is not None and standing.online and standing.counts
            if usable and not await self._copying.has(key, entry, number):
                return False
        return True

    async def _hide_copy(self, key: bytes, version: int, number: int) -> None:
        """Hide a copy of the present version that is one too many, if it still is: members may have
        left since it was found."""
        entry = self._catalog.get(key)
        if self._held_back or not self._serving or entry is None or entry.version != version:
            return
        wanted = entry.replicas or self._replicas
        if number not in entry.holders or not may_hide(
            number, entry.holders, wanted, self.standings()
        ):
            return
        record = NewRecord(Type.MOVED, key, b"", b"", version, self._clock.now_ms(), 0)
        change = Change(key, Type.MOVED, version, entry.size, entry.created_ms, entry.expires_s)
        self._hiding += 1
        try:
            await self._copying.append(record, number, change)
        finally:
            self._hiding -= 1
            self._hidden.set()
        self.hidden_total += 1

    async def _move(self, key: bytes, *, source: int, target: int) -> None:
        """Copy a key to a volume that is emptier, then hide it where it was."""
        entry = self._catalog.get(key)
        standings = self.standings()
        if entry is None or source not in entry.holders or target in entry.holders:
            return
        counts = standings.get(target)
        if counts is None or not (counts.online and counts.counts):
            return
        others = [
            self._members[n].host for n in entry.holders if n != source and n in self._members
        ]
        if self._members[target].host in others and self._members[source].host not in others:
            return  # copies stay on different machines
        await self._copy(key, entry, [source, *entry.holders], target)
        await self._hide_copy(key, entry.version, source)
        self.moved_total += 1

    async def _copy(self, key: bytes, entry: Entry, sources: Sequence[int], target: int) -> None:
        await self._copying.copy(key, entry, sources, target)
        self.copied_total += 1

    # Looking for work.

    async def _walk_forever(self) -> None:
        while True:
            self._wake.clear()
            before = self.copied_total + self.hidden_total
            self._compare_again()
            try:
                if self._serving and self._wants_work():
                    await self._walk_for_copies()
                elif self._serving and (move := balance(self.filled(), barred=self._barred)):
                    moved = self.moved_total
                    await self._walk.for_balance(move)
                    if self.moved_total > moved:
                        self._barred = still_barred(self._barred, move)
                    else:
                        self._barred.add((move.source, move.target))
                        self._wake.set()  # to see to the next pair
            except PulzarError as error:
                _log.warning("looking for keys to repair failed: %s", error)
            if self.copied_total + self.hidden_total > before:
                continue  # there may be more that can be done now
            await _within(self._wake.wait(), REPAIR_WALK_PAUSE_S)

    def _compare_again(self) -> None:
        """See that nothing superseded is left where something could not be hidden."""
        self._unsure &= self._members.keys()
        for number in self._unsure - self._comparing.keys():
            if self._members[number].online:
                self.returned(self._members[number])

    def _wants_work(self) -> bool:
        targets = len(self._replicator.placement.candidates)
        return wants_work(self._catalog.copies(), self._replicas, self.standings(), targets)

    async def _walk_for_copies(self) -> None:
        self._walking = True
        try:
            await self._walk.for_copies()
        finally:
            self._walking = False

    def filled(self) -> list[Filled]:
        """What the volumes that take new copies hold. Raises ViewBroken."""
        held: Counter[int] = Counter()
        for group in self._catalog.copies():
            for number in group.numbers:
                held[number] += group.size
        return [
            Filled(one.number, held[one.number], one.room_bytes)
            for one in self._replicator.placement.candidates
        ]


async def _within(awaited: Awaitable[object], timeout_s: float) -> None:
    """Wait for something, but no longer than that."""
    try:
        async with asyncio.timeout(timeout_s):
            await awaited
    except TimeoutError:
        return
