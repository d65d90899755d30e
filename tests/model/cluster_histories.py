"""Random histories of a cluster, to their end; any number of them from the command line.

    python -m tests.model.cluster_histories --histories 100000 --seed 0 [--purges]

In the end of a history everything is brought together: catalog and volumes have to say the same,
and then a master without memory has to come to the same from the logs alone.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator

from pulzar.cluster.reconcile import Known
from pulzar.varidb.catalog_row import Row
from pulzar.varidb.record import Record
from tests.model.cluster_disk import Disk
from tests.model.cluster_life import KEYS, Life
from tests.model.cluster_truth import Violation
from tests.model.cluster_world import Rules

SETTLE_ROUNDS = 400

OFTEN = (
    (),
    ("restart", "put", "delete"),
    ("wipe", "remove", "grow"),
    ("copy", "put_back", "mend", "heal"),
    ("copy", "put_back", "drain", "give_up_waiting"),
    ("wipe", "stop", "late"),
)
"""What histories are about."""


class History(Life):
    """A life, and its end."""

    def run(self) -> None:
        """Live; then bring everything together, and see that it agrees."""
        for _ in range(self.rules.steps):
            self.step()
            self.look()
        self.settle()
        self._agree()
        if "wipe" not in self.rules.never:
            self._wipe_and_compare()

    def settle(self) -> None:
        """Nothing goes wrong any more: everything is brought together."""
        self.world.trouble = 0.0
        self.world.cut_off.clear()
        self.world.wire.clear()
        for volume in self.world.volumes.values():
            if not volume.is_up:
                volume.start(self._opening())
        quiet = 0
        for _ in range(SETTLE_ROUNDS):
            before = self._progress()
            self._work()
            self.look()
            quiet = quiet + 1 if self._progress() == before and not self.master.air else 0
            if quiet > 2 * len(KEYS):
                return
        raise Violation("repair does not come to an end")

    def _progress(self) -> tuple[object, ...]:
        members = self.master.members.values()
        return (
            [(one.online, one.head, one.comparing and len(one.comparing)) for one in members],
            [one.volume.disk.seq for one in members],
            self.kept.epoch,
            len(self.master.hides),
        )

    def _agree(self) -> None:
        """Catalog and volumes say the same."""
        master = self.master
        if not master.is_ready():
            raise Violation("the master does not become ready")
        disks = {number: one.volume.disk for number, one in master.members.items()}
        for key in KEYS:
            known = master.rows.get(key)
            if not isinstance(known, Row):
                continue
            holders = tuple(
                n for n, disk in sorted(disks.items()) if disk.holds(key, known.version)
            )
            listed = tuple(number for number in known.copies if number in disks)
            if listed != holders:
                raise Violation(f"{key!r} is on {holders}, the catalog says {known.copies}")
            if not holders and key not in self.truth.gone and self.truth.floors[key].is_value:
                raise Violation(f"{key!r} is lost: {known}")
            stays = [n for n in holders if n in master.candidates()]
            if holders and len(stays) < min(self.rules.replicas, len(master.candidates())):
                raise Violation(f"{key!r} has too few copies: {holders}")
            if holders and not master.read(key):
                raise Violation(f"{key!r} cannot be read from {holders}")
        for disk in disks.values():
            if _index_of(disk) != disk.index:
                raise Violation("an index made from its log is another one")

    def _said(self, known: Known) -> object:
        """What a rebuilt catalog has to say, too. Purge forgets that a key was deleted."""
        if isinstance(known, Row):
            return known.version
        return None if self.rules.purges else known

    def _wipe_and_compare(self) -> None:
        """A master without memory comes to the same."""
        if not self._is_list_safe():
            return
        live = dict(self.master.rows)
        gone = set(self.truth.gone)
        self.wipe()
        self.settle()
        self._agree()
        for key in KEYS:
            if key not in gone and self._said(live.get(key)) != self._said(
                self.master.rows.get(key)
            ):
                raise Violation(f"{key!r} is {live.get(key)}, rebuilt {self.master.rows.get(key)}")


def _index_of(disk: Disk) -> dict[bytes, Record]:
    index: dict[bytes, Record] = {}
    for record in disk.records():
        if record.key:
            old = index.get(record.key)
            if old is None or (old.version, old.seq) < (record.version, record.seq):
                index[record.key] = record
    return index


def rules_of(seed: int, *, purges: bool = False, never: tuple[str, ...] = ()) -> Rules:
    """The rules of history number `seed`: sizes, and what it is about, change with it."""
    rng = random.Random(seed)
    return Rules(
        volumes=rng.choice([1, 2, 2, 3, 3]),
        replicas=rng.choice([1, 2]),
        steps=rng.choice([60, 150, 300]),
        purges=purges,
        often=rng.choice(OFTEN),
        never=never,
    )


def history(seed: int, rules: Rules) -> None:
    """One history. Raises Violation, which says how to see it again."""
    try:
        History(random.Random(seed), rules).run()
    except Violation as violation:
        purges = " --purges" if rules.purges else ""
        again = f"python -m tests.model.cluster_histories --histories 1 --seed {seed}{purges}"
        raise Violation(f"seed {seed}: {violation}\n{rules}\n{again}") from None


def bad_ones(seeds: Iterable[int], *, purges: bool) -> Iterator[tuple[int, str]]:
    """The histories in which a promise is broken, and which one."""
    for seed in seeds:
        try:
            history(seed, rules_of(seed, purges=purges))
        except Violation as violation:
            yield seed, str(violation)


def main() -> None:
    """Many histories, from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first one; then one up each")
    parser.add_argument("--purges", action="store_true", help="deletes are purged")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.histories)
    bad = 0
    for _, violation in bad_ones(seeds, purges=options.purges):
        bad += 1
        sys.stdout.write(f"{violation}\n")
        sys.stdout.flush()
    last = f"{bad} of {options.histories} histories from seed {options.seed} on are bad"
    sys.stdout.write(f"{last}\n")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
