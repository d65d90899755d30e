"""The footer: what is listed comes back, by key and newest first; what is damaged is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.errors import Damage
from pulzar.testing import SimulatedDisk
from pulzar.varidb.footer import (
    TRAILER_BYTES,
    Footer,
    Trailer,
    bloom_may_hold,
    build_footer,
    columns,
    entry_order,
    entry_place,
    entry_type,
    read_body,
    read_footer,
    read_trailer,
)
from pulzar.varidb.position import Position
from pulzar.varidb.record import Type
from pulzar.varidb.segment import KIND_COMPACTED, SEGMENT_HEADER_BYTES, SegmentHeader

HEADER = SegmentHeader(
    volume_id=b"v" * 16, salt=b"s" * 16, segment_id=7, kind=KIND_COMPACTED, first_seq=20
)
PATH = "segment"
Item = tuple[bytes, Position]


def position(
    seq: int, *, version: int = 1, type_: Type = Type.PUT, length: int = 100, key: bytes = b""
) -> Position:
    return Position(7, 128 + 8 * seq, length, type_, 0, len(key), 0, seq, version, 5, 99, 0)


ITEMS: list[Item] = [
    (b"b", position(20, version=4)),
    (b"a", position(21, version=5, type_=Type.DELETE)),
    (b"", position(22, version=6, type_=Type.EPOCH)),
    (b"", position(23, type_=Type.CHECKPOINT, version=0)),
    (b"b", position(24, version=9)),
    (b"", position(25, version=7, type_=Type.PURGE)),
    (b"", position(26, type_=Type.OPEN, version=0)),
]

items_of_a_segment = st.lists(
    st.builds(
        lambda key, seq, version, type_: (key, position(seq, version=version, type_=type_)),
        st.binary(min_size=1, max_size=12),
        st.integers(1, 1000),
        st.integers(1, 2**64 - 1),
        st.sampled_from([Type.PUT, Type.DELETE, Type.BLOB, Type.MOVED]),
    ),
    max_size=30,
    unique_by=lambda item: item[1].seq,
)


def sealed(
    items: list[Item], *, inputs: list[tuple[int, int]] | None = None, gap: int = 0
) -> SimulatedDisk:
    """A disk with a segment of 1000 bytes of records and a footer that lists `items`."""
    disk = SimulatedDisk()
    footer = build_footer(HEADER, items, records_end=1000, inputs=inputs or [])
    disk.create(PATH).write([bytes(1000), footer, bytes(gap)], offset=0)
    return disk


def trailer_of(disk: SimulatedDisk) -> Trailer:
    trailer = read_trailer(disk.open(PATH))
    assert trailer is not None
    return trailer


def footer_of(disk: SimulatedDisk) -> Footer:
    return read_footer(disk.open(PATH), trailer_of(disk))


@given(items_of_a_segment)
def test_every_keyed_record_is_listed_by_key_and_newest_first(items: list[Item]) -> None:
    listed = list(footer_of(sealed(items)).positions())
    assert listed == sorted(items, key=lambda item: (item[0], -item[1].version, -item[1].seq))


def test_notes_are_listed_apart_and_the_logs_own_records_are_not() -> None:
    footer = footer_of(sealed(ITEMS))
    assert footer.keys == [b"a", b"b", b"b"]
    assert [note.type for note in footer.notes] == [Type.EPOCH, Type.PURGE]
    assert [note.version for note in footer.notes] == [6, 7]


def test_the_trailer_tells_what_the_segment_holds() -> None:
    trailer = trailer_of(sealed(ITEMS))
    assert (trailer.volume_id, trailer.salt, trailer.kind) == (b"v" * 16, b"s" * 16, KIND_COMPACTED)
    assert (trailer.segment_id, trailer.records_end) == (7, 1000)
    assert (trailer.first_seq, trailer.last_seq, trailer.max_version) == (20, 26, 9)
    assert (trailer.entries, trailer.notes, trailer.inputs) == (3, 2, 0)
    assert trailer.record_bytes == len(ITEMS) * 104  # each padded to 8


def test_a_segment_without_records_has_a_footer_too() -> None:
    disk = sealed([])
    footer, trailer = footer_of(disk), trailer_of(disk)
    assert (footer.keys, footer.notes, footer.inputs, footer.bloom) == ([], [], [], b"")
    assert (trailer.first_seq, trailer.last_seq) == (20, 19)


def test_inputs_come_back() -> None:
    assert footer_of(sealed(ITEMS, inputs=[(1, 4), (9, 9)])).inputs == [(1, 4), (9, 9)]


@given(items_of_a_segment, st.integers(0, 35), st.integers(0, 35))
def test_some_columns_are_a_slice_of_all(items: list[Item], one: int, other: int) -> None:
    disk = sealed(items)
    footer, trailer = footer_of(disk), trailer_of(disk)
    start, stop = sorted((min(one, len(items)), other))
    body = read_body(disk.open(PATH), trailer)
    keys, entries = columns(body, trailer, start=start, stop=stop)
    assert keys == footer.keys[start:stop]
    assert entries == footer.entries[start:stop]


def test_a_packed_entry_tells_its_parts_without_being_checked() -> None:
    newest = footer_of(sealed(ITEMS)).entries[1]
    assert entry_order(newest) == (9, 24)
    assert entry_place(newest) == (7, 100, Type.PUT)
    assert entry_type(newest) == Type.PUT


@given(st.sets(st.binary(min_size=1, max_size=12), max_size=60))
def test_the_bloom_filter_knows_every_key(keys: set[bytes]) -> None:
    footer = footer_of(sealed([(key, position(seq)) for seq, key in enumerate(keys, 1)]))
    assert all(bloom_may_hold(footer.bloom, key) for key in keys)


def test_the_bloom_filter_is_seldom_wrong() -> None:
    footer = footer_of(sealed([(b"k%d" % seq, position(seq)) for seq in range(1, 1001)]))
    wrong = sum(bloom_may_hold(footer.bloom, b"other%d" % number) for number in range(4000))
    assert 0 < wrong < 4000 * 0.03


def test_an_empty_bloom_filter_knows_no_key() -> None:
    assert not bloom_may_hold(b"", b"key")


def test_every_flipped_bit_of_a_footer_is_seen() -> None:
    disk = sealed(ITEMS, inputs=[(1, 4)])
    size = disk.open(PATH).size()
    for bit in range(1000 * 8, size * 8):
        disk.flip(PATH, bit // 8, bit % 8)
        trailer = read_trailer(disk.open(PATH))
        if bit // 8 >= size - TRAILER_BYTES:
            assert trailer is None, bit
        else:
            assert trailer is not None
            with pytest.raises(Damage, match="footer of segment 7"):
                read_footer(disk.open(PATH), trailer)
        disk.flip(PATH, bit // 8, bit % 8)
    assert footer_of(disk).keys == [b"a", b"b", b"b"]


def test_a_footer_that_is_not_where_the_trailer_says_is_none() -> None:
    footer = build_footer(HEADER, ITEMS, records_end=1000)
    disk = SimulatedDisk()
    disk.create(PATH).write([bytes(1008), footer], offset=0)
    assert read_trailer(disk.open(PATH)) is None


def test_a_footer_without_its_end_is_none() -> None:
    disk = sealed(ITEMS)
    file = disk.open(PATH, write=True)
    file.truncate(file.size() - 1)
    assert read_trailer(file) is None
    file.truncate(SEGMENT_HEADER_BYTES + TRAILER_BYTES - 1)
    assert read_trailer(file) is None


def test_bytes_behind_a_footer_hide_it() -> None:
    assert read_trailer(sealed(ITEMS, gap=8).open(PATH)) is None


def test_a_body_that_was_cut_while_it_was_open_is_damage() -> None:
    disk = sealed(ITEMS)
    trailer = trailer_of(disk)
    disk.open(PATH, write=True).truncate(1010)
    with pytest.raises(Damage):
        read_footer(disk.open(PATH), trailer)
