"""What an operator asks of a cluster, and does to it.

    nodes, health            how it is
    drain NAME               its copies go to other volumes; it stays a member, and may be read
    remove NAME              it is a member no more; refused while it has the only copy of a key, or
                             may be the only one that knows of a delete
    remove NAME, lost        the same, and what only it had is given up
    restore URL              look at a volume now, and see how far the members were followed

With `dry_run` it is only said what would happen.
"""

import logging
from collections.abc import Iterable
from typing import Protocol

import msgspec

from pulzar.clock import Clock
from pulzar.cluster.member import Member
from pulzar.cluster.membership import State
from pulzar.cluster.placement import Candidate
from pulzar.cluster.redundancy import Standing
from pulzar.cluster.store import ClusterStore
from pulzar.errors import Conflict, NodeNotFound, Unavailable
from pulzar.limits import CLOCK_OFF_MS
from pulzar.varidb.copies import Copies
from pulzar.varidb.position import NOWHERE

_log = logging.getLogger(__name__)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A member. Sizes are bytes; `percent` is the used part of its file system."""

    node: str
    id: str
    url: str
    state: str
    synch: bool
    percent: int
    used_bytes: int
    total_bytes: int
    room_bytes: int
    keys: int
    draining: bool
    silent_s: float
    clock_off_s: float
    remark: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How redundant the least redundant byte is: it has so many copies on volumes that are
    online. `doing` is what is being done, in plain words."""

    status: str
    sentence: str
    redundancy: int
    wanted: int
    keys: int
    keys_lost: int
    keys_unreachable: int
    keys_under_replicated: int
    doing: list[str]


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume that leaves means. `keys` and `bytes` are what it holds; of `keys_only_here` it
    has the only copy, and `keys_under_replicated` have fewer copies without it than are wanted
    (when it was drained: because too few volumes are left).
    `loses` says what nobody else may have, "" where that is nothing. `done` is False for a dry
    run."""

    node: str
    keys: int
    bytes: int
    keys_only_here: int
    keys_under_replicated: int
    room_bytes: int
    loses: str
    sentence: str
    done: bool


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """How far one member was followed, in records of its log or rows of its index."""

    node: str
    url: str
    state: str
    followed: int
    total: int
    done: bool


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far all of them were."""

    ready: bool
    sentence: str
    nodes: list[Followed]


class Operable(Protocol):
    """What can be asked of a cluster, or of a machine that is alone (lone.py)."""

    def nodes(self) -> list[Node]:
        """All members, by name."""

    def node(self, name: str) -> Node:
        """The member of that name or id. Raises NodeNotFound."""

    def health(self) -> Health:
        """See `Health`."""

    async def drain(self, name: str, *, stop: bool, dry_run: bool) -> Departure:
        """Move the copies of a volume to others, or stop that. Raises NodeNotFound, Conflict,
        Unavailable."""

    async def remove(self, name: str, *, lost: bool, dry_run: bool) -> Departure:
        """End a membership. Raises NodeNotFound, Conflict, Unavailable."""

    async def restore(self, url: str) -> Progress:
        """Look at the volume at `url` now. Raises LinkBroken, MemberRefused, Forbidden."""

    def progress(self) -> Progress:
        """How far the members were followed."""


def counted(number: int, one: str, many: str = "") -> str:
    """So many of something, in words."""
    return f"{number} {one if number == 1 else many or one + 's'}"


