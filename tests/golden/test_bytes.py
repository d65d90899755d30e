"""Every byte on disk, pinned: a test that fails here is a new format, or a mistake.

The hex texts were made by the code that they pin, once, and looked at field by field.
"""

import pytest

from pulzar.varidb.blob import Blob, decode_blob, encode_blob
from pulzar.varidb.footer import build_footer
from pulzar.varidb.manifest import (
    Added,
    Event,
    Lost,
    Opened,
    Removed,
    Replaced,
    Reverted,
    Sealed,
    Swapped,
    decode_lines,
    encode_line,
)
from pulzar.varidb.position import Position, pack_position, unpack_position
from pulzar.varidb.record import (
    Record,
    Type,
    decode,
    encode,
    encode_meta,
    make_version,
    segment_seed,
)
from pulzar.varidb.segment import SegmentHeader, decode_segment_header, encode_segment_header

NOW_MS = 1_700_000_000_000
SEED = segment_seed(bytes(range(16)), 7)
BLOB = Blob(1_500_000, 1 << 20, "ab" * 16, (1, 2))

RECORDS: dict[Type, tuple[Record, str]] = {
    Type.PUT: (
        Record(
            type=Type.PUT,
            key=b"key",
            value=b"value",
            meta=encode_meta("text/plain"),
            version=make_version(1, 2),
            created_ms=NOW_MS,
            expires_s=1_800_000_000,
        ),
        (
            "52505a31063ac69f010003001d000000050000000e008a540900000000000000"
            "020000000001000008000000000000000068e5cf8b01000000d2496b00000000"
            "6b65797b22636f6e74656e745f74797065223a22746578742f706c61696e227d"
            "76616c7565000000"
        ),
    ),
    Type.DELETE: (
        Record(type=Type.DELETE, key=b"key", version=make_version(1, 3), created_ms=NOW_MS + 1),
        (
            "52505a31f9afaf13020003000000000000000000000000000900000000000000"
            "030000000001000008000000000000000168e5cf8b0100000000000000000000"
            "6b65790000000000"
        ),
    ),
    Type.BLOB: (
        Record(type=Type.BLOB, key=b"key", value=encode_blob(BLOB), version=make_version(1, 4)),
        (
            "52505a310c90b3c003000300000000003600000092eab2f60900000000000000"
            "0400000000010000080000000000000000000000000000000000000000000000"
            "6b657960e3160000000000000010002000616261626162616261626162616261"
            "6261626162616261626162616261626162010000000200000000000000000000"
        ),
    ),
    Type.MOVED: (
        Record(type=Type.MOVED, key=b"key", version=make_version(1, 2)),
        (
            "52505a3108a6671b040003000000000000000000000000000900000000000000"
            "0200000000010000080000000000000000000000000000000000000000000000"
            "6b65790000000000"
        ),
    ),
    Type.OPEN: (
        Record(type=Type.OPEN, value=bytes(16)),
        (
            "52505a31b37128b0050000000000000010000000ea9a70420900000000000000"
            "0000000000000000080000000000000000000000000000000000000000000000"
            "00000000000000000000000000000000"
        ),
    ),
    Type.CHECKPOINT: (
        Record(type=Type.CHECKPOINT),
        (
            "52505a3196ff46e2060000000000000000000000000000000900000000000000"
            "0000000000000000080000000000000000000000000000000000000000000000"
        ),
    ),
    Type.EPOCH: (
        Record(type=Type.EPOCH, version=make_version(2, 0)),
        (
            "52505a312e0771c0070000000000000000000000000000000900000000000000"
            "0000000000020000080000000000000000000000000000000000000000000000"
        ),
    ),
    Type.MEMBERS: (
        Record(type=Type.MEMBERS, value=b'{"generation":1,"members":[]}'),
        (
            "52505a31a7d1c88b08000000000000001d0000008c2500000900000000000000"
            "0000000000000000080000000000000000000000000000000000000000000000"
            "7b2267656e65726174696f6e223a312c226d656d62657273223a5b5d7d000000"
        ),
    ),
    Type.PURGE: (
        Record(type=Type.PURGE, version=make_version(1, 3)),
        (
            "52505a3194a2b4ca090000000000000000000000000000000900000000000000"
            "0300000000010000080000000000000000000000000000000000000000000000"
        ),
    ),
}

HEADER = SegmentHeader(
    volume_id=bytes(range(16)),
    salt=bytes(range(16, 32)),
    segment_id=7,
    kind=0,
    previous_id=6,
    previous_end=4096,
    first_seq=10,
    created_ms=NOW_MS,
    opening=bytes(range(32, 48)),
)
HEADER_HEX = (
    "50554c5a53454731b03becb701000000000102030405060708090a0b0c0d0e0f"
    "101112131415161718191a1b1c1d1e1f07000000000000000600000000000000"
    "00100000000000000a000000000000000068e5cf8b0100002021222324252627"
    "28292a2b2c2d2e2f000000000000000000000000000000000000000000000000"
)

