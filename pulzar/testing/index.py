"""An index in a dict, for model tests: the same protocol as the LMDB one.

LMDB is not simulated. After a crash this index falls back to the state behind a random earlier
`apply`, or is gone: an index is only a view, and recovery must cope with either. It does not fall
back behind a swap: LMDB loses nothing that was committed when a process dies, and a view that saw
worse is not trusted (view.py).
"""

import random
from bisect import bisect_right
from collections.abc import Sequence

from pulzar.varidb.position import NOWHERE, Cursor, Position, pack_position, unpack_position

_HISTORY_MAX = 8


class DictIndex:
    """Implements `pulzar.varidb.following.IndexView`."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Position] = {}
        self._cursor = NOWHERE
        self._place = b""
        self._history: list[tuple[dict[bytes, Position], Cursor, bytes]] = []

    def get(self, key: bytes) -> Position | None:
        return self.entries.get(key)

    def cursor(self) -> Cursor:
        return self._cursor

    def place(self) -> bytes:
        return self._place

    def apply(
        self, items: Sequence[tuple[bytes, Position]], cursor: Cursor, place: bytes = b""
    ) -> None:
        self._history.append((dict(self.entries), self._cursor, self._place))
        del self._history[:-_HISTORY_MAX]
        for key, position in items:
            self._take(key, position)
        self._cursor, self._place = cursor, place

    def append(
        self, rows: Sequence[tuple[bytes, bytes]], cursor: Cursor, place: bytes = b""
    ) -> None:
        items = [(key, unpack_position(key, entry)) for key, entry in rows]
        newest = max((one.version for one in self.entries.values()), default=0)
        if any(position.version <= newest for _, position in items):
            raise AssertionError("an index was told that something older is new")
        self.apply(items, cursor, place)

    def load(self, keys: Sequence[bytes], entries: Sequence[bytes]) -> None:
        for key, entry in zip(keys, entries, strict=True):
            self._take(key, unpack_position(key, entry))

    def columns(self, after: bytes, limit: int) -> tuple[list[bytes], list[bytes]]:
        keys = sorted(self.entries)
        keys = keys[bisect_right(keys, after) :][:limit]
        return keys, [pack_position(key, self.entries[key]) for key in keys]

    def swap(self, items: Sequence[tuple[bytes, Position, Position]]) -> int:
        done = 0
        for key, old, new in items:
            if self.entries.get(key) == old:
                self.entries[key] = new
                done += 1
        self._history.clear()
        return done

    def drop(self, items: Sequence[tuple[bytes, tuple[int, int]]]) -> int:
        done = 0
        for key, order in items:
            position = self.entries.get(key)
            if position is not None and position.order == order:
                del self.entries[key]
                done += 1
        self._history.clear()
        return done

    def count(self) -> int:
        return len(self.entries)

    def reset(self) -> None:
        self.entries.clear()
        self._history.clear()
        self._cursor, self._place = NOWHERE, b""

    def close(self, *, clean: bool) -> None:
        """Nothing is to be done: the dict stays with the test."""

    def crash(self, rng: random.Random) -> None:
        """What may be left after the process died: all, an earlier state, or nothing."""
        chance = rng.random()
        if chance < 0.2:
            self.reset()
        elif chance < 0.6 and self._history:
            entries, self._cursor, self._place = rng.choice(self._history)
            self.entries = dict(entries)
            self._history.clear()

    def _take(self, key: bytes, position: Position) -> None:
        old = self.entries.get(key)
        if old is None or position.order > old.order:
            self.entries[key] = position
