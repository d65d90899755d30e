"""The pure decisions of a cluster: sessions, members, redundancy, placement."""

import random
from collections import Counter
from itertools import groupby

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.cluster.membership import (
    Members,
    State,
    check_presence,
    may_join,
    newest,
    renamed,
    state_of,
    with_volume,
    without_volume,
    witnesses,
)
from pulzar.cluster.messages import Append, Presence
from pulzar.cluster.placement import (
    Candidate,
    Filled,
    Move,
    Placement,
    balance,
    mean_fill,
    still_barred,
)
from pulzar.cluster.redundancy import Standing, may_hide, plan_key, redundancy, wants_work
from pulzar.cluster.sessions import Session
from pulzar.errors import MemberRefused, NotReady, StaleSession
from pulzar.limits import BALANCE_FILL_MIN, BALANCE_SPREAD, OFFLINE_S, RUN_BYTES, RUN_RECORDS
from pulzar.varidb.copies import Copies

CLUSTER = "c" * 32


def append(epoch: int, session: int, number: int) -> Append:
    return Append(epoch, session, number, [])


def test_a_session_takes_each_append_once_and_in_order() -> None:
    session = Session()
    with pytest.raises(StaleSession):
        session.take(append(1, 7, 0))
    session.begin(1, 7)
    session.take(append(1, 7, 0))
    for late in (append(1, 7, 0), append(1, 7, 2), append(1, 6, 1), append(2, 7, 1)):
        with pytest.raises(StaleSession):
            session.take(late)
    session.take(append(1, 7, 1))
    session.begin(1, 8)
    with pytest.raises(StaleSession):
        session.take(append(1, 7, 2))
    session.take(append(1, 8, 0))
    session.end()
    with pytest.raises(StaleSession):
        session.require(append(1, 8, 1))


def presence(name: str, **changed: object) -> Presence:
    known = Presence(
        protocol=1,
        id=name * 32,
        instance="i",
        name=name,
        url="http://h:1",
        cluster="",
        generation=0,
        epoch=0,
        entries=0,
        opening=b"",
        seq=0,
        total_bytes=1,
        used_bytes=0,
        room_bytes=1,
        now_ms=0,
    )
    return msgspec.structs.replace(known, **changed)


def test_numbers_are_never_given_twice_and_generations_grow() -> None:
    members = Members(cluster=CLUSTER)
    for name in "ab":
        members = with_volume(members, presence(name))
    members = without_volume(members, "b" * 32)
    members = with_volume(members, presence("d"))
    assert [(entry.name, entry.number) for entry in members.members] == [("a", 1), ("d", 3)]
    changed = renamed(members, "a" * 32, "e")
    assert changed.generation == members.generation + 1 == 5
    found = changed.by_id("a" * 32)
    assert found is not None
    assert (found.name, found.number) == ("e", 1)
    foreign = msgspec.structs.replace(changed, cluster="f" * 32, generation=99)
    assert newest([members, None, changed, foreign], CLUSTER) == changed


def test_a_change_is_witnessed_by_one_that_stays() -> None:
    one = with_volume(Members(cluster=CLUSTER), presence("a"))
    two = with_volume(one, presence("b"))
    assert witnesses(Members(cluster=CLUSTER), one) == frozenset()
    assert witnesses(one, two) == {"a" * 32}
    assert witnesses(two, without_volume(two, "a" * 32)) == {"b" * 32}


def test_who_may_join() -> None:
    empty = Members(cluster=CLUSTER)
    may_join(empty, presence("a", entries=5), may_found=True)
    with pytest.raises(NotReady):
        may_join(empty, presence("a"), may_found=False)
    one = with_volume(empty, presence("a"))
    may_join(one, presence("b"), may_found=False)
    for refused in (presence("b", entries=5), presence("b", cluster="f" * 32)):
        with pytest.raises(MemberRefused):
            may_join(one, refused, may_found=True)
    may_join(one, presence("b", entries=5, cluster=CLUSTER, generation=9), may_found=False)
    with pytest.raises(MemberRefused):
        check_presence(presence("a", protocol=2))


def test_the_state_of_a_member_is_what_was_last_heard_of_it() -> None:
    def state(*, connected: bool, followed: bool, silent_s: float) -> State:
        return state_of(connected=connected, followed=followed, silent_s=silent_s, lost_after_s=600)

    assert state(connected=True, followed=True, silent_s=0) == State.ONLINE
    assert state(connected=False, followed=True, silent_s=0) == State.SUSPECT
    assert state(connected=False, followed=False, silent_s=0) == State.JOINING
    assert state(connected=True, followed=True, silent_s=OFFLINE_S) == State.OFFLINE
    assert state(connected=False, followed=True, silent_s=600) == State.LOST


