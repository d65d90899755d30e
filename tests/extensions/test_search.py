"""A search, against a look at every key."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulzar import extension
from pulzar.extensions.shipped import search

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
DAY_MS = 24 * 3600 * 1000


class World:
    """Keys with the time of their creation in ms, and some that were deleted, but are still in the
    file of names."""

    def __init__(self, keys: dict[str, int], deleted: set[str]) -> None:
        self.keys = keys
        self.deleted = deleted - set(keys)

    def find(self, text: str, *, after: str = "") -> Any:
        names = sorted({*self.keys, *self.deleted}, key=str.encode)
        return (key for key in names if text in key and key.encode() > after.encode())

    def created(self, from_ms: int, before_ms: int) -> Any:
        rows = sorted((ms, key.encode()) for key, ms in self.keys.items())
        return ((ms, key.decode()) for ms, key in rows if from_ms <= ms < before_ms)

    def stat(self, keys: list[str]) -> list[dict[str, Any]]:
        return [{"key": key, "created": text(self.keys[key])} for key in keys if key in self.keys]


def text(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_text(day: datetime) -> str:
    return day.strftime("%m-%d-%Y")


def expected(world: World, part: str, days: dict[str, datetime], after: str) -> list[str]:
    found = []
    for key, ms in world.keys.items():
        day = datetime.fromtimestamp(ms / 1000, UTC).replace(hour=0, minute=0, second=0)
        day = day.replace(microsecond=0)
        holds = {
            "lt": lambda limit, day=day: day < limit,
            "lte": lambda limit, day=day: day <= limit,
            "gt": lambda limit, day=day: day > limit,
            "gte": lambda limit, day=day: day >= limit,
        }
        if "eq" in days:
            fits = day == days["eq"]
        else:
            fits = all(holds[name](limit) for name, limit in days.items())
        if fits and part in key and key.encode() > after.encode():
            found.append(key)
    return sorted(found, key=str.encode)


KEY = st.text(st.sampled_from("ab/é"), min_size=1, max_size=5)
MS = st.integers(0, 6 * DAY_MS - 1).map(lambda ms: int(FIRST.timestamp() * 1000) + ms)
MIDNIGHT = st.integers(0, 5).map(lambda n: int(FIRST.timestamp() * 1000) + n * DAY_MS)
DAYS = st.dictionaries(
    st.sampled_from(["eq", "lt", "lte", "gt", "gte"]),
    st.integers(-1, 7).map(lambda n: FIRST + timedelta(days=n)),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(KEY, MS | MIDNIGHT, max_size=30),
    st.sets(KEY, max_size=5),
    st.text(st.sampled_from("ab/é"), max_size=2),
    DAYS,
    st.integers(1, 9),
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4)),
)
def test_a_search_finds_what_a_look_at_every_key_finds(
    keys: dict[str, int],
    deleted: set[str],
    part: str,
    days: dict[str, datetime],
    limit: int,
    bounds: tuple[int, int, int],
) -> None:
    world = World(keys, deleted)
    patch = pytest.MonkeyPatch()
    patch.setattr(extension, "find", world.find)
    patch.setattr(extension, "created", world.created)
    patch.setattr(extension, "stat", world.stat)
    patch.setattr(extension, "url", lambda key: f"u/{key}")
    for name, bound in zip(("NAMES_MAX", "DAYS_MAX", "_PAGE"), bounds, strict=True):
        patch.setattr(search, name, bound)
    query = {name: [day_text(day)] for name, day in days.items()}
    found: list[str] = []
    try:
        after = ""
        while True:
            params = {**query, "limit": [str(limit)]} | ({"after": [after]} if after else {})
            answer = search.execute(part.split("/"), params)
            page = [result["key"] for result in answer["results"]]
            assert page == expected(world, part, days, after)[:limit]
            found += page
            if answer["next"] is None:
                break
            after = answer["next"]
    except extension.BadInput:
        pairs = [
            (days[a], days[b])
            for a in ("lt", "lte")
            for b in ("gt", "gte")
            if {a, b} <= days.keys()
        ]
        assert any(less < more for less, more in pairs)
        assert "eq" not in days
        return
    finally:
        patch.undo()
    assert found == expected(world, part, days, "")


def test_days_are_strict_as_the_words_say() -> None:
    jan = {n: int(datetime(2026, 1, n, tzinfo=UTC).timestamp() * 1000) for n in range(1, 5)}
    assert search.window({"eq": "01-02-2026", "lt": "01-01-2000"}) == (jan[2], jan[3])
    assert search.window({"lt": "01-03-2026", "gt": "01-01-2026"}) == (jan[2], jan[3])
    assert search.window({"lte": "01-02-2026", "gte": "01-02-2026"}) == (jan[2], jan[3])
    assert search.window({"lt": "01-02-2026", "gt": "01-01-2026"}) == (jan[2], jan[2])
