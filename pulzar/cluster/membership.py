"""Who is a member, and in what state: pure decisions.

The list of members is the value of a MEMBERS record, JSON:

    {"cluster": "32 hex", "generation": 3, "next_number": 4,
     "members": [{"id": "32 hex", "name": "alpha", "number": 1, "draining": true}, ...]}

Of two lists the one of the larger generation holds. A number is a member's name in the catalog's
rows; it is never given twice. The copies of a member that is draining are to go elsewhere.

A member's state is what was last heard of it:

    joining    it answers, but its log was not followed to the head yet
    online     a session is open and the catalog has followed it to its head
    suspect    the session broke; it may be back in a moment
    offline    no word for OFFLINE_S
    lost       no word for `[server] lost_after`: its keys are copied again elsewhere
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from pulzar.cluster.messages import PROTOCOL, Presence
from pulzar.errors import MemberRefused, NotReady
from pulzar.limits import OFFLINE_S


class State(StrEnum):
    """What is known of a member."""

    JOINING = "joining"
    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"
    LOST = "lost"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One member in the list."""

    id: str
    name: str
    number: int
    draining: bool = False


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """A generation of the list."""

    cluster: str
    generation: int = 0
    next_number: int = 1
    members: tuple[Entry, ...] = ()

    def by_id(self, volume_id: str) -> Entry | None:
        """The entry of a volume."""
        return next((entry for entry in self.members if entry.id == volume_id), None)


def encode_members(members: Members) -> bytes:
    """The value of a MEMBERS record."""
    return msgspec.json.encode(members)


def decode_members(value: bytes) -> Members | None:
    """The list in the value of a MEMBERS record; None where there is none, or a damaged one."""
    if not value:
        return None
    try:
        return msgspec.json.decode(value, type=Members)
    except msgspec.DecodeError:
        return None


def newest(lists: Iterable[Members | None], cluster: str) -> Members:
    """The list that holds, of all that were met; an empty one where there was none."""
    best = Members(cluster=cluster)
    for members in lists:
        if members is not None and members.cluster == cluster:
            best = max(best, members, key=lambda one: one.generation)
    return best


def with_volume(members: Members, presence: Presence) -> Members:
    """The next generation, in which a volume is a member."""
    entry = Entry(presence.id, presence.name, members.next_number)
    return Members(
        cluster=members.cluster,
        generation=members.generation + 1,
        next_number=members.next_number + 1,
        members=(*members.members, entry),
    )


def renamed(members: Members, volume_id: str, name: str) -> Members:
    """The next generation, in which a member has another name."""
    return _changed(members, volume_id, name=name)


def with_draining(members: Members, volume_id: str, *, draining: bool) -> Members:
    """The next generation, in which a member is drained, or is not any more."""
    return _changed(members, volume_id, draining=draining)


def _changed(members: Members, volume_id: str, **changed: object) -> Members:
    entries = tuple(
        msgspec.structs.replace(entry, **changed) if entry.id == volume_id else entry
        for entry in members.members
    )
    return msgspec.structs.replace(members, generation=members.generation + 1, members=entries)


def without_volume(members: Members, volume_id: str) -> Members:
    """The next generation, in which a volume is a member no more."""
    return msgspec.structs.replace(
        members,
        generation=members.generation + 1,
        members=tuple(entry for entry in members.members if entry.id != volume_id),
    )


def witnesses(old: Members, new: Members) -> frozenset[str]:
    """Those that were members and stay: one of them must have the new list, durably, before a new
    member gets data."""
    before = {entry.id for entry in old.members}
    return frozenset(entry.id for entry in new.members if entry.id in before)


def may_join(members: Members, presence: Presence, *, may_found: bool) -> None:
    """Whether a volume that is no member may become one. Raises MemberRefused, NotReady.

    Versions of two histories do not compare: with keys of its own only the first one may. Where
    there is no member yet, the master may have lost its memory: then a volume of its cluster must
    come first, or the operator says that it is a new one (`may_found`).
    """
    if presence.cluster and presence.cluster != members.cluster:
        raise MemberRefused(
            f"volume {presence.name} belongs to another cluster ({presence.cluster}): give it an "
            "empty data directory, or the URL of its own master"
        )
    first = not members.generation
    if presence.cluster == members.cluster and presence.generation > members.generation:
        return  # it knows more of this cluster than this master does: then its list is taken
    if first and not may_found:
        raise NotReady(
            "this master has a key of a cluster and no memory of it: it waits for a volume of that "
            "cluster; if the cluster is a new one, start it once with --new-cluster"
        )
    if presence.cluster and not first:
        raise MemberRefused(
            f"volume {presence.name} was removed from this cluster: give it an empty data "
            "directory, then it may join anew"
        )
    if presence.entries and not first:
        raise MemberRefused(
            f"volume {presence.name} holds {presence.entries} keys and is no member of this "
            "cluster: only the first volume may bring its data; give it an empty data directory"
        )


def check_presence(presence: Presence) -> None:
    """Whether a volume speaks as this master does. Raises MemberRefused."""
    if presence.protocol != PROTOCOL:
        raise MemberRefused(
            f"volume {presence.name} speaks protocol {presence.protocol}, this master "
            f"{PROTOCOL}: use the same version of Pulzar on both"
        )


def state_of(*, connected: bool, followed: bool, silent_s: float, lost_after_s: float) -> State:
    """The state of a member. `silent_s`: since the last word from it."""
    if silent_s >= lost_after_s:
        return State.LOST
    if silent_s >= OFFLINE_S:
        return State.OFFLINE
    if connected:
        return State.ONLINE
    return State.SUSPECT if followed else State.JOINING