class Operations:
    """Implements `Operable` for a cluster."""

    def __init__(self, store: ClusterStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    # How it is.

    def nodes(self) -> list[Node]:
        """All members, by name."""
        copies = self._store.copies()
        members = self._store.members.values()
        return sorted((self._node(one, copies) for one in members), key=lambda node: node.node)

    def _node(self, member: Member, copies: Iterable[Copies]) -> Node:
        presence = member.presence
        silent_s = max(0.0, self._clock.monotonic_s() - member.heard_s)
        off_ms = presence.now_ms - member.heard_at_ms if presence is not None else 0
        total = presence.total_bytes if presence is not None else 0
        used = presence.used_bytes if presence is not None else 0
        remark = self._store.master.remarks.get(member.number, "")
        if member.state in (State.OFFLINE, State.LOST):
            remark = f"no word from it for {counted(round(silent_s), 'second')}"
        if abs(off_ms) > CLOCK_OFF_MS:
            remark = f"its clock is {round(off_ms / 1000):+d} s off. {remark}".strip()
        if presence is not None and presence.failed:
            remark = f"takes no writes: {presence.failed}. {remark}".strip()
        return Node(
            node=member.entry.name,
            id=member.entry.id,
            url=presence.url if presence is not None else "",
            state=str(member.state),
            synch=member.online,
            percent=round(100 * used / total) if total else 0,
            used_bytes=used,
            total_bytes=total,
            room_bytes=presence.room_bytes if presence is not None else 0,
            keys=sum(one.keys for one in copies if member.number in one.numbers),
            draining=member.draining,
            silent_s=round(silent_s, 1),
            clock_off_s=round(off_ms / 1000, 1),
            remark=remark,
        )

    def node(self, name: str) -> Node:
        """The member of that name or id. Raises NodeNotFound."""
        member = self._member(name)
        return self._node(member, self._store.copies())

    def _member(self, name: str) -> Member:
        found = [m for m in self._store.members.values() if name in (m.entry.id, m.entry.name)]
        if not found:
            known = ", ".join(sorted(m.entry.name for m in self._store.members.values()))
            raise NodeNotFound(f"there is no volume {name!r} in this cluster; there is {known}")
        return max(found, key=lambda member: (member.online, member.number))

    def _only_member(self, name: str) -> Member:
        """The member to which something is to be done. Raises NodeNotFound; Conflict where the name
        is that of several, as after a volume came back with an empty directory."""
        chosen = self._member(name)
        named = [m for m in self._store.members.values() if m.entry.name == name]
        if len(named) > 1 and name != chosen.entry.id:
            ids = ", ".join(f"{m.entry.id} ({m.state})" for m in named)
            raise Conflict(f"{len(named)} volumes are named {name}, give the id of one: {ids}")
        return chosen

    def health(self) -> Health:
        """See `Health`."""
        wanted = self._store.options.replicas
        redundancy = self._store.repair.redundancy()
        least = redundancy.least
        absent = [m for m in self._store.members.values() if m.state != State.ONLINE]
        present = [m.presence for m in self._store.members.values() if m.presence is not None]
        damaged = sum(len(presence.damaged) for presence in present)
        reason = self._store.not_ready()
        copies = f"{counted(least, 'copy', 'copies')} online"
        if reason is not None:
            status, least = "critical", 0
            sentence = f"Data cannot be served: {reason}."
        elif redundancy.lost or redundancy.unreachable:
            status = "critical"
            sentence = (
                f"No copy is left of {counted(redundancy.lost, 'key')}, and none is online of "
                f"{counted(redundancy.unreachable, 'other key')}."
            )
        elif redundancy.under:
            status = "degraded"
            sentence = (
                f"Fewer copies than wanted are online of {counted(redundancy.under, 'key')}; the "
                f"least redundant byte has {least}."
            )
        elif damaged:
            status = "degraded"
            sentence = (
                f"Found damaged: {counted(damaged, 'copy', 'copies')}; made anew where there is "
                "another one."
            )
        elif absent:
            status = "degraded"
            names = ", ".join(f"{m.entry.name} is {m.state}" for m in absent)
            sentence = f"Every byte has at least {copies}; {names}."
        else:
            status = "ok"
            sentence = f"Every byte has at least {copies}."
        return Health(
            status=status,
            sentence=sentence,
            redundancy=least,
            wanted=wanted,
            keys=redundancy.keys,
            keys_lost=redundancy.lost,
            keys_unreachable=redundancy.unreachable,
            keys_under_replicated=redundancy.under,
            doing=self._store.repair.doing(),
        )

    # What is done to it.

    async def drain(self, name: str, *, stop: bool, dry_run: bool) -> Departure:
        """Move the copies of a volume to others, in the background; or stop that, and let them
        count again. Raises NodeNotFound, Unavailable; Conflict where the others cannot take
        them."""
        member = self._only_member(name)
        left = sum(standing.counts for standing in self._without(member).values())
        short = sum(
            group.keys
            for group in self._store.copies()
            if member.number in group.numbers and self._wanted(group) > left and not stop
        )
        departure = self._departure(member, done=not dry_run)
        if not stop:
            self._require_places(member, departure)
        sentence = self._holding(member, departure.keys, departure.bytes)
        sentence += ": they may stay" if stop else ": they go elsewhere"
        if short:
            sentence += f"; too few volumes are left then for {counted(short, 'key')} of them"
        departure = msgspec.structs.replace(
            departure, keys_under_replicated=short, loses="", sentence=f"{sentence}."
        )
        if not dry_run and member.draining == stop:
            await self._store.master.drain(member, draining=not stop)
            _log.info("volume %s is %s", name, "not drained any more" if stop else "drained")
        return departure

    def _require_places(self, member: Member, departure: Departure) -> None:
        """Raise Conflict where the copies of a volume would not find other places."""
        refused = f"volume {member.entry.name} cannot be drained"
        if not self._places(member):
            raise Conflict(f"{refused}: no other volume is online to take its copies")
        if departure.room_bytes < departure.bytes:
            raise Conflict(
                f"{refused}: it holds {departure.bytes} bytes, and the other volumes have room for "
                f"{departure.room_bytes}"
            )

    def _places(self, member: Member) -> list[Candidate]:
        """Where else copies may go."""
        others = [other.candidate for other in self._store.members.values() if other is not member]
        return [place for place in others if place is not None]

    async def remove(self, name: str, *, lost: bool, dry_run: bool) -> Departure:
        """End a membership. Raises NodeNotFound; Conflict where something would be lost and `lost`
        does not say that it may be; Unavailable."""
        member = self._only_member(name)
        async with self._store.repair.held_back():
            departure = self._departure(member, done=not dry_run)
            if departure.loses and not (lost or dry_run):
                raise Conflict(
                    f"volume {name} cannot be removed: nobody else has {departure.loses}. Drain it "
                    "first, have all volumes online and compared (`pulzar cluster status`), or "
                    "give that up with --lost"
                )
            if not dry_run:
                await self._store.master.remove(member.number)
                given_up = departure.loses or "nothing"
                _log.info("volume %s was removed, what is given up: %s", name, given_up)
        return departure

    def _losses(self, member: Member, keys_only_here: int) -> str:
        """What nobody else may have of what a volume knows, in words: a key, or that another
        volume's copy of one was deleted. "" where that is nothing."""
        losses = []
        if not self._is_known(member):
            losses.append("what it holds, which is not known here")
        elif keys_only_here:
            losses.append(f"{counted(keys_only_here, 'key')} of which it has the only copy")
        unsettled = sorted(
            other.entry.name
            for other in self._store.members.values()
            if (other is not member or other.online)
            and not self._store.repair.is_settled(other.number)
        )
        if unsettled:
            losses.append(f"what was deleted while {', '.join(unsettled)} was away")
        return ", and ".join(losses)

    def _is_known(self, member: Member) -> bool:
        return member.followed or self._store.cursor(member.number) != NOWHERE

    def _without(self, member: Member) -> dict[int, Standing]:
        standings = self._store.repair.standings()
        return {**standings, member.number: Standing(online=False, counts=False)}

    def _wanted(self, group: Copies) -> int:
        return group.replicas or self._store.options.replicas

    def _holding(self, member: Member, keys: int, size: int) -> str:
        """What a volume holds, in words."""
        if not self._is_known(member):
            return f"it is not known here what {member.entry.name} holds"
        return f"{member.entry.name} holds {counted(keys, 'key')}, {counted(size, 'byte')}"

    def _departure(self, member: Member, *, done: bool) -> Departure:
        number = member.number
        without = self._without(member)
        keys = size = only = under = 0
        for group in self._store.copies():
            if number not in group.numbers:
                continue
            keys += group.keys
            size += group.size
            left = [one for one in group.numbers if one != number and one in without]
            only += group.keys if not left else 0
            if sum(without[one].counts for one in left) < self._wanted(group):
                under += group.keys
        sentence = self._holding(member, keys, size)
        if under:
            sentence += f"; without it there are too few copies of {counted(under, 'key')}"
        losses = self._losses(member, only)
        if losses:
            sentence += f"; nobody else has {losses}"
        return Departure(
            node=member.entry.name,
            keys=keys,
            bytes=size,
            keys_only_here=only,
            keys_under_replicated=under,
            room_bytes=sum(place.room_bytes for place in self._places(member)),
            loses=losses,
            sentence=f"{sentence}.",
            done=done,
        )

    async def restore(self, url: str) -> Progress:
        """Look at the volume at `url` now. Raises LinkBroken, MemberRefused, Forbidden."""
        _log.info("restore: looking at the volume at %s", url)
        await self._store.master.look_at(url)
        return self.progress()

    def progress(self) -> Progress:
        """How far the members were followed."""
        nodes = []
        for number, member in sorted(self._store.members.items()):
            followed = self._store.master.progress[number]
            done = member.followed or self._store.cursor(number) != NOWHERE
            nodes.append(
                Followed(
                    node=member.entry.name,
                    url=member.presence.url if member.presence is not None else "",
                    state=str(member.state),
                    followed=followed.total if done else followed.followed,
                    total=followed.total,
                    done=done,
                )
            )
        try:
            reason = self._store.not_ready()
        except Unavailable as error:
            reason = str(error)
        return Progress(
            ready=reason is None, sentence=reason or "every member was followed", nodes=nodes
        )
