"""The record: what is written comes back, and nothing else is taken for it."""

import struct
from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.limits import (
    COUNTER_BITS,
    EPOCH_BITS,
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    SEGMENT_VALUE_BYTES_MAX,
)
from pulzar.varidb.record import (
    ALIGNMENT,
    HEADER_BYTES,
    Meta,
    Record,
    Type,
    decode,
    decode_body,
    decode_header,
    decode_meta,
    encode,
    encode_meta,
    epoch_of,
    make_version,
    padded,
    record_length,
    segment_seed,
)

SEED = segment_seed(b"s" * 16, 7)
OFFSET = 4096
U64 = st.integers(0, 2**64 - 1)
SAMPLE = Record(
    type=Type.PUT, key=b"colour", value=b"light blue", meta=b'{"content_type":"a/b"}', version=9
)

records = st.builds(
    Record,
    type=st.sampled_from(Type),
    key=st.binary(max_size=KEY_BYTES_MAX),
    value=st.binary(max_size=300),
    meta=st.binary(max_size=80),
    version=U64,
    created_ms=U64,
    expires_s=U64,
    flags=st.integers(0, 255),
)


def encoded(record: Record = SAMPLE, *, seq: int = 3, synced: int = 2) -> bytes:
    return encode(record, seq=seq, synced=synced, offset=OFFSET, seed=SEED)


def read(buffer: bytes, *, at: int = 0, offset: int = OFFSET, seed: int = SEED) -> Record | None:
    return decode(buffer, at, offset=offset, seed=seed)


def flipped(content: bytes, *bits: int) -> bytes:
    changed = bytearray(content)
    for bit in bits:
        changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


@given(records, U64, U64, st.integers(0, 2**31), st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_encoded_comes_back(
    record: Record, seq: int, synced: int, offset: int, before: bytes, behind: bytes
) -> None:
    content = encode(record, seq=seq, synced=synced, offset=offset, seed=SEED)
    expected = msgspec.structs.replace(record, seq=seq, synced=synced)
    buffer = before + content + behind
    assert decode(buffer, len(before), offset=offset, seed=SEED) == expected


@given(records)
def test_a_record_takes_a_multiple_of_eight_bytes_and_ends_in_zeros(record: Record) -> None:
    content, length = encoded(record), record_length(record)
    assert len(content) == padded(length)
    assert len(content) % ALIGNMENT == 0
    assert len(content) - length < ALIGNMENT
    assert content[length:] == bytes(len(content) - length)


@given(records)
def test_the_header_tells_how_long_the_record_is(record: Record) -> None:
    header = decode_header(encoded(record), 0, offset=OFFSET, seed=SEED)
    assert header is not None
    assert header.length == record_length(record)
    assert header.key == record.key


def test_every_flipped_bit_of_header_key_and_body_is_seen() -> None:
    content = encoded()
    for bit in range(record_length(SAMPLE) * 8):
        assert read(flipped(content, bit)) is None, bit


def test_a_flipped_bit_of_the_body_leaves_the_header_valid() -> None:
    content = encoded()
    for bit in range((HEADER_BYTES + len(SAMPLE.key)) * 8, record_length(SAMPLE) * 8):
        damaged = flipped(content, bit)
        header = decode_header(damaged, 0, offset=OFFSET, seed=SEED)
        assert header is not None
        assert (header.key, header.seq, header.version) == (SAMPLE.key, 3, 9)
        body = damaged[HEADER_BYTES + len(SAMPLE.key) : record_length(SAMPLE)]
        assert decode_body(header, body) is None


def test_two_flipped_bits_of_the_header_are_seen() -> None:
    content = encoded(Record(type=Type.DELETE, key=b"k", version=1))
    for pair in combinations(range(0, (HEADER_BYTES + 1) * 8, 3), 2):
        assert read(flipped(content, *pair)) is None, pair


@given(records, st.data())
def test_a_record_that_was_cut_is_none(record: Record, data: st.DataObject) -> None:
    length = record_length(record)
    kept = data.draw(st.integers(0, length - 1))
    assert read(encoded(record)[:kept]) is None


@given(st.binary(max_size=200))
def test_other_bytes_are_no_record(content: bytes) -> None:
    assert read(content) is None
    assert read(encoded()[:4] + content) is None


def test_a_record_is_valid_at_its_place_only() -> None:
    content = encoded()
    assert read(content) is not None
    assert read(content, offset=OFFSET + 8) is None
    assert read(content, seed=segment_seed(b"s" * 16, 8)) is None
    assert read(content, seed=segment_seed(b"t" * 16, 7)) is None


def test_lengths_are_not_trusted_before_the_checksum() -> None:
    content = bytearray(encoded())
    struct.pack_into("<HII", content, 10, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    assert decode_header(bytes(content), 0, offset=OFFSET, seed=SEED) is None
    struct.pack_into("<H", content, 10, 0)
    assert decode_header(bytes(content), 0, offset=OFFSET, seed=SEED) is None


def test_a_body_of_another_length_is_refused() -> None:
    header = decode_header(encoded(), 0, offset=OFFSET, seed=SEED)
    assert header is not None
    body = SAMPLE.meta + SAMPLE.value
    assert decode_body(header, body) is not None
    assert decode_body(header, body[:-1]) is None
    assert decode_body(header, body + b"\0") is None


def test_the_largest_record_comes_back() -> None:
    largest = Record(
        type=Type.PUT,
        key=b"k" * KEY_BYTES_MAX,
        value=bytes(SEGMENT_VALUE_BYTES_MAX),
        meta=b"m" * META_BYTES_MAX,
        version=2**64 - 1,
        created_ms=2**64 - 1,
        expires_s=2**64 - 1,
        flags=255,
    )
    expected = msgspec.structs.replace(largest, seq=3, synced=2)
    assert read(encoded(largest)) == expected


@pytest.mark.parametrize(
    "record",
    [
        Record(type=Type.PUT, key=b"k" * 65_536),
        Record(type=Type.PUT, version=2**64),
        Record(type=Type.PUT, expires_s=-1),
        Record(type=Type.PUT, flags=256),
    ],
    ids=["key", "version", "expires", "flags"],
)
def test_what_does_not_fit_its_field_is_not_encoded(record: Record) -> None:
    with pytest.raises(struct.error):
        encoded(record)


def test_two_segments_have_two_seeds() -> None:
    seeds = {segment_seed(salt * 16, number) for salt in (b"a", b"b") for number in range(100)}
    assert len(seeds) == 200


def test_meta_holds_the_content_type() -> None:
    assert encode_meta("") == b""
    assert decode_meta(b"") == Meta()
    assert decode_meta(encode_meta("text/plain")) == Meta(content_type="text/plain")


def test_unknown_members_of_meta_are_ignored() -> None:
    assert decode_meta(b'{"colour":"red","content_type":"a/b"}') == Meta(content_type="a/b")


@given(
    st.tuples(st.integers(0, 2**EPOCH_BITS - 1), st.integers(0, 2**COUNTER_BITS - 1)),
    st.tuples(st.integers(0, 2**EPOCH_BITS - 1), st.integers(0, 2**COUNTER_BITS - 1)),
)
def test_versions_order_by_epoch_then_by_counter(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    assert (make_version(*one) < make_version(*other)) == (one < other)
    assert epoch_of(make_version(*one)) == one[0]
    assert make_version(*one) < 2**64
