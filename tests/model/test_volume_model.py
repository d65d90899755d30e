"""Random histories of one volume on a simulated disk: DESIGN 3.5, one volume.

Rules are what clients, maintenance and fate do; after each step the promises are checked, and each
history ends with `rebuild(log) == live view`.
"""

import random
from collections.abc import Callable, Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pulzar.testing import Fault, FaultPlan, Killed
from pulzar.testing.index import DictIndex
from pulzar.varidb.check import check
from tests.model.engine import Engine, open_volume, read

Changes = list[tuple[bytes, bytes | None]]

END = object()
KEYS = st.sampled_from([b"a", b"b", b"c", b"dd"])
VALUES = st.one_of(
    st.none(),
    st.builds(
        lambda n, size: b"%d." % n * size, st.integers(0, 99), st.sampled_from([0, 1, 9, 300])
    ),
)
CHANGES = st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=6)


class VolumeMachine(RuleBasedStateMachine):
    """One volume in a world that kills it."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.engine = Engine(seed)

    @rule(changes=CHANGES, blob=st.booleans())
    def write(self, changes: list[tuple[bytes, bytes | None]], blob: bool) -> None:
        self.engine.write(changes, blob=blob)

    @rule(changes=CHANGES, after=st.integers(1, 12), power=st.booleans())
    def write_and_die(
        self, changes: list[tuple[bytes, bytes | None]], after: int, power: bool
    ) -> None:
        self._die_in(lambda: self.engine.write(changes), after=after, power=power)

    @rule()
    def roll(self) -> None:
        self.engine.volume.roll(now_ms=self.engine.now_ms)

    @rule()
    def seal(self) -> None:
        self.engine.seal()

    @rule()
    def compact(self) -> None:
        self.engine.compact()

    @rule(after=st.integers(1, 60), power=st.booleans())
    def compact_and_die(self, after: int, power: bool) -> None:
        self._die_in(self.engine.compact, after=after, power=power)

    @rule(power=st.booleans())
    def crash(self, power: bool) -> None:
        self.engine.crash(power=power)

    @rule(after=st.integers(1, 30), power=st.booleans(), again=st.booleans())
    def crash_and_die_while_opening(self, after: int, power: bool, again: bool) -> None:
        self._die_in(lambda: self.engine.crash(power=power), after=after, power=again)

    @rule()
    def stop_and_start(self) -> None:
        self.engine.restart()

    @rule(seconds=st.integers(-200, 200))
    def step_clock(self, seconds: int) -> None:
        self.engine.now_ms = max(0, self.engine.now_ms + seconds * 1000)

    @rule()
    def remove_retired(self) -> None:
        self.engine.volume.remove_retired(now_ms=self.engine.now_ms)

    @rule(changes=st.lists(CHANGES, max_size=4), seed=st.integers(0, 2**32))
    def copy_while_compacting(
        self, changes: list[list[tuple[bytes, bytes | None]]], seed: int
    ) -> None:
        check_copy(self.engine, changes, seed)

    @rule()
    def rebuild(self) -> None:
        self.engine.check_rebuild()

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.crash(power=True)
            self.engine.check()
            self.engine.check_rebuild()

    def _die_in(self, work: Callable[[], None], *, after: int, power: bool) -> None:
        engine = self.engine
        engine.disk.faults = FaultPlan(Fault(nth=after, kill=True))
        try:
            work()
        except Killed:
            engine.disk.faults = None
            engine.crash(power=power)
        finally:
            engine.disk.faults = None


def check_copy(engine: Engine, changes: list[Changes], seed: int) -> None:
    """A directory copied while requests and compaction go on: every key is as it was at some
    moment between the beginning and the end of the copying."""
    allowed = {key: {state} for key, state in engine.acknowledged.items()}
    rng = random.Random(seed)
    target = f"/copy-{engine.disk.operations}"
    copying = engine.disk.copy_steps("/volume", target, seed)
    work: list[Changes | None] = [*changes, None]
    rng.shuffle(work)
    compaction: Iterator[None] | None = None
    for _ in copying:
        if compaction is not None and rng.random() < 0.5:
            compaction = None if next(compaction, END) is END else compaction
        if work and compaction is None and rng.random() < 0.3:
            written = work.pop()
            if written is None:
                compaction = engine.compaction_steps()
            else:
                engine.write(written)
                for key, state in written:
                    allowed.setdefault(key, {None}).add(state)
    for _ in compaction or ():
        pass
    # A record may be half there, if it was written while the copy read that place; no more.
    places = {f.place.partition(":")[0] for f in check(target, engine.disk) if f.kind == "damage"}
    assert len(places) <= 1, places
    copy = open_volume(engine.disk, target, DictIndex(), rng, engine.now_ms)
    for key, states in allowed.items():
        seen = read(copy, key)
        assert seen in states, f"{key!r}: the copy has {seen!r}, none of {states!r}"
    copy.close(now_ms=engine.now_ms)


def test_random_histories_of_one_volume() -> None:
    run_state_machine_as_test(
        VolumeMachine, settings=settings(stateful_step_count=25, deadline=None)
    )
