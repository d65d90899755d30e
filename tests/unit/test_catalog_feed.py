"""What the catalog tells the feed, whatever way a change comes in; and what it knows later."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pulzar.varidb.catalog import Catalog, Change, Newest
from pulzar.varidb.feed import Event
from pulzar.varidb.position import Cursor, Position, pack_position
from pulzar.varidb.record import Record, Type

IDENTITY = b"i" * 16


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, int, bool, bool]] = []
        self.skips = 0

    def landed(self, events: list[Event]) -> None:
        self.told += [(e.key.decode(), e.version, e.is_delete, e.is_new) for e in events]

    def skipped(self) -> None:
        self.skips += 1


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog.open(str(tmp_path / "views"), identity=IDENTITY)
    made.start_feed(100)
    yield made
    made.close(clean=False)


@pytest.fixture
def listener(catalog: Catalog) -> Listener:
    made = Listener()
    catalog.feed.follow(made)  # type: ignore[arg-type]
    return made


def change(key: str, version: int, type_: Type = Type.PUT) -> Change:
    return Change(key.encode(), type_, version, 1, 5, 0, inline=b"v")


def newest(catalog: Catalog, key: str, version: int, type_: Type = Type.PUT) -> Newest:
    record = Record(type=type_, key=key.encode(), value=b"v", version=version, created_ms=5)
    return Newest(record, 1, "", catalog.get(key.encode()))


def append(catalog: Catalog, *changes: Newest) -> None:
    places = [((1, 2),)] * len(changes)
    catalog.append(changes, places, [(1, Cursor(b"o", 9))])


def test_what_a_master_writes_is_told(catalog: Catalog, listener: Listener) -> None:
    append(catalog, newest(catalog, "a", 101), newest(catalog, "b", 102))
    append(catalog, newest(catalog, "a", 103))
    append(catalog, newest(catalog, "b", 104, Type.DELETE))
    append(catalog, newest(catalog, "b", 105))
    assert listener.told == [
        ("a", 101, False, True),
        ("b", 102, False, True),
        ("a", 103, False, False),
        ("b", 104, True, False),
        ("b", 105, False, True),
    ]


def test_what_a_log_tells_is_told_once(catalog: Catalog, listener: Listener) -> None:
    for holder in (1, 2):  # two copies of the same records
        catalog.apply([change("a", 101), change("b", 102)], holder, Cursor(b"o", 3))
    catalog.apply([change("a", 101, Type.MOVED)], 1, Cursor(b"o", 4))
    catalog.apply([change("a", 99)], 2, Cursor(b"o", 5))  # older than what is known
    catalog.apply([change("b", 103, Type.DELETE)], 1, Cursor(b"o", 6))
    catalog.apply([change("b", 104, Type.DELETE)], 2, Cursor(b"o", 7))
    catalog.apply([change("none", 105, Type.DELETE)], 2, Cursor(b"o", 8))
    assert listener.told == [
        ("a", 101, False, True),
        ("b", 102, False, True),
        ("b", 103, True, False),
    ]


def test_what_a_snapshot_brings_is_told(catalog: Catalog, listener: Listener) -> None:
    append(catalog, newest(catalog, "b", 101))

    def packed(key: bytes, version: int) -> bytes:
        place = Position(1, 128, 64, Type.PUT, 0, len(key), 0, 7, version, 1, 5, 0)
        return pack_position(key, place)

    keys = [b"a", b"b", b"c"]
    catalog.load(keys, [packed(b"a", 90), packed(b"b", 101), packed(b"c", 103)], 2)
    catalog.apply([], 2, Cursor(b"o", 9))
    assert listener.told == [
        ("b", 101, False, True),
        ("a", 90, False, True),
        ("c", 103, False, True),
    ]
    assert listener.skips == 0


def test_who_was_told_newer_things_is_unsure_of_what_came_late(catalog: Catalog) -> None:
    append(catalog, newest(catalog, "a", 110))
    assert not catalog.is_unsure(105)
    assert not catalog.is_unsure(110)
    catalog.apply([change("late", 107), change("later", 108)], 2, Cursor(b"o", 9))
    assert [catalog.is_unsure(version) for version in (99, 106, 107, 110, 111)] == [
        True,  # from before this catalog
        False,  # it is told by its rows
        True,
        True,
        False,
    ]
    events, at = catalog.newer(b"", 106, after=b"", deletes=False, limit=10)
    assert {(event.key, event.version) for event in events} == {
        (b"a", 110),
        (b"late", 107),
        (b"later", 108),
    }
    assert at is None


def test_a_purge_of_deletes_is_remembered_over_an_opening(tmp_path: Path) -> None:
    path = str(tmp_path / "views")
    catalog = Catalog.open(path, identity=IDENTITY)
    catalog.start_feed(100)
    append(catalog, newest(catalog, "a", 101))
    append(catalog, newest(catalog, "a", 102, Type.DELETE))
    events, _ = catalog.newer(b"", 100, after=b"", deletes=True, limit=10)
    assert [(event.key, event.version, event.is_delete) for event in events] == [(b"a", 102, True)]
    catalog.drop_deletes([(b"a", 102)])
    catalog.close(clean=True)
    again = Catalog.open(path, identity=IDENTITY)
    again.start_feed(1000)
    assert again.is_unsure(101)
    assert not again.is_unsure(102)
    again.close(clean=True)


def test_a_page_of_newer_keys_goes_on_where_it_ended(catalog: Catalog) -> None:
    append(catalog, *(newest(catalog, f"k{n}", 101 + n) for n in range(9)))
    append(catalog, newest(catalog, "other", 200))
    found, after = [], b""
    while True:
        events, at = catalog.newer(b"k", 103, after=after, deletes=False, limit=2)
        found += [event.key.decode() for event in events]
        if at is None:
            break
        after = at
    assert found == [f"k{n}" for n in range(3, 9)]


def test_an_emptied_catalog_tells_everybody_to_list_again(
    catalog: Catalog, listener: Listener
) -> None:
    append(catalog, newest(catalog, "a", 101))
    watcher = catalog.feed.watch(b"")
    catalog.reset()
    assert listener.skips == 1
    assert watcher.behind
