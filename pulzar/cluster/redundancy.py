"""How redundant keys are, and what a key lacks. Pure.

A copy counts where its volume is a member that is neither lost nor drained, and takes writes: an
absent volume may come back in a moment. It can be read where its volume is online.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pulzar.varidb.copies import Copies


class Standing(msgspec.Struct, frozen=True):
    """One member: whether it is online, and whether copies on it count."""

    online: bool
    counts: bool


class KeyPlan(msgspec.Struct, frozen=True):
    """What a key wants: so many more copies, from one of `sources`; and the copies in `extra` may
    go. One of the two is nothing."""

    lacking: int
    sources: tuple[int, ...]
    extra: tuple[int, ...]


class Redundancy(msgspec.Struct, frozen=True):
    """Of all keys. `least`: how many online copies the least redundant key has; `lost` keys have
    no copy on any member, `unreachable` none that is online, `under` fewer than are wanted."""

    least: int
    keys: int
    lost: int
    unreachable: int
    under: int


def plan_key(holders: Sequence[int], wanted: int, standings: Mapping[int, Standing]) -> KeyPlan:
    """What to do about a key that these volumes hold.

    No more are wanted than there are volumes whose copies count. A copy may go only while as many
    others as are wanted are online: the last one never goes.
    """
    wanted = min(wanted, sum(standing.counts for standing in standings.values()))
    known = [number for number in holders if number in standings]
    counted = [number for number in known if standings[number].counts]
    online = [number for number in known if standings[number].online]
    if len(counted) < wanted:
        return KeyPlan(wanted - len(counted), tuple(online), ())
    safe = [number for number in counted if standings[number].online][:wanted]
    if not safe or len(safe) < wanted:
        return KeyPlan(0, (), ())
    return KeyPlan(0, (), tuple(number for number in online if number not in safe))


def may_hide(
    number: int, holders: Sequence[int], wanted: int, standings: Mapping[int, Standing]
) -> bool:
    """Whether a copy on volume `number` may go: as many others as are wanted are online, and
    count."""
    wanted = min(wanted, sum(standing.counts for standing in standings.values()))
    others = [standings[one] for one in holders if one != number and one in standings]
    return sum(one.online and one.counts for one in others) >= max(wanted, 1)


def redundancy(
    groups: Iterable[Copies], replicas: int, standings: Mapping[int, Standing]
) -> Redundancy:
    """How redundant all keys are. Without keys, the least is what is wanted."""
    keys = lost = unreachable = under = 0
    least: int | None = None
    for group in groups:
        known = [number for number in group.numbers if number in standings]
        online = sum(standings[number].online for number in known)
        keys += group.keys
        least = online if least is None else min(least, online)
        if not known:
            lost += group.keys
        elif not online:
            unreachable += group.keys
        if online < (group.replicas or replicas):
            under += group.keys
    return Redundancy(replicas if least is None else least, keys, lost, unreachable, under)


def wants_work(
    groups: Iterable[Copies], replicas: int, standings: Mapping[int, Standing], targets: int
) -> bool:
    """Whether some key's copies are not what they should be, and something can be done about it:
    `targets` volumes take new copies."""
    for group in groups:
        plan = plan_key(group.numbers, group.replicas or replicas, standings)
        if plan.extra:
            return True
        counted = sum(standings[n].counts for n in group.numbers if n in standings)
        if plan.lacking and plan.sources and targets > counted:
            return True
    return False
