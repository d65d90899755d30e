"""Whether a cluster keeps its promises in random histories, and whether the model would see it.

A history that breaks a promise says its seed, and the command that shows it again. The broken
variants, each without one rule of the design, have to fail: with what they are about happening
often, some history of the first thousand shows it.
"""

import random

import msgspec
import pytest

from tests.model.cluster_histories import bad_ones, history, rules_of
from tests.model.cluster_truth import Violation
from tests.model.cluster_world import Flaw, Rules

HISTORIES_MAX = 1000

WATCHED = {
    Flaw.NO_FENCE: Rules(volumes=4, replicas=2, steps=200, often=("late", "bring_together")),
    Flaw.NO_WAIT: Rules(volumes=3, replicas=1, steps=200, often=("wipe",)),
    Flaw.NO_FOLLOWING: Rules(
        volumes=4, replicas=2, steps=200, often=("settle_append", "bring_together")
    ),
    Flaw.EARLY_CURSOR: Rules(
        volumes=4,
        replicas=2,
        steps=200,
        often=("restart", "delete", "cut", "bring_together", "mend_network"),
    ),
    Flaw.EPOCH_TWICE: Rules(volumes=2, replicas=2, steps=150, often=("wipe",)),
    Flaw.EARLY_LOGS: Rules(
        volumes=2,
        replicas=2,
        steps=150,
        often=("remove", "wipe", "cut", "mend_network", "bring_together"),
    ),
    Flaw.EARLY_JOIN: Rules(
        volumes=3, replicas=1, steps=200, often=("grow", "wipe", "beat", "bring_together", "remove")
    ),
    Flaw.NO_WITNESS: Rules(volumes=3, replicas=1, steps=200, often=("grow", "wipe", "beat")),
    Flaw.REFUSED_LIST: Rules(
        volumes=3, replicas=1, steps=200, often=("remove", "bring_together", "settle_append")
    ),
    Flaw.DIGESTS_ONLY: Rules(
        volumes=3, replicas=1, steps=200, often=("delete", "stop", "start", "bring_together")
    ),
    Flaw.FORGOTTEN_BY_VERSION: Rules(
        volumes=4, replicas=2, steps=200, often=("mend", "bring_together", "stop", "start")
    ),
    Flaw.OLD_STAMPS: Rules(
        volumes=2, replicas=2, steps=150, often=("copy", "put_back", "bring_together")
    ),
    Flaw.EXTRA_UNASKED: Rules(
        volumes=3, replicas=1, steps=200, often=("copy", "put_back", "drain", "mend")
    ),
    Flaw.LAST_COPY: Rules(
        volumes=3, replicas=1, steps=200, often=("mend", "stop", "bring_together")
    ),
    Flaw.UNNAMED_FETCH: Rules(
        volumes=4, replicas=2, steps=200, often=("read", "stop", "start", "bring_together")
    ),
    Flaw.EXPIRED_UNWRITTEN: Rules(
        volumes=4, replicas=2, steps=200, often=("step_clock", "read", "put")
    ),
    Flaw.NEW_MOVED: Rules(volumes=2, replicas=2, steps=150, often=("mend", "bring_together")),
    Flaw.PURGED_BY_HOLDERS: Rules(
        volumes=3, replicas=1, steps=200, often=("compact", "delete", "stop", "bring_together")
    ),
    Flaw.PURGED_ONCE: Rules(
        volumes=3,
        replicas=1,
        steps=200,
        purges=True,
        often=("purge", "wipe", "bring_together"),
        never=("put_back",),
    ),
    Flaw.PLAIN_MERGE: Rules(
        volumes=2,
        replicas=2,
        steps=150,
        purges=True,
        often=("copy", "put_back", "purge", "compact", "bring_together"),
        never=("wipe",),
    ),
}
"""The rules under which each flaw is seen soon."""


def bad(seeds: range, *, purges: bool = False) -> list[str]:
    return [violation for _, violation in bad_ones(seeds, purges=purges)]


@pytest.mark.slow
def test_a_cluster_keeps_its_promises() -> None:
    assert bad(range(200)) == []


@pytest.mark.slow
def test_a_cluster_keeps_its_promises_in_histories_that_were_never_seen() -> None:
    first = random.randrange(1_000_000, 1 << 31)
    assert bad(range(first, first + 200)) == []


@pytest.mark.slow
def test_deletes_may_be_purged_while_a_catalog_remembers_what_old_copies_hold() -> None:
    for seed in range(200):
        history(seed, rules_of(seed, purges=True, never=("wipe",)))


@pytest.mark.slow
def test_deletes_may_be_purged_where_no_directory_is_put_back() -> None:
    for seed in range(200):
        history(seed, rules_of(seed, purges=True, never=("put_back",)))


def test_every_flaw_is_watched() -> None:
    assert WATCHED.keys() == set(Flaw)


@pytest.mark.slow
@pytest.mark.parametrize("flaw", WATCHED, ids=lambda flaw: flaw.name)
def test_the_model_sees_a_flaw(flaw: Flaw) -> None:
    rules = WATCHED[flaw]
    assert seen(flaw, rules), f"no history of {HISTORIES_MAX} shows that {flaw}"


def seen(flaw: Flaw, rules: Rules) -> bool:
    """Whether some history breaks a promise, where the same one without the flaw does not."""
    for seed in range(HISTORIES_MAX):
        try:
            history(seed, msgspec.structs.replace(rules, flaw=flaw))
        except Violation:
            history(seed, rules)
            return True
    return False