STANDINGS = st.dictionaries(
    st.integers(1, 6), st.builds(Standing, online=st.booleans(), counts=st.booleans())
)
HOLDERS = st.lists(st.integers(1, 7), unique=True).map(tuple)


@given(holders=HOLDERS, wanted=st.integers(1, 4), standings=STANDINGS)
def test_the_last_copies_never_go(
    holders: tuple[int, ...], wanted: int, standings: dict[int, Standing]
) -> None:
    plan = plan_key(holders, wanted, standings)
    assert not (plan.lacking and plan.extra)
    assert set(plan.extra) <= set(holders)
    left = [n for n in holders if n not in plan.extra and n in standings]
    counted = [n for n in left if standings[n].counts]
    if plan.extra:
        possible = min(wanted, sum(one.counts for one in standings.values()))
        assert len([n for n in counted if standings[n].online]) >= max(1, possible)
    for number in holders:
        if may_hide(number, holders, wanted, standings):
            after = tuple(one for one in holders if one != number)
            assert not plan_key(after, wanted, standings).lacking
            assert any(one in standings and standings[one].online for one in after)
        else:
            assert number not in plan.extra
    if plan.lacking:
        assert len(counted) + plan.lacking <= wanted


def test_redundancy_is_that_of_the_least_redundant_key() -> None:
    up, away, leaving = Standing(True, True), Standing(False, True), Standing(True, False)
    standings = {1: up, 2: away, 3: leaving}
    groups = [
        Copies(0, (1, 3), 10, 100),
        Copies(0, (1, 2), 5, 50),
        Copies(1, (2,), 3, 30),
        Copies(0, (9,), 2, 20),
        Copies(0, (), 1, 10),
    ]
    found = redundancy(groups, 2, standings)
    assert (found.least, found.keys, found.lost, found.unreachable) == (0, 21, 3, 3)
    assert found.under == 5 + 3 + 2 + 1
    assert redundancy([], 2, standings).least == 2
    assert wants_work([Copies(0, (1, 2), 1, 1)], 2, standings, 1) is False
    assert wants_work([Copies(0, (1, 3), 1, 1)], 2, {**standings, 4: up}, 2) is True


def candidates(*rooms: int, hosts: str = "abcdefgh") -> list[Candidate]:
    return [
        Candidate(number, hosts[number % len(hosts)], 1000, 1000 - room, room, 0)
        for number, room in enumerate(rooms, start=1)
    ]


@given(
    rooms=st.lists(st.integers(0, 100), max_size=6),
    wanted=st.integers(1, 4),
    size=st.integers(0, 100),
    holders=HOLDERS,
    avoid=st.sets(st.integers(1, 7)),
    seed=st.integers(0, 1 << 30),
)
def test_a_choice_keeps_to_its_rules(
    rooms: list[int],
    wanted: int,
    size: int,
    holders: tuple[int, ...],
    avoid: set[int],
    seed: int,
) -> None:
    placement = Placement(candidates(*rooms))
    chosen = placement.choose(
        wanted, size=size, holders=holders, avoid=avoid, draw=random.Random(seed).random
    )
    fits = [n for n, room in enumerate(rooms, start=1) if room >= size and n not in avoid]
    assert len(chosen) == len(set(chosen)) == min(wanted, len(fits))
    assert set(chosen) <= set(fits)
    staying = [n for n in holders if n in fits][:wanted]
    assert list(chosen[: len(staying)]) == staying


def test_copies_are_on_different_hosts_where_there_are_hosts_enough() -> None:
    rng = random.Random(1)
    placement = Placement(candidates(10**9, 10**9, 10**9, 1000, hosts="ab"))
    for _ in range(200):
        first, second = placement.choose(2, size=1, draw=rng.random)
        assert first % 2 != second % 2
    assert len(placement.choose(3, size=1, draw=rng.random)) == 3


def test_room_and_load_weigh() -> None:
    rng = random.Random(2)
    rooms = [10**12, 2 * 10**12, 3 * 10**12]
    placement = Placement(candidates(*rooms))
    size = RUN_BYTES  # each is a run of its own
    chosen = Counter(placement.choose(1, size=size, draw=rng.random)[0] for _ in range(12_000))
    for number in (1, 2, 3):
        assert abs(chosen[number] - 2000 * number) < 200
    busy = [*candidates(10**12), Candidate(2, "x", 1000, 0, 10**12, 256)]
    placement = Placement(busy)
    chosen = Counter(placement.choose(1, size=size, draw=rng.random)[0] for _ in range(9000))
    assert abs(chosen[2] - 3000) < 200


