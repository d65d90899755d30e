"""The writer's short way into the two views: rows that nobody looks up first.

`append` is told what is there and must do what `apply` finds out: random batches of writes, each
key once in a batch, go into one view by each way, and both must hold the same rows.
"""

from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulzar.varidb.catalog import Catalog, Change, Newest
from pulzar.varidb.index import Index, put_newest
from pulzar.varidb.position import Cursor, Position, pack_place, pack_position, unpack_position
from pulzar.varidb.record import Record, Type, encode_meta, record_length
from pulzar.varidb.view import View

OPENING = bytes(16)
CREATED_MS = 1_700_000_000_000
HOLDER = 1

KEYS = st.sampled_from([b"a", b"b", b"c/d", b"\x00own", b"zz"])


class Wanted(NamedTuple):
    """A write, before it has a version."""

    type: Type
    value: bytes
    content_type: str
    expires_s: int
    created_ms: int


WRITES = st.builds(
    Wanted,
    type=st.sampled_from([Type.PUT, Type.PUT, Type.BLOB, Type.DELETE]),
    value=st.sampled_from([b"", b"v", b"x" * 1024, b"x" * 1025]),
    content_type=st.sampled_from(["", "text/plain"]),
    expires_s=st.sampled_from([0, 0, 2_000_000_000]),
    created_ms=st.integers(CREATED_MS, CREATED_MS + 3),
)
BATCHES = st.lists(st.dictionaries(KEYS, WRITES, max_size=5), max_size=8)


def record_of(key: bytes, wanted: Wanted, version: int) -> Record:
    if wanted.type == Type.DELETE:
        return Record(type=Type.DELETE, key=key, version=version, created_ms=wanted.created_ms)
    return Record(
        type=wanted.type,
        key=key,
        value=wanted.value,
        meta=encode_meta(wanted.content_type),
        version=version,
        created_ms=wanted.created_ms,
        expires_s=wanted.expires_s,
    )


def rows(catalog: Catalog) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of every table."""
    with catalog.view.environment.begin() as transaction:
        return {
            name: list(transaction.cursor(table)) for name, table in catalog.view.tables.items()
        }


@given(batches=BATCHES)
@settings(max_examples=150, deadline=None)
def test_a_catalog_that_is_told_what_it_has_ends_as_one_that_looks(
    batches: list[dict[bytes, Wanted]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("views")
    told = Catalog.open(f"{home}/told", identity=b"v", map_bytes=16 << 20)
    looking = Catalog.open(f"{home}/looking", identity=b"v", map_bytes=16 << 20)
    version = 0
    for batch in batches:
        newest: list[Newest] = []
        changes: list[Change] = []
        entries = told.get_many(list(batch))
        assert entries == [told.get(key) for key in batch]
        for (key, wanted), entry in zip(batch.items(), entries, strict=True):
            if wanted.type == Type.DELETE and entry is None:
                continue  # the writer answers 404 instead
            version += 1
            record = record_of(key, wanted, version)
            size = len(record.value) if record.type != Type.BLOB else 5 << 20
            inline = record.type == Type.PUT and size <= 1024
            content_type = "" if record.type == Type.DELETE else wanted.content_type
            newest.append(Newest(record, size, content_type, entry))
            changes.append(
                Change(
                    key,
                    record.type,
                    version,
                    size,
                    record.created_ms,
                    record.expires_s,
                    content_type,
                    record.value if inline else None,
                )
            )
        cursor = Cursor(OPENING, version)
        told.append(newest, repeat(((HOLDER, cursor.seq << 1),)), ((HOLDER, cursor),))
        looking.apply(changes, HOLDER, cursor)
        ours, theirs = rows(told), rows(looking)
        assert {k: v for k, v in ours.items() if k != "trust"} == {
            k: v for k, v in theirs.items() if k != "trust"
        }
    told.close(clean=False)
    looking.close(clean=False)


@given(key=KEYS, wanted=WRITES, seq=st.integers(1, 9), offset=st.integers(0, 9))
def test_a_place_is_packed_as_its_position_is(
    key: bytes, wanted: Wanted, seq: int, offset: int
) -> None:
    record = record_of(key, wanted._replace(type=Type.PUT), 7)
    position = Position(
        3,
        offset * 8,
        record_length(record),
        Type.PUT,
        0,
        len(key),
        len(record.meta),
        seq,
        7,
        len(record.value),
        record.created_ms,
        record.expires_s,
    )
    packed = pack_place(record, segment=3, offset=offset * 8, seq=seq)
    assert packed == pack_position(key, position)
    assert unpack_position(key, packed) == position


def test_the_last_row_is_replaced_and_not_appended(tmp_path: Path) -> None:
    view = View.open(str(tmp_path / "view"), name="v", tables=["t"], identity=b"v")
    for rows in ([(b"b", b"1")], [(b"c", b"3"), (b"a", b"0"), (b"b", b"\xff\xff")]):
        with view.write(rows=3) as transaction:
            put_newest(transaction.cursor(view.tables["t"]), rows)
    with view.environment.begin() as transaction:
        found = list(transaction.cursor(view.tables["t"]))
    assert found == [(b"a", b"0"), (b"b", b"\xff\xff"), (b"c", b"3")]
    view.close(clean=False)


def test_an_index_takes_packed_rows_in_any_order(tmp_path: Path) -> None:
    index = Index.open(str(tmp_path / "index"), identity=b"v", map_bytes=16 << 20)
    records = [Record(type=Type.PUT, key=key, version=n) for n, key in enumerate([b"b", b"a"], 1)]
    packed = [
        (one.key, pack_place(one, segment=1, offset=128 * n, seq=n))
        for n, one in enumerate(records, 1)
    ]
    index.append(packed, Cursor(OPENING, 2), b"here")
    assert [(key, at.seq) for key, at in index.items()] == [(b"a", 2), (b"b", 1)]
    assert (index.cursor(), index.place()) == (Cursor(OPENING, 2), b"here")
    index.close(clean=False)


def test_how_far_rows_know_a_volume_is_kept_beside_its_cursor(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path), identity=b"v", map_bytes=16 << 20)
    first, second, third = (Cursor(OPENING, seq) for seq in (10, 20, 5))
    catalog.append([], [], [(1, first)], [(1, second)])
    catalog.append([], [], [], [(1, Cursor(OPENING, 15))])
    catalog.close(clean=False)
    catalog = Catalog.open(str(tmp_path), identity=b"v", map_bytes=16 << 20)
    assert (catalog.cursor(1), catalog.met(1), catalog.met(2)) == (first, second, catalog.cursor(2))
    catalog.append([], [], [(1, Cursor(OPENING, 30))])
    assert catalog.met(1) == Cursor(OPENING, 30)
    catalog.begin_again(1, third)
    assert (catalog.cursor(1), catalog.met(1)) == (third, third)
    catalog.close(clean=True)
