"""The index: the larger (version, seq) wins, in whatever order and by whatever way it comes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulzar.errors import OutOfSpace, ViewBroken
from pulzar.limits import KEY_BYTES_MAX
from pulzar.varidb.index import Index
from pulzar.varidb.position import NOWHERE, POSITION_BYTES, Cursor, Position, pack_position
from pulzar.varidb.record import Type

IDENTITY = b"volume-1"
OPENING = bytes(range(16))


def position(
    version: int, seq: int, *, type_: int = Type.PUT, segment: int = 1, offset: int = 64
) -> Position:
    return Position(segment, offset, 200, type_, 0, 3, 0, seq, version, 100, 1_700_000_000_000, 0)


def columns_of(items: Sequence[tuple[bytes, Position]]) -> tuple[list[bytes], list[bytes]]:
    """As a footer has them: by key, of one key the newest first."""
    ordered = sorted(items, key=lambda item: (item[0], -item[1].version, -item[1].seq))
    return [key for key, _ in ordered], [pack_position(key, at) for key, at in ordered]


def newest(items: Sequence[tuple[bytes, Position]]) -> dict[bytes, Position]:
    known: dict[bytes, Position] = {}
    for key, at in items:
        if key not in known or at.order > known[key].order:
            known[key] = at
    return known


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(str(tmp_path / "views"), identity=IDENTITY, map_bytes=64 << 20)
    yield index
    index.close(clean=False)


def test_an_empty_index_knows_nothing(index: Index) -> None:
    assert index.get(b"key") is None
    assert index.cursor() == NOWHERE
    assert index.place() == b""
    assert index.items() == []
    assert index.columns(b"", 10) == ([], [])
    assert (index.count(), index.count_live()) == (0, 0)


def test_the_larger_version_wins_then_the_larger_seq(index: Index) -> None:
    for version, seq, wins in [(5, 10, 10), (4, 11, 10), (5, 9, 10), (5, 12, 12), (6, 1, 1)]:
        index.apply([(b"key", position(version, seq))], NOWHERE)
        present = index.get(b"key")
        assert present is not None
        assert present.seq == wins


def test_a_delete_stays_as_an_entry(index: Index) -> None:
    gone = position(2, 2, type_=Type.DELETE)
    index.apply([(b"key", position(1, 1)), (b"key", gone)], NOWHERE)
    assert index.get(b"key") == gone
    assert (index.count(), index.count_live()) == (1, 0)


def test_the_cursor_and_its_place_come_with_the_entries(index: Index) -> None:
    index.apply([(b"key", position(1, 1))], Cursor(OPENING, 1), b"place")
    assert index.cursor() == Cursor(OPENING, 1)
    assert index.place() == b"place"
    index.apply([], NOWHERE)
    assert index.cursor() == NOWHERE
    assert index.place() == b""


KEYS = st.sampled_from([b"a", b"b", b"ab", b"\x00", b"\xff\x07", b"k" * KEY_BYTES_MAX])
POSITIONS = st.builds(
    position,
    st.integers(1, 4),
    st.integers(1, 6),
    type_=st.sampled_from([Type.PUT, Type.DELETE, Type.BLOB, Type.MOVED]),
)
ITEMS = st.lists(st.tuples(KEYS, POSITIONS), unique_by=lambda item: (item[0], item[1].order))


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.tuples(st.booleans(), ITEMS), max_size=5))
def test_apply_and_load_in_any_order_end_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[bool, list[tuple[bytes, Position]]]],
) -> None:
    """Orders are unique in a log; here the first to come of two equal ones stays."""
    directory = tmp_path_factory.mktemp("index")
    index = Index.open(str(directory), identity=IDENTITY, map_bytes=64 << 20)
    everything: list[tuple[bytes, Position]] = []
    for loaded, items in batches:
        if loaded:
            index.load(*columns_of(items))
        else:
            index.apply(items, NOWHERE)
        everything += items
    expected = newest(everything)
    assert dict(index.items()) == expected
    assert [key for key, _ in index.items()] == sorted(expected)
    assert all(index.get(key) == at for key, at in expected.items())
    live = sum(at.type in (Type.PUT, Type.BLOB) for at in expected.values())
    assert index.count_live() == live
    index.close(clean=False)


def test_loading_merges_many_segments(index: Index) -> None:
    items = [
        (b"%06d" % (number * 7 % 3000), position(1 + number % 5, number, offset=number * 8))
        for number in range(9000)
    ]
    for start in range(0, 9000, 1000):
        index.load(*columns_of(items[start : start + 1000]))
    assert dict(index.items(limit=9000)) == newest(items)


def test_columns_come_in_pages_and_in_key_order(index: Index) -> None:
    items = [(b"%04d" % number, position(1, number)) for number in range(25)]
    index.apply(items[::-1], NOWHERE)
    keys: list[bytes] = []
    entries: list[bytes] = []
    while True:
        page = index.columns(keys[-1] if keys else b"", 10)
        if not page[0]:
            break
        keys += page[0]
        entries += page[1]
    assert (keys, entries) == columns_of(items)


def test_swap_replaces_only_what_is_still_there(index: Index) -> None:
    old, new = position(1, 1, segment=1), position(1, 1, segment=9, offset=4096)
    newer = position(2, 2, segment=2)
    index.apply([(b"a", old), (b"b", newer)], NOWHERE)
    assert index.swap([(b"a", old, new), (b"b", old, new), (b"c", old, new)]) == 1
    assert dict(index.items()) == {b"a": new, b"b": newer}


def test_drop_removes_only_what_is_still_of_that_order(index: Index) -> None:
    gone = position(3, 7, type_=Type.DELETE)
    index.apply([(b"a", gone), (b"b", gone)], NOWHERE)
    assert index.drop([(b"a", (3, 7)), (b"b", (3, 6)), (b"c", (3, 7))]) == 1
    assert dict(index.items()) == {b"b": gone}


def test_reset_and_reopen(tmp_path: Path) -> None:
    directory = str(tmp_path)
    index = Index.open(directory, identity=IDENTITY)
    index.apply([(b"key", position(1, 1))], Cursor(OPENING, 1))
    index.close(clean=True)
    index = Index.open(directory, identity=IDENTITY)
    assert index.get(b"key") == position(1, 1)
    index.reset()
    assert index.get(b"key") is None
    assert index.cursor() == NOWHERE
    index.apply([(b"key", position(2, 2))], NOWHERE)
    assert index.get(b"key") == position(2, 2)
    index.close(clean=True)
    reader = Index.open_readonly(directory)
    assert reader.items() == [(b"key", position(2, 2))]
    reader.close(clean=False)
    index = Index.open(directory, identity=b"another volume")
    assert index.view.created
    index.close(clean=True)


@pytest.mark.parametrize("at", range(64))
def test_no_flipped_bit_is_believed(index: Index, at: int) -> None:
    entry = bytearray(pack_position(b"key", position(1, 1)))
    entry[at] ^= 1 << at % 8
    with index.view.write() as transaction:
        transaction.put(b"key", bytes(entry), db=index.view.tables["positions"])
    with pytest.raises(ViewBroken):
        index.get(b"key")
    with pytest.raises(ViewBroken):
        index.items()
    with pytest.raises(ViewBroken):
        index.apply([(b"key", position(2, 2))], NOWHERE)
    with pytest.raises(ViewBroken):
        index.drop([(b"key", (1, 1))])
    index.reset()
    assert index.get(b"key") is None


@pytest.mark.parametrize("entry", [b"", b"x", bytes(63), bytes(65), bytes(64)])
def test_an_entry_of_another_shape_is_a_broken_view(index: Index, entry: bytes) -> None:
    with index.view.write() as transaction:
        transaction.put(b"key", entry, db=index.view.tables["positions"])
    with pytest.raises(ViewBroken):
        index.get(b"key")
    if len(entry) != POSITION_BYTES:
        with pytest.raises(ViewBroken):
            index.load(*columns_of([(b"key", position(1, 1))]))


def test_an_entry_of_another_key_is_a_broken_view(index: Index) -> None:
    with index.view.write() as transaction:
        entry = pack_position(b"key", position(1, 1))
        transaction.put(b"yek", entry, db=index.view.tables["positions"])
    with pytest.raises(ViewBroken):
        index.get(b"yek")


def test_a_full_view_takes_nothing_of_a_batch(tmp_path: Path) -> None:
    index = Index.open(str(tmp_path), identity=IDENTITY, map_bytes=3 << 20)
    index.apply([(b"key", position(1, 1))], Cursor(OPENING, 1))
    items = [(b"%0100d" % number, position(1, number)) for number in range(30_000)]
    with pytest.raises(OutOfSpace):
        index.apply(items, Cursor(OPENING, 30_000))
    with pytest.raises(OutOfSpace):
        index.load(*columns_of(items))
    assert index.cursor() == Cursor(OPENING, 1)
    assert index.count() == 1
    index.apply(items[:10], Cursor(OPENING, 2))
    assert index.count() == 11
    index.close(clean=False)
