"""Purge: a DELETE may go only where an exact look-up finds nothing older of its key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.testing import SimulatedDisk
from pulzar.varidb.footer import Footer, bloom_may_hold, build_footer, read_footer, read_trailer
from pulzar.varidb.position import Position
from pulzar.varidb.purge import without_older
from pulzar.varidb.record import Type
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, SegmentHeader

HEADER = SegmentHeader(volume_id=b"v" * 16, salt=b"s" * 16, segment_id=1, first_seq=1)
Order = tuple[int, int]
DELETED = (b"key", 5, 50)


def footer(*records: tuple[bytes, Order]) -> Footer:
    """The footer of a segment with records (key, (version, seq))."""
    items = [
        (key, Position(1, 128, 100, Type.PUT, 0, len(key), 0, seq, version, 0, 0, 0))
        for key, (version, seq) in records
    ]
    file = SimulatedDisk().create("segment")
    content = build_footer(HEADER, items, records_end=SEGMENT_HEADER_BYTES)
    file.write([bytes(SEGMENT_HEADER_BYTES), content], offset=0)
    trailer = read_trailer(file)
    assert trailer is not None
    return read_footer(file, trailer)


@pytest.mark.parametrize(
    ("there", "stays"),
    [
        ([], False),
        ([(4, 40)], True),
        ([(5, 49)], True),  # the same version written twice: seq decides
        ([(5, 50)], False),  # the DELETE itself
        ([(6, 60)], False),
        ([(6, 60), (5, 50)], False),
        ([(6, 60), (5, 50), (1, 10)], True),
        ([(4, 60)], True),  # version before seq
    ],
)
def test_a_delete_stays_while_something_older_is_there(there: list[Order], *, stays: bool) -> None:
    found = without_older([DELETED], footer(*((b"key", order) for order in there)))
    assert found == ([] if stays else [DELETED])


def test_older_records_of_other_keys_do_not_count() -> None:
    others = [b"", b"ke", b"kex", b"key\0", b"key0", b"kez"]
    assert without_older([DELETED], footer(*((key, (1, 1)) for key in others))) == [DELETED]


def test_a_key_that_only_the_bloom_filter_takes_for_another_may_go() -> None:
    there = footer(*((b"k%d" % number, (1, number)) for number in range(1, 400)))
    mistaken = next(
        key for key in (b"x%d" % n for n in range(10_000)) if bloom_may_hold(there.bloom, key)
    )
    assert without_older([(mistaken, 5, 50)], there) == [(mistaken, 5, 50)]


keys = st.sampled_from([b"a", b"b", b"c", b"d"])
orders = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.lists(st.tuples(keys, orders), max_size=12), st.lists(st.tuples(keys, orders)))
def test_the_look_up_is_exact(
    there: list[tuple[bytes, Order]], deletes: list[tuple[bytes, Order]]
) -> None:
    listed = [(key, *order) for key, order in deletes]
    expected = [
        (key, version, seq)
        for key, version, seq in listed
        if not any(other == key and order < (version, seq) for other, order in there)
    ]
    assert without_older(listed, footer(*there)) == expected
