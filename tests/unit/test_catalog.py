"""The catalog: what a record does to an entry, the orders, listing, loading, damage."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pulzar.errors import OutOfSpace, ViewBroken
from pulzar.limits import INLINE_BYTES_MAX, KEY_BYTES_MAX
from pulzar.varidb.catalog import BadRows, Catalog, Change
from pulzar.varidb.entry import Entry, Listing
from pulzar.varidb.position import NOWHERE, Cursor, Position, pack_position
from pulzar.varidb.record import Type

IDENTITY = b"volume-1"
OPENING = bytes(range(16))
CREATED_MS = 1_700_000_000_000


def put(key: bytes, version: int, value: bytes = b"value", *, expires_s: int = 0) -> Change:
    return Change(key, Type.PUT, version, len(value), CREATED_MS + version, expires_s, "", value)


def delete(key: bytes, version: int) -> Change:
    return Change(key, Type.DELETE, version, 0, CREATED_MS + version, 0)


def moved(key: bytes, version: int) -> Change:
    return Change(key, Type.MOVED, version, 0, CREATED_MS + version, 0)


def columns_of(positions: Sequence[tuple[bytes, Position]]) -> tuple[list[bytes], list[bytes]]:
    ordered = sorted(positions, key=lambda item: (item[0], -item[1].version, -item[1].seq))
    return [key for key, _ in ordered], [pack_position(key, at) for key, at in ordered]


def position(
    version: int,
    *,
    type_: int = Type.PUT,
    seq: int = 0,
    size: int = 100,
    meta_length: int = 0,
    expires_s: int = 0,
) -> Position:
    created_ms = CREATED_MS + version
    return Position(
        1, 64, 200, type_, 0, 3, meta_length, seq or version, version, size, created_ms, expires_s
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(str(tmp_path / "views"), identity=IDENTITY, map_bytes=64 << 20)
    yield catalog
    catalog.close(clean=False)


class Log:
    """Applies changes as volume `holder` would, one cursor a batch."""

    def __init__(self, catalog: Catalog, holder: int = 1) -> None:
        self._catalog = catalog
        self._holder = holder
        self._seq = 0

    def apply(self, *changes: Change) -> None:
        self._seq += len(changes)
        self._catalog.apply(changes, self._holder, Cursor(OPENING, self._seq))


def page(catalog: Catalog, prefix: bytes = b"", **changed: object) -> Listing:
    options = {"after": None, "limit": 1000, "delimiter": None, "now_s": 0, **changed}
    return catalog.list_keys(prefix, **options)  # type: ignore[arg-type]


def keys_of(listing: Listing) -> list[bytes]:
    return [key for key, _ in listing.entries]


def created(catalog: Catalog) -> list[bytes]:
    rows = catalog.created_between(0, 2**63, after=None, limit=100_000)
    return [key for _, key in rows]


# What a record does.


def test_a_put_is_there_with_all_that_it_said(catalog: Catalog) -> None:
    change = Change(b"key", Type.PUT, 7, 5, CREATED_MS, 2_000_000_000, "text/plain", b"value")
    catalog.apply([change], 3, Cursor(OPENING, 9))
    entry = Entry(7, 5, CREATED_MS, 2_000_000_000, "text/plain", (3,), b"value", complete=True)
    assert catalog.get(b"key") == entry
    assert catalog.cursor(3) == Cursor(OPENING, 9)
    assert catalog.cursor(1) == NOWHERE
    assert catalog.status().entries == 1


@pytest.mark.parametrize("inline", [None, b"", b"x" * INLINE_BYTES_MAX])
def test_an_inline_value_is_kept_apart_from_none(catalog: Catalog, inline: bytes | None) -> None:
    catalog.apply([Change(b"key", Type.PUT, 7, 0, 0, 0, "a/b", inline)], 1, NOWHERE)
    entry = catalog.get(b"key")
    assert entry is not None
    assert (entry.inline, entry.content_type, entry.complete) == (inline, "a/b", True)


def test_an_older_record_changes_nothing(catalog: Catalog) -> None:
    log = Log(catalog)
    log.apply(put(b"key", 5, b"new"))
    before = catalog.get(b"key")
    log.apply(put(b"key", 4, b"old"), delete(b"key", 4), moved(b"key", 4))
    assert catalog.get(b"key") == before
    assert catalog.deleted(b"key") is None


def test_a_deleted_key_is_remembered_until_its_delete_is_purged(catalog: Catalog) -> None:
    log = Log(catalog)
    log.apply(put(b"key", 5), delete(b"key", 6))
    assert catalog.get(b"key") is None
    assert catalog.deleted(b"key") == 6
    log.apply(put(b"key", 5), put(b"key", 6))
    assert catalog.get(b"key") is None, "a deleted key came back"
    catalog.drop_deletes([(b"key", 5), (b"other", 9)])
    assert catalog.deleted(b"key") == 6
    catalog.drop_deletes([(b"key", 6)])
    assert catalog.deleted(b"key") is None


def test_a_put_behind_a_delete_is_live_again(catalog: Catalog) -> None:
    Log(catalog).apply(delete(b"key", 5), put(b"key", 6))
    assert catalog.deleted(b"key") is None
    assert catalog.get(b"key") is not None
    assert created(catalog) == [b"key"]


def test_each_volume_with_the_version_is_a_holder(catalog: Catalog) -> None:
    logs = {holder: Log(catalog, holder) for holder in (3, 1, 2)}
    for log in logs.values():
        log.apply(put(b"key", 5))
    assert holders(catalog) == (1, 2, 3)
    logs[2].apply(moved(b"key", 5))
    assert holders(catalog) == (1, 3)
    logs[2].apply(put(b"key", 5))
    assert holders(catalog) == (1, 2, 3)
    logs[3].apply(put(b"key", 6))
    assert holders(catalog) == (3,)


def holders(catalog: Catalog) -> tuple[int, ...]:
    entry = catalog.get(b"key")
    assert entry is not None
    return entry.holders


def test_a_version_without_a_copy_is_lost_and_hides_older_ones(catalog: Catalog) -> None:
    Log(catalog, 1).apply(put(b"key", 5), moved(b"key", 5))
    Log(catalog, 2).apply(put(b"key", 4))
    entry = catalog.get(b"key")
    assert entry is not None
    assert (entry.version, entry.holders) == (5, ())


def test_one_batch_may_write_a_key_again_and_again(catalog: Catalog) -> None:
    changes = [put(b"key", 1), delete(b"key", 2), put(b"key", 3), put(b"key", 4, expires_s=9)]
    Log(catalog).apply(*changes)
    assert created(catalog) == [b"key"]
    assert catalog.expired(9, 10) == [(b"key", 4)]
    assert catalog.status().entries == 1


def test_a_full_view_takes_nothing_of_a_batch(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path), identity=IDENTITY, map_bytes=3 << 20)
    log = Log(catalog)
    log.apply(put(b"key", 1))
    with pytest.raises(OutOfSpace):
        log.apply(*[put(b"%d" % number, number, bytes(1000)) for number in range(2, 5000)])
    assert catalog.cursor(1) == Cursor(OPENING, 1)
    assert keys_of(page(catalog)) == created(catalog) == [b"key"]
    log.apply(delete(b"key", 9))
    assert catalog.get(b"key") is None
    catalog.close(clean=False)


# The orders.


def test_the_creation_order_follows_replaced_and_deleted_keys(catalog: Catalog) -> None:
    log = Log(catalog)
    log.apply(put(b"a", 1), put(b"b", 2), put(b"c", 3))
    log.apply(put(b"a", 4), delete(b"b", 5))
    assert created(catalog) == [b"c", b"a"]


def test_the_creation_order_comes_in_pages(catalog: Catalog) -> None:
    Log(catalog).apply(*[put(b"%d" % (version % 7), version) for version in range(1, 8)])
    start, end = CREATED_MS + 2, CREATED_MS + 7
    found: list[tuple[int, bytes]] = []
    while more := catalog.created_between(start, end, after=found[-1] if found else None, limit=2):
        found += more
    assert found == [(CREATED_MS + version, b"%d" % version) for version in range(2, 7)]


def test_the_expiry_order_knows_who_has_expired(catalog: Catalog) -> None:
    log = Log(catalog)
    log.apply(put(b"late", 1, expires_s=30), put(b"soon", 2, expires_s=10), put(b"never", 3))
    log.apply(put(b"\x00job", 4, expires_s=20), put(b"cleared", 5, expires_s=1))
    log.apply(put(b"cleared", 6))
    assert catalog.expired(9, 10) == []
    assert catalog.expired(10, 10) == [(b"soon", 2)]
    assert catalog.expired(30, 10) == [(b"soon", 2), (b"\x00job", 4), (b"late", 1)]
    assert catalog.expired(30, 1) == [(b"soon", 2)]


# Listing.


def test_reserved_keys_are_not_among_the_users(catalog: Catalog) -> None:
    Log(catalog).apply(put(b"\x00job/1", 1), put(b"key", 2), delete(b"\x00job/2", 3))
    assert catalog.status().entries == 1
    assert keys_of(page(catalog)) == [b"key"]
    assert keys_of(page(catalog, b"\x00job/")) == [b"\x00job/1"]
    assert created(catalog) == [b"key"]
    assert catalog.get(b"\x00job/1") is not None
    assert catalog.deleted(b"\x00job/2") == 3


def test_a_listing_is_in_byte_order_strictly_behind_after(catalog: Catalog) -> None:
    names = [b"a", b"a\x01", b"a/b", b"ab", b"b", b"\xc3\xa9", b"k" * KEY_BYTES_MAX]
    Log(catalog).apply(*[put(key, number + 1) for number, key in enumerate(names)])
    assert keys_of(page(catalog)) == sorted(names)
    assert keys_of(page(catalog, b"a")) == [b"a", b"a\x01", b"a/b", b"ab"]
    assert keys_of(page(catalog, b"a", after=b"a/b")) == [b"ab"]
    assert keys_of(page(catalog, b"b", after=b"a")) == [b"b"]
    assert keys_of(page(catalog, b"a", after=b"b")) == []
    assert keys_of(page(catalog, after=b"\xff")) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_together_are_everything_once(catalog: Catalog, limit: int) -> None:
    names = [b"a", b"d/1", b"d/2", b"d/e/3", b"f", b"g/", b"g/4", b"h//5", b"z"]
    Log(catalog).apply(*[put(key, number + 1) for number, key in enumerate(names)])
    for prefix, keys, groups in [
        (b"", [b"a", b"f", b"z"], [b"d/", b"g/", b"h/"]),
        (b"d/", [b"d/1", b"d/2"], [b"d/e/"]),
        (b"d", [], [b"d/"]),
        (b"h/", [], [b"h//"]),
        (b"none", [], []),
    ]:
        assert all_pages(catalog, prefix, limit, b"/") == (keys, groups)
    assert all_pages(catalog, b"", limit, None) == (sorted(names), [])


def all_pages(
    catalog: Catalog, prefix: bytes, limit: int, delimiter: bytes | None
) -> tuple[list[bytes], list[bytes]]:
    keys: list[bytes] = []
    groups: list[bytes] = []
    after: bytes | None = None
    while True:
        listing = page(catalog, prefix, after=after, limit=limit, delimiter=delimiter)
        assert len(listing.entries) + len(listing.prefixes) <= limit
        keys += keys_of(listing)
        groups += listing.prefixes
        if listing.next is None:
            return keys, groups
        assert after is None or listing.next > after
        after = listing.next


def test_a_group_is_jumped_over_and_not_walked_through(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    Log(catalog).apply(*[put(b"d/%04d" % number, number + 1) for number in range(2000)])
    Log(catalog).apply(put(b"e", 9000))
    monkeypatch.setattr("pulzar.varidb.catalog_page.LIST_SCAN_MAX", 3)
    listing = page(catalog, delimiter=b"/")
    assert (listing.prefixes, keys_of(listing), listing.next) == ([b"d/"], [b"e"], None)


def test_expired_keys_are_left_out_within_bounds(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(catalog)
    log.apply(*[put(b"d/%02d" % number, number + 1, expires_s=10) for number in range(20)])
    log.apply(put(b"d/last", 100, expires_s=11), put(b"gone/1", 101, expires_s=10))
    monkeypatch.setattr("pulzar.varidb.catalog_page.LIST_SCAN_MAX", 8)
    short = page(catalog, now_s=10)
    assert (short.entries, short.next) == ([], b"d/07")
    keys: list[bytes] = []
    after: bytes | None = None
    while True:
        listing = page(catalog, after=after, now_s=10)
        keys += keys_of(listing)
        after = listing.next
        if after is None:
            break
    assert keys == [b"d/last"]
    monkeypatch.undo()
    assert page(catalog, delimiter=b"/", now_s=10).prefixes == [b"d/"]


# Loading.


def test_loading_knows_what_a_footer_tells(catalog: Catalog) -> None:
    positions = [
        (b"blob", position(1, type_=Type.BLOB, size=2_000_000)),
        (b"deleted", position(2, type_=Type.DELETE, size=0)),
        (b"empty", position(3, size=0)),
        (b"expires", position(4, expires_s=50)),
        (b"large", position(5, size=INLINE_BYTES_MAX + 1)),
        (b"large typed", position(6, size=INLINE_BYTES_MAX + 1, meta_length=20)),
        (b"small", position(7)),
        (b"\x00job", position(8)),
    ]
    catalog.load(*columns_of(positions), 4)
    catalog.apply([], 4, Cursor(OPENING, 8))
    entries = dict(page(catalog).entries)
    assert [key for key, entry in entries.items() if entry.complete] == [
        b"blob",
        b"empty",
        b"large",
    ]
    assert entries[b"empty"].inline == b""
    assert entries[b"blob"].size == 2_000_000
    assert entries[b"expires"] == Entry(4, 100, CREATED_MS + 4, 50, "", (4,), None, complete=False)
    assert catalog.get(b"deleted") is None
    assert catalog.deleted(b"deleted") == 2
    assert catalog.get(b"\x00job") is not None
    assert created(catalog) == [b"blob", b"empty", b"expires", b"large", b"large typed", b"small"]
    assert catalog.expired(50, 10) == [(b"expires", 4)]


def test_the_newest_of_many_columns_wins(catalog: Catalog) -> None:
    older = [(b"%d" % number, position(1 + number)) for number in range(100)]
    newer = [
        (b"%d" % number, position(200 + number, type_=Type.DELETE if number % 3 else Type.PUT))
        for number in range(0, 100, 2)
    ]
    for columns in (older, newer, older):
        catalog.load(*columns_of(columns), 1)
    catalog.apply([], 1, Cursor(OPENING, 300))
    expected = {number: 1 + number for number in range(1, 100, 2)}
    expected |= {number: 200 + number for number in range(0, 100, 6)}
    found = {int(key): entry.version for key, entry in page(catalog).entries}
    assert found == expected
    assert sorted(created(catalog)) == sorted(b"%d" % number for number in expected)


def test_a_load_that_was_cut_short_leaves_nothing(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path), identity=IDENTITY)
    catalog.load(*columns_of([(b"key", position(1))]), 1)
    catalog.close(clean=True)
    catalog = Catalog.open(str(tmp_path), identity=IDENTITY)
    assert catalog.get(b"key") is None
    catalog.load(*columns_of([(b"key", position(1))]), 1)
    catalog.apply([], 1, Cursor(OPENING, 1))
    catalog.close(clean=True)
    catalog = Catalog.open(str(tmp_path), identity=IDENTITY)
    assert catalog.get(b"key") is not None
    assert created(catalog) == [b"key"]
    catalog.close(clean=True)


def said(version: int, content_type: str, inline: bytes) -> Entry:
    return Entry(version, 100, CREATED_MS + 5, 0, content_type, (1,), inline)


def test_refill_completes_an_entry_of_that_version_only(catalog: Catalog) -> None:
    catalog.load(*columns_of([(b"key", position(5, meta_length=20))]), 1)
    catalog.apply([], 1, Cursor(OPENING, 5))
    catalog.refill(b"key", said(4, "text/html", b"older"))
    catalog.refill(b"other", said(5, "text/html", b"other"))
    entry = catalog.get(b"key")
    assert entry is not None
    assert not entry.complete
    catalog.refill(b"key", said(5, "text/plain", b"value"))
    expected = Entry(5, 100, CREATED_MS + 5, 0, "text/plain", (1,), b"value", complete=True)
    assert catalog.get(b"key") == expected
    catalog.refill(b"key", said(5, "text/html", b"again"))
    assert catalog.get(b"key") == expected


# Damage.


@pytest.mark.parametrize("bit", range(0, 8 * 55, 3))
def test_no_flipped_bit_of_an_entry_is_believed(catalog: Catalog, bit: int) -> None:
    Log(catalog).apply(put(b"key", 5))
    flip(catalog, "keys", b"key", bit)
    with pytest.raises(ViewBroken):
        catalog.get(b"key")
    with pytest.raises(ViewBroken):
        page(catalog)
    with pytest.raises(ViewBroken):
        catalog.apply([put(b"key", 6)], 1, NOWHERE)
    catalog.reset()
    assert catalog.get(b"key") is None
    assert catalog.cursor(1) == NOWHERE


@pytest.mark.parametrize("bit", range(96))
def test_no_flipped_bit_of_a_delete_is_believed(catalog: Catalog, bit: int) -> None:
    Log(catalog).apply(delete(b"key", 5))
    flip(catalog, "deletes", b"key", bit)
    with pytest.raises(ViewBroken):
        catalog.deleted(b"key")
    with pytest.raises(ViewBroken):
        catalog.apply([put(b"key", 6)], 1, NOWHERE)


def flip(catalog: Catalog, table: str, key: bytes, bit: int) -> None:
    with catalog.view.write() as transaction:
        packed = bytearray(transaction.get(key, b"", catalog.view.tables[table]))
        packed[bit // 8] ^= 1 << bit % 8
        transaction.put(key, bytes(packed), db=catalog.view.tables[table])


@pytest.mark.parametrize("packed", [b"", b"x", bytes(11), bytes(39), bytes(40), bytes(64)])
@pytest.mark.parametrize("table", ["keys", "deletes"])
def test_a_row_of_another_shape_is_a_broken_view(
    catalog: Catalog, table: str, packed: bytes
) -> None:
    with catalog.view.write() as transaction:
        transaction.put(b"key", packed, db=catalog.view.tables[table])
    with pytest.raises(ViewBroken):
        catalog.apply([put(b"key", 6)], 1, NOWHERE)


def test_an_order_that_names_a_missing_key_is_a_broken_view(catalog: Catalog) -> None:
    with catalog.view.write() as transaction:
        order = (5).to_bytes(8, "big") + b"key"
        transaction.put(order, b"", db=catalog.view.tables["expiry"])
    with pytest.raises(ViewBroken):
        catalog.expired(9, 10)


@pytest.mark.parametrize("entry", [b"", bytes(63), bytes(64), bytes(65)])
def test_damaged_columns_are_not_the_fault_of_the_catalog(catalog: Catalog, entry: bytes) -> None:
    with pytest.raises(BadRows):
        catalog.load([b"key"], [entry], 1)
    assert catalog.get(b"key") is None


def test_what_was_closed_is_there_again(tmp_path: Path) -> None:
    for clean in (True, False):
        catalog = Catalog.open(str(tmp_path), identity=IDENTITY)
        seq = catalog.cursor(1).seq + 1
        catalog.apply([put(b"%d" % seq, seq)], 1, Cursor(OPENING, seq))
        catalog.close(clean=clean)
    catalog = Catalog.open(str(tmp_path), identity=IDENTITY)
    assert keys_of(page(catalog)) == [b"1", b"2"]
    catalog.close(clean=True)