def test_new_keys_come_in_runs() -> None:
    rng = random.Random(3)
    placement = Placement(candidates(*[10**12] * 10))
    for wanted in (1, 2):
        chosen = [placement.choose(wanted, size=10, draw=rng.random) for _ in range(10_000)]
        runs = [len(list(run)) for _, run in groupby(chosen)]
        assert min(runs[:-1]) >= RUN_RECORDS
        assert max(runs) <= 6 * RUN_RECORDS  # the same may be drawn again
        held = Counter(number for numbers in chosen for number in numbers)
        assert len(held) == 10
    # Others in between do not end a run; a value that does not fit into it does.
    run = placement.choose(3, size=10, draw=rng.random)
    assert placement.choose(3, size=10, holders=(1, 2, 3), draw=rng.random) == (1, 2, 3)
    assert placement.choose(3, size=RUN_BYTES - 20, draw=rng.random) == run
    assert len({placement.choose(3, size=10**6, draw=rng.random) for _ in range(20)}) > 10


def test_a_run_ends_where_a_volume_is_full() -> None:
    rng = random.Random(4)
    placement = Placement(candidates(100, 100))
    chosen = Counter(placement.choose(1, size=10, draw=rng.random) for _ in range(22))
    assert chosen == {(1,): 10, (2,): 10, (): 2}


FILLED = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=5)


@given(sizes=FILLED)
def test_a_move_goes_from_the_fullest_to_the_emptiest_and_brings_one_to_the_mean(
    sizes: list[tuple[int, int]],
) -> None:
    volumes = [Filled(number, held, room) for number, (held, room) in enumerate(sizes)]
    move = balance(volumes)
    if move is None:
        return
    mean = mean_fill(volumes)
    by_number = {one.number: one for one in volumes}
    source, target = by_number[move.source], by_number[move.target]
    assert source.fill == max(one.fill for one in volumes)
    assert target.fill == min(one.fill for one in volumes)
    assert (source.held_bytes - move.size) / source.capacity >= mean - 1 / source.capacity
    if target.fill < mean - BALANCE_FILL_MIN / 2:
        assert (target.held_bytes + move.size) / target.capacity <= mean + 1 / target.capacity


@given(sizes=FILLED, blocked=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_balancing_ends_with_no_volume_too_full_that_could_give_to_an_emptier_one(
    sizes: list[tuple[int, int]], blocked: set[tuple[int, int]]
) -> None:
    volumes = {n: Filled(n, held << 20, room << 20) for n, (held, room) in enumerate(sizes)}
    barred: set[tuple[int, int]] = set()
    move: Move | None = None
    for _ in range(500):
        move = balance(list(volumes.values()), barred=barred)
        if move is None:
            break
        if (move.source, move.target) in blocked:
            barred.add((move.source, move.target))
            continue
        for number, size in ((move.source, -move.size), (move.target, move.size)):
            one = volumes[number]
            volumes[number] = Filled(number, one.held_bytes + size, one.room_bytes - size)
        barred = still_barred(barred, move)
    assert move is None
    mean = mean_fill(list(volumes.values()))
    for source in volumes.values():
        for target in volumes.values():
            assert (
                (source.number, target.number) in blocked
                or source.fill <= max(mean * BALANCE_SPREAD, mean + BALANCE_FILL_MIN)
                or source.fill - target.fill < BALANCE_FILL_MIN
                or not source.capacity
            )


def test_volumes_that_are_even_enough_are_left_alone() -> None:
    assert balance([]) is None
    assert balance([Filled(1, 5, 5)]) is None
    assert balance([Filled(1, 500, 500), Filled(2, 510, 490)]) is None
    assert balance([Filled(1, 500, 500), Filled(2, 0, 1000)]) == Move(1, 2, 250)


def test_where_nothing_can_be_moved_the_next_pair_is_taken() -> None:
    volumes = [Filled(1, 900, 100), Filled(2, 800, 200), Filled(3, 200, 800), Filled(4, 100, 900)]
    assert balance(volumes) == Move(1, 4, 400)
    assert balance(volumes, barred={(1, 4)}) == Move(1, 3, 300)
    assert balance(volumes, barred={(1, 4), (1, 3)}) == Move(1, 2, 50)
    barred = {(1, 2), (1, 3), (1, 4), (2, 3)}
    assert balance(volumes, barred=barred) == Move(2, 4, 300)
    assert still_barred(barred, Move(2, 4, 300)) == {(1, 3), (1, 4), (2, 3)}


def test_what_is_chosen_is_counted() -> None:
    rng = random.Random(3)
    placement = Placement(candidates(100, 100))
    taken = [placement.choose(1, size=10, draw=rng.random) for _ in range(25)]
    assert Counter(taken) == {(1,): 10, (2,): 10, (): 5}
