"""Who is a member in the cluster model: what master.py does with membership.py.

A list holds at the master first: it is durable there before a volume is told, so no two lists have
the same generation. A new member is not used before one of those that stay has the list. A master
without memory changes no list, and follows no log, before it has heard all members of the newest
list that it met.
"""

from pulzar.cluster.membership import (
    Entry,
    Members,
    encode_members,
    may_join,
    newest,
    with_volume,
    without_volume,
    witnesses,
)
from pulzar.cluster.messages import Append, NewRecord
from pulzar.errors import MemberRefused, NotReady, StaleSession
from pulzar.varidb.position import NOWHERE
from pulzar.varidb.record import Type
from tests.model.cluster_disk import Volume
from tests.model.cluster_world import CLUSTER, Flaw, Kept, Member, World
from tests.model.cluster_writing import Writing


class Membership(Writing):
    """The members of a master, and the list of them."""

    def __init__(self, world: World, kept: Kept) -> None:
        super().__init__(world, kept)
        self.promised_to = self.id if self.rules.flaw != Flaw.EPOCH_TWICE else bytes(16)
        self.heard: set[str] = set()
        self.begin_epoch(kept.epoch + 1)
        for entry in kept.members.members:
            self._add(entry)

    def is_ready(self) -> bool:
        """Whether data may be served."""
        filled = [self._is_filled(member) for member in self.members.values()]
        if self.rules.flaw == Flaw.NO_WAIT:
            return any(filled)
        return bool(filled) and all(filled)

    def _is_filled(self, member: Member) -> bool:
        return member.followed or self.kept.cursors.get(member.number, NOWHERE) != NOWHERE

    # Members.

    def hear(self, volume: Volume) -> None:
        """A heartbeat arrives."""
        self._adopt(volume.members())
        entry = self.kept.members.by_id(volume.id)
        if entry is None and not self._join(volume):
            return
        entry = self.kept.members.by_id(volume.id)
        assert entry is not None
        self.heard.add(volume.id)
        member = self.members[entry.number]
        if member.opening != volume.disk.opening:
            member.opening = volume.disk.opening
            self.break_off(member)
        if volume.disk.generation < self.kept.members.generation and self._may_tell(member):
            self._tell(member, self.kept.members)

    def _add(self, entry: Entry) -> None:
        self.members[entry.number] = Member(entry, self.world.volumes[entry.id])

    def _adopt(self, members: Members | None) -> None:
        best = newest((self.kept.members, members), CLUSTER)
        if best.generation <= self.kept.members.generation:
            return
        self.kept.members = best
        for number, member in list(self.members.items()):
            if member.entry not in best.members:
                self.break_off(member)
                del self.members[number]
        for entry in best.members:
            if entry.number not in self.members:
                self._add(entry)

    def _join(self, volume: Volume) -> bool:
        """A volume becomes a member, if it may. A master that has not heard all members may not
        know the newest list, and changes none."""
        is_early = bool(self.kept.members.members) and not self.is_ready()
        if is_early and self.rules.flaw != Flaw.EARLY_JOIN:
            return False
        presence = volume.presence(CLUSTER)
        try:
            may_join(self.kept.members, presence, may_found=self.kept.founded)
        except (MemberRefused, NotReady):
            return False
        if not self._change(with_volume(self.kept.members, presence)):
            return False
        entry = self.kept.members.by_id(volume.id)
        assert entry is not None
        self.apply_cursor(entry.number, volume.disk.cursor)
        self._add(entry)
        return True

    def _change(self, members: Members) -> bool:
        """A new list: it holds here first, then the others are told. A new member gets no data
        before one of those that stay has the list, durably."""
        if self.rules.flaw == Flaw.REFUSED_LIST:
            return self._change_or_refuse(members)
        if witnesses(self.kept.members, members):
            before = {entry.id for entry in self.kept.members.members}
            self.kept.unwitnessed |= {entry.id for entry in members.members} - before
        self.kept.members = members
        for member in list(self.members.values()):
            if self._may_tell(member):
                self._tell(member, members)
        return True

    def _change_or_refuse(self, members: Members) -> bool:
        told = {
            member.entry.id
            for member in list(self.members.values())
            if self._may_tell(member) and self._tell(member, members)
        }
        needed = witnesses(self.kept.members, members)
        if not needed or needed & told:
            self.kept.members = members
        return self.kept.members is members

    def _may_tell(self, member: Member) -> bool:
        """Whether a list can be appended to a log now."""
        if self.rules.flaw == Flaw.NO_WITNESS:
            return False  # then it is, with the next session
        return member.online and member.sent is None

    def _tell(self, member: Member, members: Members) -> bool:
        """Append a list to a member's log."""
        record = _members_record(members)
        append = Append(member.epoch, member.session, member.appends, [record])
        member.appends += 1
        volume = member.volume
        trouble = self.rng.random() < self.world.trouble
        if not self.world.reaches(volume) or (trouble and self.rng.random() < 0.5):
            self.world.wire.append((volume, append))
            self.break_off(member)
            return False
        try:
            volume.receive(append)
        except StaleSession:
            trouble = True
        if trouble:
            self.break_off(member)
        elif member.entry.id not in self.kept.unwitnessed:
            self.kept.unwitnessed.clear()
        return not trouble

    def may_remove(self, member: Member) -> bool:
        """Whether a member would stay that is known to have the list."""
        others = {one.entry.id for one in self.members.values() if one is not member}
        return self.is_ready() and bool(others - self.kept.unwitnessed)

    def remove(self, member: Member) -> bool:
        """An operator ends a membership."""
        members = without_volume(self.kept.members, member.entry.id)
        if self.rules.flaw == Flaw.REFUSED_LIST and not self._change(members):
            return False
        self.break_off(member)
        del self.members[member.number]
        self.kept.unwitnessed.discard(member.entry.id)
        return members is self.kept.members or self._change(members)


def _members_record(members: Members) -> NewRecord:
    return NewRecord(Type.MEMBERS, b"", encode_members(members), b"", members.generation, 1, 0)