POSITION = Position(7, 128, 91, Type.PUT, 0, 3, 30, 9, make_version(1, 2), 5, NOW_MS, 0)
POSITION_HEX = (
    "07000000800000005b000000010003001e00000099292fbc0900000000000000"
    "020000000001000005000000000000000068e5cf8b0100000000000000000000"
)

FOOTER_HEX = (
    "07000000800000005b000000010003001e00000099292fbc0900000000000000"
    "020000000001000005000000000000000068e5cf8b0100000000000000000000"
    "6b65790300000001000000000000000400000000000000142850554c5a454e44"
    "3110a7451636dd29a8000102030405060708090a0b0c0d0e0f10111213141516"
    "1718191a1b1c1d1e1f0700000000000000e00000000000000009000000000000"
    "0009000000000000000200000000010000010000000300000000000000010000"
    "00020000000000000060000000000000000000000000000000"
)

LINES: list[tuple[Event, bytes]] = [
    (
        Added(
            segment=7,
            kind=0,
            salt="00" * 16,
            opening="11" * 16,
            first_seq=10,
            previous=6,
            previous_end=4096,
            created_ms=5,
        ),
        (
            b'e9c1cc8d {"event":"added","segment":7,"kind":0,"salt":"000000000000000000000'
            b'00000000000","opening":"11111111111111111111111111111111","first_seq":10,"pr'
            b'evious":6,"previous_end":4096,"created_ms":5}\n'
        ),
    ),
    (
        Sealed(segment=7),
        b'307c4519 {"event":"sealed","segment":7}\n',
    ),
    (
        Replaced(inputs=(1, 2), outputs=(3,), blobs=("ab",), at_ms=5, horizon=9),
        (
            b'88ba9759 {"event":"replaced","inputs":[1,2],"outputs":[3],"blobs":["ab"],"at'
            b'_ms":5,"horizon":9}\n'
        ),
    ),
    (
        Swapped(inputs=(1, 2)),
        b'31ba7bd9 {"event":"swapped","inputs":[1,2]}\n',
    ),
    (
        Removed(segments=(1, 2)),
        b'8e2c28fd {"event":"removed","segments":[1,2]}\n',
    ),
    (
        Reverted(inputs=(1, 2)),
        b'd23c83df {"event":"reverted","inputs":[1,2]}\n',
    ),
    (
        Lost(segments=(9,)),
        b'723b2c5e {"event":"lost","segments":[9]}\n',
    ),
    (
        Opened(place="1:2"),
        b'a753153f {"event":"opened","place":"1:2"}\n',
    ),
]


def test_every_type_of_record_is_pinned() -> None:
    assert set(RECORDS) == set(Type)
    assert SEED == 0x34BFD486


@pytest.mark.parametrize("type_", Type, ids=lambda type_: type_.name)
def test_record(type_: Type) -> None:
    record, pinned = RECORDS[type_]
    assert encode(record, seq=9, synced=8, offset=128, seed=SEED).hex() == pinned
    read = decode(bytes.fromhex(pinned), 0, offset=128, seed=SEED)
    assert read is not None
    assert (read.key, read.value, read.meta) == (record.key, record.value, record.meta)
    assert (read.type, read.seq, read.synced, read.version) == (type_, 9, 8, record.version)


def test_segment_header() -> None:
    assert encode_segment_header(HEADER).hex() == HEADER_HEX
    assert decode_segment_header(bytes.fromhex(HEADER_HEX)) == HEADER


def test_position() -> None:
    assert pack_position(b"key", POSITION).hex() == POSITION_HEX
    assert unpack_position(b"key", bytes.fromhex(POSITION_HEX)) == POSITION


def test_footer_and_trailer() -> None:
    footer = build_footer(HEADER, [(b"key", POSITION)], records_end=224, inputs=[(1, 4)])
    assert footer.hex() == FOOTER_HEX


def test_blob_descriptor() -> None:
    pinned = "60e3160000000000000010002000" + "6162" * 16 + "0100000002000000"
    assert encode_blob(BLOB).hex() == pinned
    assert decode_blob(encode_blob(BLOB)) == BLOB


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: type(value).__name__)
def test_manifest_line(event: Event, line: bytes) -> None:
    assert encode_line(event) == line
    assert decode_lines(line)[0] == [event]


def test_every_kind_of_manifest_line_is_pinned() -> None:
    assert {type(event) for event, _ in LINES} == set(Event.__args__)
