"""The bytes of a backup: what a later version must still read."""

import msgspec
import pytest

from pulzar.backup.keys import decode_keys, encode_keys, not_restored
from pulzar.backup.messages import BlobFile, BlobPage, SegmentFile, VolumeFiles
from pulzar.backup.restore import place_name
from pulzar.backup.snapshot import (
    Mark,
    Missing,
    Part,
    SavedFile,
    SavedVolume,
    Snapshot,
    blob_object,
    read_mark,
    read_snapshot,
    segment_object,
    to_prune,
)
from pulzar.errors import BackupUnfit
from pulzar.pipes import pack
from pulzar.varidb.record import Type

VOLUME = "0123456789abcdef" * 2

SNAPSHOT = Snapshot(
    id="20261130T174500Z",
    cluster="c" * 32,
    key="k" * 64,
    alone=True,
    volumes=[
        SavedVolume(
            id=VOLUME,
            name="alpha",
            taken="2026-11-30T17:45:00Z",
            seq=9,
            identity=b"{}",
            manifest=b"M",
            files=[
                SavedFile("segments/00000001.seg", [Part("o", 0, 5, 7, "o.keys", 3, 8)], "aa", True)
            ],
        )
    ],
    missing=[Missing("d" * 32, "beta", "it is offline", "")],
)
SNAPSHOT_JSON = (
    '{"pulzar":"backup","format":1,"id":"20261130T174500Z","cluster":"' + "c" * 32 + '",'
    '"key":"' + "k" * 64 + '","alone":true,"volumes":[{"id":"' + VOLUME + '","name":"alpha",'
    '"taken":"2026-11-30T17:45:00Z","seq":9,"identity":"e30=","manifest":"TQ==","files":[{'
    '"name":"segments/00000001.seg","parts":[{"object":"o","start":0,"bytes":5,"crc32c":7,'
    '"keys":"o.keys","keys_bytes":3,"keys_crc32c":8}],"salt":"aa","sealed":true}]}],'
    '"missing":[{"id":"' + "d" * 32 + '","name":"beta","reason":"it is offline","taken":""}]}'
)


def test_a_snapshot() -> None:
    assert msgspec.json.encode(SNAPSHOT).decode() == SNAPSHOT_JSON
    assert read_snapshot(SNAPSHOT_JSON.encode(), "x") == SNAPSHOT


def test_the_mark_of_a_target() -> None:
    content = b'{"pulzar":"backup","format":1,"cluster":"c"}'
    assert msgspec.json.encode(Mark(cluster="c")) == content
    assert read_mark(content, "here") == Mark(cluster="c")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"pulzar":"x","format":1,"cluster":"c"}', b'{"format":2,"cluster":"c"}'],
)
def test_a_mark_that_is_not_ours(content: bytes) -> None:
    with pytest.raises(BackupUnfit):
        read_mark(content, "here")


def test_names_of_objects() -> None:
    name = segment_object("V", "segments/00000007.seg", "0123456789ab", 0, 128)
    assert name == "volumes/V/segments/00000007-01234567/0-128"
    assert blob_object("V", "blobs/ab/abcd.blob", 9) == "volumes/V/blobs/ab/abcd-9"


def test_a_file_of_keys() -> None:
    keys = [(b"a", 1 << 40, 1, 7), (b"\xc3\xa9", 2, 2, 8)]
    content = encode_keys(keys)
    assert content.hex() == "9294c40161cf0000010000000000010794c402c3a9020208"
    assert decode_keys(content) == keys


def test_what_a_volume_says_of_its_files() -> None:
    files = VolumeFiles(
        id=VOLUME,
        name="alpha",
        directory="/data/volume",
        seq=3,
        identity=b"{}",
        manifest=b"",
        segments=[SegmentFile("segments/00000001.seg", "aa", 128, False)],
        retired_blobs=["b"],
    )
    assert msgspec.json.encode(files).decode() == (
        '{"id":"' + VOLUME + '","name":"alpha","directory":"/data/volume","seq":3,'
        '"identity":"e30=","manifest":"","segments":[{"name":"segments/00000001.seg",'
        '"salt":"aa","bytes":128,"sealed":false}],"retired_blobs":["b"]}'
    )
    page = BlobPage([BlobFile("blobs/ab/x.blob", 7)], "x")
    assert msgspec.json.encode(page) == (
        b'{"blobs":[{"name":"blobs/ab/x.blob","bytes":7}],"next":"x"}'
    )


def test_a_frame_between_a_process_and_its_child() -> None:
    assert pack({"name": "é"}) == b'\x00\x00\x00\x12{"name": "\\u00e9"}'


PUT, DELETE, MOVED, BLOB = int(Type.PUT), int(Type.DELETE), int(Type.MOVED), int(Type.BLOB)


def k(version: int, type_: int, seq: int = 1) -> tuple[bytes, int, int, int]:
    return b"k", version, type_, seq


@pytest.mark.parametrize(
    ("restored", "missing", "expected"),
    [
        ([], [k(5, PUT)], [(5, True)]),
        ([], [k(5, BLOB)], [(5, True)]),
        ([k(5, PUT)], [k(5, PUT)], []),  # another copy is there
        ([k(4, PUT)], [k(5, PUT)], [(5, True)]),
        ([k(6, PUT)], [k(5, PUT)], []),
        ([k(6, DELETE)], [k(5, PUT)], []),
        ([k(4, PUT)], [k(5, DELETE)], [(5, False)]),  # it is back
        ([], [k(5, DELETE)], []),
        ([k(4, PUT)], [k(4, PUT), k(6, DELETE)], [(6, False)]),
        ([], [k(4, PUT), k(4, MOVED, 2)], []),  # it was elsewhere, which is told there
        ([k(4, PUT), k(4, MOVED, 2)], [k(4, PUT)], [(4, True)]),
        ([k(4, MOVED, 2), k(4, PUT, 3)], [k(4, PUT)], []),  # moved away, and back
    ],
)
def test_what_a_restore_without_a_volume_does_not_bring_back(
    restored: list[tuple[bytes, int, int, int]],
    missing: list[tuple[bytes, int, int, int]],
    expected: list[tuple[int, bool]],
) -> None:
    found = [(one.version, one.gone) for one in not_restored([restored], [missing])]
    assert found == expected


def test_directories_of_a_restore_have_different_names() -> None:
    def volume(name: str, id_: str) -> SavedVolume:
        return msgspec.structs.replace(SNAPSHOT.volumes[0], name=name, id=id_ * 32)

    volumes = [volume("a", "1"), volume("b", "2"), volume("b", "3"), volume("master", "4")]
    names = [place_name(one, volumes) for one in volumes]
    assert names == ["a", "b-22222222", "b-33333333", "master-44444444"]


def test_the_last_snapshots_stay() -> None:
    assert to_prune(["b", "a", "c"], 2) == ["a"]
    assert to_prune(["b", "a"], 3) == []
