"""The segment: its header, and what a scan makes of records, gaps and damaged headers."""

from collections.abc import Sequence
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.limits import KEY_BYTES_MAX, MIB, SEGMENT_VALUE_BYTES_MAX
from pulzar.testing import SimulatedDisk
from pulzar.varidb.record import HEADER_BYTES, Record, Type, encode
from pulzar.varidb.segment import (
    KIND_COMPACTED,
    SEGMENT_HEADER_BYTES,
    Found,
    Gap,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    find_flipped_bit,
    read_record,
    scan,
    segment_id_of,
    segment_name,
)

HEADER = SegmentHeader(volume_id=b"v" * 16, salt=b"s" * 16, segment_id=7, first_seq=1)
START = SEGMENT_HEADER_BYTES
U64 = st.integers(0, 2**64 - 1)
ID = st.binary(min_size=16, max_size=16)


def put(key: bytes, value: bytes = b"") -> Record:
    return Record(type=Type.PUT, key=key, value=value, version=1)


def laid_out(records: Sequence[Record], *, start: int = START) -> list[bytes]:
    """The bytes of records, one behind the other, from `start` on."""
    parts: list[bytes] = []
    for seq, record in enumerate(records, 1):
        parts.append(encode(record, seq=seq, synced=seq - 1, offset=start, seed=HEADER.seed))
        start += len(parts[-1])
    return parts


def scanned(content: bytes, *, start: int = START, end: int | None = None) -> list[Found | Gap]:
    """What a scan finds in a segment with `content` behind its header."""
    disk = SimulatedDisk()
    file = disk.create("segment")
    file.write([encode_segment_header(HEADER), content], offset=0)
    end = START + len(content) if end is None else end
    return list(scan(file, start=start, end=end, seed=HEADER.seed))


def keys(items: Sequence[Found | Gap]) -> list[bytes | None]:
    return [item.header.key if isinstance(item, Found) else None for item in items]


def flipped(content: bytes, *bits: int) -> bytes:
    changed = bytearray(content)
    for bit in bits:
        changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


@given(
    st.builds(
        SegmentHeader,
        volume_id=ID,
        salt=ID,
        segment_id=U64,
        kind=st.integers(0, 2**16 - 1),
        previous_id=U64,
        previous_end=U64,
        first_seq=U64,
        created_ms=U64,
        opening=ID,
        format=st.integers(0, 2**16 - 1),
    )
)
def test_a_segment_header_comes_back(header: SegmentHeader) -> None:
    content = encode_segment_header(header)
    assert len(content) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(content + b"more") == header


def test_every_flipped_bit_of_a_segment_header_is_seen() -> None:
    content = encode_segment_header(HEADER)
    for bit in range(len(content) * 8):
        assert decode_segment_header(flipped(content, bit)) is None, bit


def test_a_segment_header_that_was_cut_or_never_written_is_none() -> None:
    assert decode_segment_header(encode_segment_header(HEADER)[:-1]) is None
    assert decode_segment_header(bytes(SEGMENT_HEADER_BYTES)) is None
    assert decode_segment_header(b"") is None


def test_the_seed_depends_on_salt_and_id_only() -> None:
    change = msgspec.structs.replace
    assert change(HEADER, kind=KIND_COMPACTED, first_seq=9, previous_id=3).seed == HEADER.seed
    assert change(HEADER, salt=b"t" * 16).seed != HEADER.seed
    assert change(HEADER, segment_id=8).seed != HEADER.seed


@given(st.integers(0, 2**40))
def test_a_segment_is_found_by_its_name(number: int) -> None:
    assert segment_id_of(segment_name(number)) == number


@pytest.mark.parametrize(
    "name", ["", "READ_ME.py", "00000001.seg.new", "00000001", "x.seg", ".seg", "-0000001.seg"]
)
def test_other_names_are_no_segments(name: str) -> None:
    assert segment_id_of(name) is None


@given(st.lists(st.builds(put, st.binary(max_size=40), st.binary(max_size=200)), max_size=12))
def test_a_scan_finds_every_record_in_order(records: list[Record]) -> None:
    parts = laid_out(records)
    items = scanned(b"".join(parts))
    found = [item.record for item in items if isinstance(item, Found)]
    assert [(r.key, r.value, r.seq) for r in found if r is not None] == [
        (record.key, record.value, seq) for seq, record in enumerate(records, 1)
    ]
    assert [item.end - item.offset for item in items] == [len(part) for part in parts]


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=150)), max_size=10))
def test_what_is_not_destroyed_is_found(plan: list[tuple[bool, bytes]]) -> None:
    parts = laid_out([put(b"%d" % number, value) for number, (_, value) in enumerate(plan)])
    content = b"".join(
        b"\xff" * len(part) if destroyed else part
        for part, (destroyed, _) in zip(parts, plan, strict=True)
    )
    items = scanned(content)
    kept = [b"%d" % number for number, (destroyed, _) in enumerate(plan) if not destroyed]
    assert [key for key in keys(items) if key is not None] == kept
    assert sum(item.end - item.offset for item in items) == len(content)
    assert sum(map(len, parts)) == len(content)


