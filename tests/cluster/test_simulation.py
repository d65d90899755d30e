"""The cluster in virtual time: many seeds, every history checked; and proof that the check sees.

`pulzar.testing.simulate.simulate(seed)` replays one; a test that fails names its seed.
"""

import pytest

from pulzar.cluster.master import Master
from pulzar.testing.linearizability import check
from pulzar.testing.simulate import simulate
from pulzar.testing.simulation import World

SEEDS = range(40)


def checked(world: World) -> None:
    assert world.surprises == []
    check(world.history)


@pytest.mark.parametrize("seed", SEEDS)
def test_three_volumes_with_two_copies(seed: int) -> None:
    checked(simulate(seed))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("volumes", "replicas"), [(3, 1), (2, 2), (5, 3)])
def test_other_numbers_of_volumes_and_copies(seed: int, volumes: int, replicas: int) -> None:
    checked(simulate(seed, volumes=volumes, replicas=replicas))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("replicas", [1, 2])
def test_volumes_that_join_and_are_removed(seed: int, replicas: int) -> None:
    checked(simulate(seed, replicas=replicas, change=True))


def test_members_do_come_and_go() -> None:
    changes = [simulate(seed, change=True).changes for seed in range(5)]
    for kind in ("joined", "drained", "removed"):
        assert sum(one[kind] for one in changes), kind


def test_the_same_seed_gives_the_same_history() -> None:
    one, other = simulate(7), simulate(7)
    assert len(one.history) > 300
    assert [str(operation) for operation in one.history] == [
        str(operation) for operation in other.history
    ]


def test_a_master_that_does_not_wait_for_all_members_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After it lost its disk, it would answer with what the first volumes happen to have."""
    monkeypatch.setattr(Master, "unfollowed", lambda _: [])
    caught = 0
    for seed in range(200):
        try:
            checked(simulate(seed))
        except (AssertionError, TimeoutError):
            caught += 1
            break
    assert caught
