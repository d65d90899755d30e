"""A follower of the log, at any distance behind it.

Whatever the volume goes through, a follower gets each record behind its cursor exactly once, in
the order of seq, and nothing that is not durable; if its history is gone it is told so, takes a
snapshot and goes on. In the end it says what the volume says.
"""

import random

import pytest

from pulzar.errors import HistoryTrimmed
from pulzar.varidb.position import NOWHERE, Cursor, Position, unpack_position
from pulzar.varidb.record import KEYED, Type
from tests.model.engine import Engine, State

KEYS = [b"a", b"b", b"c", b"dd"]


class Follower:
    """Keeps the newest position of each key, from records or from a snapshot."""

    def __init__(self) -> None:
        self.cursor = NOWHERE
        self.newest: dict[bytes, Position] = {}
        self.snapshots = 0

    def follow(self, engine: Engine, *, limit: int) -> None:
        """Take what is there, `limit` records at a time."""
        volume = engine.volume
        try:
            while True:
                before = self.cursor
                logged, self.cursor = volume.follow(self.cursor, limit=limit)
                if not logged:
                    break
                seqs = [one.position.seq for one in logged]
                assert len(seqs) <= limit
                assert seqs == sorted(set(seqs))
                assert seqs[0] > before.seq
                assert seqs[-1] == self.cursor.seq <= volume.log.durable_seq
                for one in logged:
                    if one.position.type in KEYED:
                        self._take(one.key, one.position)
        except HistoryTrimmed:
            self.snapshots += 1
            self.newest = {
                key: unpack_position(key, entry)
                for key, entry in zip(*volume.index.columns(b"", 1000), strict=True)
                if key[0] < 0xFE
            }
            self.cursor = volume.log.cursor()

    def _take(self, key: bytes, position: Position) -> None:
        known = self.newest.get(key)
        if known is None or position.order > known.order:
            self.newest[key] = position

    def live(self) -> dict[bytes, tuple[int, int]]:
        """Version and seq of each key that is there."""
        return {k: p.order for k, p in self.newest.items() if p.type in (Type.PUT, Type.BLOB)}


def live_keys(engine: Engine) -> dict[bytes, tuple[int, int]]:
    entries = engine.index.entries.items()
    return {k: p.order for k, p in entries if p.type in (Type.PUT, Type.BLOB) and k[0] < 0xFE}


def step(engine: Engine, rng: random.Random) -> None:
    """Something happens to the volume."""
    chance = rng.random()
    if chance < 0.7:
        changes: list[tuple[bytes, State]] = [
            (rng.choice(KEYS), rng.choice([None, rng.randbytes(rng.choice([1, 300]))]))
            for _ in range(rng.randrange(1, 4))
        ]
        engine.write(changes, blob=rng.random() < 0.1)
    elif chance < 0.8:
        engine.volume.roll(now_ms=engine.now_ms)
    elif chance < 0.85:
        engine.seal()
    elif chance < 0.9:
        engine.compact()
        engine.now_ms += rng.choice([0, 200_000])
        engine.volume.remove_retired(now_ms=engine.now_ms)
    elif chance < 0.95:
        engine.restart()
    else:
        engine.crash(power=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(40))
def test_followers_end_where_the_volume_is(seed: int) -> None:
    rng = random.Random(seed)
    engine = Engine(seed)
    followers = [Follower() for _ in range(3)]
    for _ in range(50):
        step(engine, rng)
        for follower, chance in zip(followers, (1.0, 0.3, 0.05), strict=True):
            if rng.random() < chance:
                follower.follow(engine, limit=rng.choice([1, 3, 100]))
    for follower in followers:
        follower.follow(engine, limit=7)
        assert follower.live() == live_keys(engine)
        assert follower.cursor == engine.volume.log.cursor()


def test_one_that_keeps_up_needs_no_snapshot_while_the_process_lives() -> None:
    engine, follower, rng = Engine(1), Follower(), random.Random(1)
    follower.follow(engine, limit=100)
    for number in range(60):
        engine.write([(rng.choice(KEYS), b"%d" % number * 30)])
        follower.follow(engine, limit=2)
        if number % 20 == 19:
            engine.compact()
    follower.follow(engine, limit=2)
    assert follower.snapshots == 0
    assert follower.live() == live_keys(engine)


def test_a_restart_does_not_cost_a_snapshot() -> None:
    engine, follower = Engine(1), Follower()
    engine.write([(b"a", b"1")])
    follower.follow(engine, limit=100)
    engine.restart()
    engine.write([(b"a", b"2")])
    snapshots = follower.snapshots
    follower.follow(engine, limit=100)
    assert follower.snapshots == snapshots
    assert follower.live() == live_keys(engine)


def test_a_cursor_that_is_not_of_this_history_is_refused() -> None:
    engine = Engine(1)
    engine.write([(b"a", b"1")])
    head = engine.volume.log.cursor()
    for wrong in (Cursor(bytes(16), 1), Cursor(head.opening, head.seq + 1)):
        with pytest.raises(HistoryTrimmed):
            engine.volume.follow(wrong, limit=10)


def test_below_the_horizon_history_is_gone() -> None:
    engine = Engine(1)
    start = engine.volume.log.cursor()
    engine.write([(b"a", b"1" * 300)])
    engine.write([(b"a", b"2" * 300)])
    engine.compact()
    with pytest.raises(HistoryTrimmed):
        engine.volume.follow(start, limit=10)


def test_what_is_not_synced_is_not_followed() -> None:
    engine = Engine(1)
    cursor = engine.volume.log.cursor()
    record = engine._record(b"a", b"1", blob=False)
    batch = engine.volume.log.prepare([record])
    engine.volume.log._file.write(batch.buffers, offset=batch.offset)  # type: ignore[union-attr]
    assert engine.volume.follow(cursor, limit=10)[0] == []
    engine.volume.log.write(batch)
    engine.volume.log.settle(batch)
    assert [one.key for one in engine.volume.follow(cursor, limit=10)[0]] == [b"a"]