def test_a_gap_ends_where_the_next_record_begins() -> None:
    one, two, three = laid_out([put(b"a", b"1" * 50), put(b"b", b"2" * 90), put(b"c")])
    found, gap, last = scanned(one + bytes(len(two)) + three)
    assert gap == Gap(START + len(one), START + len(one) + len(two))
    assert (keys([found]), keys([last])) == ([b"a"], [b"c"])


def test_zeros_behind_the_last_record_are_one_gap() -> None:
    (one,) = laid_out([put(b"a")])
    end = START + len(one) + 3 * MIB
    assert scanned(one + bytes(3 * MIB))[1:] == [Gap(START + len(one), end)]


def test_a_file_shorter_than_it_should_be_is_a_gap() -> None:
    (one,) = laid_out([put(b"a")])
    assert scanned(one, end=4096)[1:] == [Gap(START + len(one), 4096)]
    assert scanned(one + b"12345", end=4096)[1:] == [Gap(START + len(one), 4096)]


def test_an_empty_segment_has_nothing() -> None:
    assert scanned(b"") == []


@pytest.mark.parametrize("distance", [-72, -64, -8, 0, 8, 64])
def test_a_record_at_the_edge_of_what_is_read_at_once_is_found(distance: int) -> None:
    hole = MIB + distance
    (record,) = laid_out([put(b"far", b"x" * 100)], start=START + hole)
    gap, found = scanned(bytes(hole) + record)
    assert gap == Gap(START, START + hole)
    assert keys([found]) == [b"far"]


def test_a_scan_goes_over_the_largest_records() -> None:
    largest = put(b"k" * KEY_BYTES_MAX, b"v" * SEGMENT_VALUE_BYTES_MAX)
    items = scanned(b"".join(laid_out([largest, put(b"between"), largest])))
    assert keys(items) == [largest.key, b"between", largest.key]
    assert all(isinstance(item, Found) and item.record is not None for item in items)


def test_the_magic_at_a_wrong_place_is_passed_over() -> None:
    (whole,) = laid_out([put(b"whole")], start=START + 64)
    junk = (b"..." + whole[:4]).ljust(16, b".") + whole[:4].ljust(48, b".")
    assert keys(scanned(junk + whole)) == [None, b"whole"]


def test_a_record_inside_a_value_is_never_found() -> None:
    inner = b"".join(laid_out([put(b"inner", b"i" * 40), put(b"inner too")]))
    outer, last = laid_out([put(b"outer", b"123" + inner), put(b"last")])
    assert keys(scanned(outer + last)) == [b"outer", b"last"]
    for shift in range(8):  # at every alignment, the record around it destroyed
        value = b"x" * shift + inner
        outer, last = laid_out([put(b"outer", value), put(b"last")])
        damaged = flipped(outer, 0, 9)
        assert value in damaged
        assert keys(scanned(damaged + last)) == [None, b"last"]


def test_a_damaged_body_is_found_without_its_record() -> None:
    one, two = laid_out([put(b"a", b"value"), put(b"b")])
    bad, good = scanned(flipped(one, (HEADER_BYTES + 1) * 8) + two)
    assert isinstance(bad, Found)
    assert isinstance(good, Found)
    assert (bad.header.key, bad.record, bad.mended) == (b"a", None, False)
    assert good.record is not None


def test_every_flipped_bit_of_header_and_key_is_mended() -> None:
    one, two, three = laid_out([put(b"a"), put(b"key", b"value"), put(b"c")])
    expected = scanned(one + two + three)
    for bit in range((HEADER_BYTES + len(b"key")) * 8):
        items = scanned(one + flipped(two, bit) + three)
        assert isinstance(items[1], Found)
        assert items[1].mended, bit
        items[1] = msgspec.structs.replace(items[1], mended=False)
        assert items == expected, bit


def test_two_flipped_bits_are_never_mended_into_something_else() -> None:
    (one,) = laid_out([put(b"key", b"value")])
    for pair in combinations(range(0, (HEADER_BYTES + 3) * 8, 23), 2):
        assert find_flipped_bit(flipped(one, *pair), 0, offset=START, seed=HEADER.seed) is None


def test_a_header_that_was_cut_is_not_mended() -> None:
    (one,) = laid_out([put(b"key")])
    cut = flipped(one, 200)[: HEADER_BYTES - 1]
    assert find_flipped_bit(cut, 0, offset=START, seed=HEADER.seed) is None


def test_one_record_is_read_at_its_place() -> None:
    parts = laid_out([put(b"a"), put(b"b", b"value")])
    disk = SimulatedDisk()
    file = disk.create("segment")
    file.write(parts, offset=START)
    at = START + len(parts[0])
    length = HEADER_BYTES + len(b"b" + b"value")
    record = read_record(file, offset=at, length=length, seed=HEADER.seed)
    assert record is not None
    assert (record.key, record.value) == (b"b", b"value")
    assert read_record(file, offset=at, length=length - 1, seed=HEADER.seed) is None
    assert read_record(file, offset=at + 8, length=length, seed=HEADER.seed) is None
