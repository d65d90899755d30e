"""`python -m bench.placement`: how evenly copies lie on unequal volumes that join and leave.

The real decisions (cluster/placement.py) on simulated volumes of 100 GiB to 1 TiB, some of them on
one host. Values are dealt in groups of 64 MiB, each as one key. The story of each run:

    fill half of everything -> balance -> every fifth volume joins, empty -> balance -> more is
    written and deleted -> every tenth volume leaves, its copies go elsewhere -> balance

Where the largest volume cannot have a partner for all that it could hold, some keys have too few
copies until volumes join: those are made before anything is balanced, as repair does.

spread    max/mean of the fill of all volumes, beside the least that is possible: a volume that is
          larger than the others together cannot hold its share of keys with two copies each.
          As placement left it (written), and each time when balance has done its work (filled,
          joined, left): then wanted is at most 1.05
moved     bytes that joining, leaving and balancing moved, beside the least that would do: what the
          new volumes want to be as full as the others, and what the leaving ones held
"""

import argparse
import random
import secrets
import time
from dataclasses import dataclass, field

from pulzar.cluster.placement import Candidate, Filled, Placement, balance, mean_fill, still_barred

GIB = 1 << 30
GROUP_BYTES = 64 << 20
SIZES_GIB = (100, 250, 500, 1000)
PER_HOST = 3
WANTED = 1.05


@dataclass
class Disk:
    """One volume."""

    number: int
    host: str
    total: int
    groups: set[int] = field(default_factory=set)

    @property
    def held(self) -> int:
        return len(self.groups) * GROUP_BYTES


class Site:
    """All volumes, and where every group of values is."""

    def __init__(self, volumes: int, replicas: int, seed: int) -> None:
        self.rng = random.Random(f"{seed} {volumes} {replicas}")
        self.replicas = replicas
        self.disks: dict[int, Disk] = {}
        self.where: dict[int, list[int]] = {}
        self.moved = self.least = 0
        self.choices = 0
        self.chosen_s = 0.0
        self._next = 0
        for _ in range(volumes):
            self.join()

    def join(self) -> Disk:
        number = len(self.disks) + 1 if not self.disks else max(self.disks) + 1
        total = self.rng.choice(SIZES_GIB) * GIB
        disk = Disk(number, f"host-{(number - 1) // PER_HOST}", total)
        self.disks[number] = disk
        return disk

    def placement(self) -> Placement:
        return Placement(
            [
                Candidate(d.number, d.host, d.total, d.held, d.total - d.held, 0)
                for d in self.disks.values()
            ]
        )

    def write(self, fill: float) -> None:
        """Write until that part of everything is full."""
        while self.mean() < fill:
            placement = self.placement()  # as the heartbeats of a second renew it
            for _ in range(max(1, len(self.disks) // 2)):
                begun = time.perf_counter()
                numbers = placement.choose(self.replicas, size=GROUP_BYTES, draw=self.rng.random)
                self.chosen_s += time.perf_counter() - begun
                self.choices += 1
                self._next += 1
                self.where[self._next] = list(numbers)
                for number in numbers:
                    self.disks[number].groups.add(self._next)

    def delete(self, part: float) -> None:
        for group in self.rng.sample(list(self.where), int(len(self.where) * part)):
            for number in self.where.pop(group):
                self.disks[number].groups.discard(group)

    def leave(self, number: int) -> None:
        """Its copies go where new ones would go."""
        disk = self.disks.pop(number)
        self.least += disk.held
        self.moved += disk.held
        for at, group in enumerate(disk.groups):
            if at % 16 == 0:
                placement = self.placement()
            others = [one for one in self.where[group] if one != number]
            taken = placement.choose(1, size=GROUP_BYTES, avoid=others, draw=self.rng.random)
            self.where[group] = [*others, *taken]
            for one in taken:
                self.disks[one].groups.add(group)

    def mend(self) -> None:
        """Make the copies that are missing."""
        short = [group for group, numbers in self.where.items() if len(numbers) < self.replicas]
        for at, group in enumerate(short):
            if at % 16 == 0:
                placement = self.placement()
            numbers = self.where[group]
            lacking = self.replicas - len(numbers)
            taken = placement.choose(
                lacking, size=GROUP_BYTES, avoid=tuple(numbers), draw=self.rng.random
            )
            numbers += taken
            for one in taken:
                self.disks[one].groups.add(group)

    def balance(self) -> None:
        """Move groups until the volumes are even enough."""
        self.mend()
        mean = self.mean()
        self.least += sum(round(max(0.0, mean - one.fill) * one.capacity) for one in self.filled())
        barred: set[tuple[int, int]] = set()
        while (move := balance(self.filled(), barred=barred)) is not None:
            source, target = self.disks[move.source], self.disks[move.target]
            free = source.groups - target.groups
            if not free:
                barred.add((move.source, move.target))
                continue
            for _ in range(min(len(free), max(1, move.size // GROUP_BYTES))):
                group = free.pop()
                source.groups.discard(group)
                target.groups.add(group)
                self.where[group].remove(source.number)
                self.where[group].append(target.number)
                self.moved += GROUP_BYTES
            barred = still_barred(barred, move)

    def filled(self) -> list[Filled]:
        return [Filled(d.number, d.held, d.total - d.held) for d in self.disks.values()]

    def mean(self) -> float:
        return mean_fill(self.filled())

    def spread(self) -> float:
        """Beside the least that is possible: no volume can hold two copies of one key."""
        keys = len(self.where) * GROUP_BYTES
        capacities = [disk.total for disk in self.disks.values()]
        low, high = self.mean(), 1.0
        for _ in range(50):
            fill = (low + high) / 2
            fits = sum(min(fill * one, keys) for one in capacities) >= keys * self.replicas
            low, high = (low, fill) if fits else (fill, high)
        return max(one.fill for one in self.filled()) / high


def story(volumes: int, replicas: int, seed: int) -> tuple[Site, list[float]]:
    """One run; the spread after each part of it."""
    site = Site(volumes, replicas, seed)
    site.write(0.5)
    spreads = [site.spread()]
    site.balance()
    spreads.append(site.spread())
    for _ in range(max(1, volumes // 5)):
        site.join()
    site.balance()
    spreads.append(site.spread())
    site.write(0.6)
    site.delete(0.2)
    site.write(0.55)
    leaving = site.rng.sample(list(site.disks), max(1, volumes // 10))
    for number in leaving:
        site.leave(number)
    site.balance()
    spreads.append(site.spread())
    return site, spreads


def main() -> None:
    made = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    made.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    seed = made.parse_args().seed
    print(f"seed {seed}")
    print("volumes  copies  written  filled  joined    left  moved/least  us a choice")
    for volumes in (3, 30, 300):
        for replicas in (1, 2):
            site, spreads = story(volumes, replicas, seed)
            parts = "  ".join(f"{spread:6.3f}" for spread in spreads).rjust(31)
            cost = site.chosen_s / site.choices * 1e6
            print(
                f"{volumes:7}  {replicas:6}  {parts}  {site.moved / site.least:11.2f}  {cost:11.1f}"
                f"{'' if max(spreads[1:]) <= WANTED else '   short: spread over 1.05'}"
            )


if __name__ == "__main__":
    main()
