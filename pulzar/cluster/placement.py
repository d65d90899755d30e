"""Where copies go: the users' "load balance". Pure; chance is an argument.

A key stays where it is. Other copies are drawn among the volumes that have room, weighted so that
unequal volumes fill up alike:

    weight = room / (1 + pending / PENDING_HALVES)

room being the bytes that values may still take: a volume with twice the room gets twice the bytes,
so that the shares of used space come closer to each other with every write. A volume with a long
queue gets less. Copies of one key are on different hosts where there are hosts enough.

New keys come in runs: RUN_RECORDS of them, or RUN_BYTES, go to the volumes that were drawn for the
first. So what comes at one time goes on its way in few appends, however many volumes there are:
with 10 of them a PUT costs the master as much as with one; drawn for each key, 2.3 times as much
(bench, row cluster-cpu).

What is there already is moved only where volumes are filled too unevenly, as after one has joined
(`balance`). How full a volume is counts what it holds, not its files: those of moved copies stay
until compaction and its grace are over.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate

import msgspec

from pulzar.limits import (
    BALANCE_FILL_MIN,
    BALANCE_SPREAD,
    PENDING_HALVES,
    PLACEMENT_DRAWS_MAX,
    RUN_BYTES,
    RUN_RECORDS,
)

_NO_RUN: tuple[tuple[int, ...], int, int] = ((), 0, 0)


class Candidate(msgspec.Struct, frozen=True):
    """A volume that is online and may take new copies. Sizes in bytes."""

    number: int
    host: str
    total_bytes: int
    used_bytes: int
    room_bytes: int
    pending: int


class Placement:
    """The choice among some candidates, as they were when this was made."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        self._by_number = {one.number: one for one in candidates}
        self._room = {one.number: one.room_bytes for one in candidates}
        self._weights = [_weight(one) for one in candidates]
        self._ends = list(accumulate(self._weights))
        # By how many are wanted: the volumes of the run, and how much it may still take.
        self._runs: dict[int, tuple[tuple[int, ...], int, int]] = {}

    def choose(
        self,
        wanted: int,
        *,
        size: int,
        draw: Callable[[], float],
        holders: Sequence[int] = (),
        avoid: Collection[int] = (),
    ) -> tuple[int, ...]:
        """The numbers of up to `wanted` different volumes with room for `size` bytes, those of
        `holders` first, none of `avoid`. `draw` gives a number in [0, 1).

        What is chosen is counted, so that many choices in a row do not overfill a volume.
        """
        room = self._room
        is_free = not (holders or avoid)
        if is_free and (run := self._of_run(wanted, size)):
            for taken in run:
                room[taken] -= size
            return run
        chosen = [n for n in holders if room.get(n, -1) >= size and n not in avoid][:wanted]
        while len(chosen) < wanted:
            number = self._draw(size, draw, chosen, avoid)
            if number is None:
                break
            chosen.append(number)
        for number in chosen:
            room[number] -= size
        if is_free and len(chosen) == wanted:
            self._runs[wanted] = (tuple(chosen), RUN_RECORDS - 1, RUN_BYTES - size)
        return tuple(chosen)

    def _of_run(self, wanted: int, size: int) -> tuple[int, ...]:
        """The volumes of the run that goes on, if it does."""
        numbers, records, left = self._runs.get(wanted, _NO_RUN)
        if not records or left < size or any(self._room[number] < size for number in numbers):
            return ()
        self._runs[wanted] = (numbers, records - 1, left - size)
        return numbers

    def _draw(
        self,
        size: int,
        draw: Callable[[], float],
        chosen: Sequence[int],
        avoid: Collection[int],
    ) -> int | None:
        """One more volume."""
        if not self._ends or not self._ends[-1]:
            return None
        hosts = {self._by_number[number].host for number in chosen if number in self._by_number}
        for _ in range(PLACEMENT_DRAWS_MAX):
            at = bisect_right(self._ends, draw() * self._ends[-1])
            one = self.candidates[min(at, len(self.candidates) - 1)]
            if self._fits(one, size, chosen, avoid) and one.host not in hosts:
                return one.number
        left = [one for one in self.candidates if self._fits(one, size, chosen, avoid)]
        left = [one for one in left if one.host not in hosts] or left
        if not left:
            return None
        ends = list(accumulate(_weight(one) for one in left))
        at = bisect_right(ends, draw() * ends[-1])
        return left[min(at, len(left) - 1)].number

    def _fits(
        self, one: Candidate, size: int, chosen: Sequence[int], avoid: Collection[int]
    ) -> bool:
        return (
            self._room[one.number] >= size
            and one.number not in chosen
            and (one.number not in avoid)
        )


class Filled(msgspec.Struct, frozen=True):
    """What a volume holds, and the room that it has for values, in bytes."""

    number: int
    held_bytes: int
    room_bytes: int

    @property
    def capacity(self) -> int:
        """What it could hold."""
        return self.held_bytes + self.room_bytes

    @property
    def fill(self) -> float:
        """The part of that which it holds."""
        return self.held_bytes / self.capacity if self.capacity else 1.0


class Move(msgspec.Struct, frozen=True):
    """So many bytes should go from one volume to another."""

    source: int
    target: int
    size: int


def mean_fill(volumes: Sequence[Filled]) -> float:
    """The fill that every volume would have if all had the same."""
    capacity = sum(one.capacity for one in volumes)
    return sum(one.held_bytes for one in volumes) / capacity if capacity else 0.0


def balance(volumes: Sequence[Filled], *, barred: Collection[tuple[int, int]] = ()) -> Move | None:
    """What to move from the fullest volume to the emptiest; None where they are even enough.

    Even enough: the fullest is filled at most BALANCE_SPREAD times the mean, or no more than
    BALANCE_FILL_MIN above it. A move brings one of the two to the mean, and neither beyond it.
    `barred` are pairs, source and target, between which nothing can be moved: the target has a
    copy of all that the source has, or the host of one. Then it is the next emptiest; where that
    is at the mean already, both are brought to what they have together: it may pass that on.
    """
    mean = mean_fill(volumes)
    limit = max(mean * BALANCE_SPREAD, mean + BALANCE_FILL_MIN)
    by_fill = sorted(volumes, key=lambda one: one.fill)
    for source in reversed(by_fill):
        if source.fill <= limit:
            return None
        for target in by_fill:
            if source.fill - target.fill < BALANCE_FILL_MIN:
                break
            if (source.number, target.number) not in barred:
                is_low = target.fill < mean - BALANCE_FILL_MIN / 2
                level = mean if is_low else mean_fill((source, target))
                give, take = source.fill - level, level - target.fill
                size = round(min(give * source.capacity, take * target.capacity))
                if size:
                    return Move(source.number, target.number, size)
    return None


def still_barred(barred: Collection[tuple[int, int]], moved: Move) -> set[tuple[int, int]]:
    """Those of the barred pairs that are still barred after a move: its target has more to give,
    its source lacks more."""
    return {pair for pair in barred if pair[0] != moved.target and pair[1] != moved.source}


def _weight(one: Candidate) -> float:
    return max(one.room_bytes, 1) / (1 + one.pending / PENDING_HALVES)
