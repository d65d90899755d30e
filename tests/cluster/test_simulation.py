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
