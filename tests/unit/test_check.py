"""check and inspect: every kind of finding, made by hand in a volume that was whole."""

import errno
import json

import msgspec
import pytest

from pulzar.disk import read_file
from pulzar.errors import NotAVolume, VolumeInUse, VolumeTooNew
from pulzar.testing import Killed
from pulzar.testing.faults import Fault, FaultPlan, at_point
from pulzar.varidb.blob import blob_names, blob_path
from pulzar.varidb.check import Finding, Inspected, check, inspect
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.following import footer_of
from pulzar.varidb.footer import build_footer
from pulzar.varidb.log import segment_path
from pulzar.varidb.manifest import ManifestFile
from pulzar.varidb.record import HEADER_BYTES
from pulzar.varidb.segment import segment_name
from pulzar.varidb.survey import Segment, survey
from tests.model.engine import BLOB, Engine

DIRECTORY = "/volume"
KEY = b"key"


def stopped() -> Engine:
    """A volume that is not open: a sealed segment with a blob, and one without a footer."""
    engine = Engine(8)
    engine.write([(KEY, b"old"), (b"gone", b"x")])
    engine.write([(KEY, b"a value of some length"), (b"gone", None)])
    engine.write([(b"large", b"in a file")], blob=True)
    engine.volume.roll(now_ms=engine.now_ms)
    engine.seal()
    engine.write([(b"late", b"later")])
    engine.volume.close(now_ms=engine.now_ms)
    return engine


def findings(engine: Engine) -> list[Finding]:
    return list(check(DIRECTORY, engine.disk))


def flip(engine: Engine, key: bytes, byte: int, *bits: int) -> int:
    """Damage the newest record of a key; where it begins."""
    position = engine.index.entries[key]
    for bit in bits:
        engine.disk.flip(segment_path(DIRECTORY, position.segment), position.offset + byte, bit)
    return position.offset


def path(segment_id: int) -> str:
    return segment_path(DIRECTORY, segment_id)


def sealed_segment(engine: Engine) -> Segment:
    manifest = ManifestFile(engine.disk, DIRECTORY)
    found = survey(
        engine.disk, DIRECTORY, manifest, volume_id=engine.volume.id, is_copy=False
    ).segments
    return found[0]


# What is whole.


def test_nothing_is_wrong_with_a_volume_that_is_whole() -> None:
    assert findings(stopped()) == []


def test_nothing_is_wrong_after_a_compaction() -> None:
    engine = stopped()
    engine.open()
    engine.write([(b"large", b"in another file")], blob=True)
    engine.compact()
    assert engine.volume.replacements.retired()
    engine.volume.close(now_ms=engine.now_ms)
    assert findings(engine) == []


def test_a_process_that_was_killed_leaves_nothing_to_find() -> None:
    engine = stopped()
    engine.open()
    engine.write([(KEY, b"newer"), (b"more", b"m")])
    engine.disk.kill()
    assert findings(engine) == []


def test_a_check_changes_nothing_and_gives_the_lock_back() -> None:
    engine = stopped()
    flip(engine, KEY, 20, 1, 2)
    before = engine.disk.snapshot(DIRECTORY)
    assert findings(engine)
    assert engine.disk.snapshot(DIRECTORY) == before
    one = check(DIRECTORY, engine.disk)
    next(one)
    del one  # given up in the middle
    engine.open()


# The files.


def test_a_bad_line_of_the_manifest_is_a_note() -> None:
    engine = stopped()
    engine.disk.flip(f"{DIRECTORY}/MANIFEST", 3, 1)
    assert findings(engine) == [
        Finding("note", "MANIFEST", "1 lines do not match their checksums"),
    ]


def test_a_missing_segment_is_damage() -> None:
    engine = stopped()
    engine.disk.unlink(path(1))
    (found,) = findings(engine)
    assert (found.kind, found.place) == ("damage", "segments")
    assert "lacks 00000001.seg" in found.message


def test_a_copy_that_lacks_the_end_of_the_log_is_told_so() -> None:
    engine = stopped()
    engine.disk.copy_directory(DIRECTORY, "/copy")
    engine.disk.unlink(segment_path("/copy", 2))
    assert list(check("/copy", engine.disk)) == [
        Finding("note", "segments", "00000002.seg came after this copy was begun")
    ]


def test_a_copy_that_lacks_the_output_of_a_compaction_is_told_so() -> None:
    engine = stopped()
    engine.open()
    engine.compact()
    (replaced,) = ManifestFile(engine.disk, DIRECTORY).state.replaced
    engine.volume.close(now_ms=engine.now_ms)
    engine.disk.copy_directory(DIRECTORY, "/copy")
    name = segment_name(replaced.outputs[0])
    engine.disk.unlink(f"/copy/segments/{name}")
    assert list(check("/copy", engine.disk)) == [
        Finding("note", "segments", f"{name} came after this copy was begun")
    ]


def test_a_segment_without_a_header_is_a_note() -> None:
    engine = stopped()
    engine.disk.create(path(9)).allocate(4096)
    found = findings(engine)
    message = "never used: a crash while opening"
    assert Finding("note", "segments/00000009.seg", message) in found
    assert {(one.kind, one.place) for one in found} == {("note", "segments/00000009.seg")}


def test_a_segment_that_was_never_used_is_a_note() -> None:
    engine = stopped()
    engine.disk.faults = FaultPlan(at_point(CrashPoint.RECOVERY_COPIED))
    with pytest.raises(Killed):
        engine.open()
    engine.disk.kill()
    assert findings(engine) == [
        Finding("note", "segments/00000003.seg", "never used: a crash while opening"),
    ]


def test_a_damaged_segment_header_is_damage() -> None:
    engine = stopped()
    for segment_id in (1, 2):
        engine.disk.flip(path(segment_id), 40, 5)
    assert findings(engine) == [
        Finding("damage", f"segments/0000000{n}.seg", "the segment header is damaged")
        for n in (1, 2)
    ]


# The records.


def test_bytes_that_are_no_record_are_damage() -> None:
    engine = stopped()
    offset = flip(engine, KEY, 30, 1, 2)
    length = HEADER_BYTES + 32
    found = findings(engine)
    assert found[0] == Finding(
        "damage", f"segments/00000001.seg:{offset}", f"{length} bytes are no record"
    )


def test_a_mended_header_is_damage() -> None:
    engine = stopped()
    offset = flip(engine, KEY, 30, 1)
    assert findings(engine) == [
        Finding(
            "damage", f"segments/00000001.seg:{offset}", "one bit of the header is flipped", KEY
        )
    ]


@pytest.mark.parametrize("key", [KEY, b"late"])
def test_a_damaged_value_is_damage(key: bytes) -> None:
    engine = stopped()
    offset = flip(engine, key, HEADER_BYTES + len(key) + 2, 4)
    number = 1 if key == KEY else 2
    assert findings(engine) == [
        Finding("damage", f"segments/0000000{number}.seg:{offset}", "the value does not match", key)
    ]


# The footers.


def test_a_damaged_footer_is_damage() -> None:
    engine = stopped()
    engine.disk.flip(path(1), sealed_segment(engine).end + 70, 0)
    assert findings(engine) == [
        Finding("damage", "segments/00000001.seg", "the footer does not match its checksum")
    ]


def test_a_footer_that_lacks_a_record_is_damage() -> None:
    engine = stopped()
    segment = sealed_segment(engine)
    footer = footer_of(engine.disk, DIRECTORY, segment)
    assert footer is not None
    listed = [item for item in footer.positions() if item[0] != b"large"]
    file = engine.disk.open(path(1), write=True)
    file.truncate(segment.end)
    file.write([build_footer(segment.header, listed, records_end=segment.end)], offset=segment.end)
    assert findings(engine) == [
        Finding("damage", "segments/00000001.seg", "the footer lacks a record", b"large")
    ]


# The blobs.


def blob_of(engine: Engine) -> str:
    (name,) = blob_names(engine.disk, DIRECTORY)
    return name


def test_a_missing_blob_is_damage() -> None:
    engine = stopped()
    name = blob_of(engine)
    engine.disk.unlink(blob_path(DIRECTORY, name))
    assert findings(engine) == [
        Finding("damage", f"blobs/{name[:2]}/{name}.blob", "the file is missing", b"large")
    ]


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_chunk_of_a_blob_is_damage(*, cut: bool) -> None:
    engine = stopped()
    name = blob_of(engine)
    if cut:
        engine.disk.open(blob_path(DIRECTORY, name), write=True).truncate(len(BLOB))
    else:
        engine.disk.flip(blob_path(DIRECTORY, name), 5, 0)
    (found,) = findings(engine)
    assert (found.kind, found.place, found.key) == (
        "damage",
        f"blobs/{name[:2]}/{name}.blob:0",
        b"large",
    )
    assert found.message == f"chunk 0 of blob {name} does not match its checksum"


def test_a_blob_that_no_record_names_is_a_note() -> None:
    engine = stopped()
    name = "cd" * 16
    engine.disk.make_directory(f"{DIRECTORY}/blobs/cd")
    engine.disk.create(blob_path(DIRECTORY, name)).close()
    assert findings(engine) == [
        Finding("note", f"blobs/{name[:2]}/{name}.blob", "no record names this blob")
    ]


# What cannot be checked.


def test_a_volume_in_use_is_not_checked() -> None:
    engine = stopped()
    engine.open()
    with pytest.raises(VolumeInUse, match="stop its server first"):
        findings(engine)


def test_another_directory_is_no_volume() -> None:
    engine = stopped()
    engine.disk.make_directory("/other")
    with pytest.raises(NotAVolume):
        list(check("/other", engine.disk))
    assert engine.disk.list("/other") == []


def test_a_volume_of_a_newer_version_is_not_checked() -> None:
    engine = stopped()
    name = f"{DIRECTORY}/volume.json"
    identity = {**json.loads(read_file(engine.disk, name)), "format": 99}
    engine.disk.unlink(name)
    engine.disk.create(name).write([json.dumps(identity).encode()], offset=0)
    with pytest.raises(VolumeTooNew, match="format 99"):
        findings(engine)


# The list of records.


def listed(engine: Engine) -> dict[tuple[str, bytes, int], Inspected]:
    return {(one.type, one.key, one.version): one for one in inspect(DIRECTORY, engine.disk)}


def test_inspect_lists_every_record_in_the_order_of_the_log() -> None:
    records = list(inspect(DIRECTORY, stopped().disk))
    assert [one.seq for one in records] == list(range(1, len(records) + 1))
    assert [(one.type, one.key) for one in records if one.key] == [
        ("PUT", KEY),
        ("PUT", b"gone"),
        ("PUT", KEY),
        ("DELETE", b"gone"),
        ("BLOB", b"large"),
        ("PUT", b"late"),
    ]
    assert {one.type for one in records if not one.key} == {"OPEN", "CHECKPOINT"}
    assert {one.state for one in records} == {"ok"}


def test_inspect_tells_the_size_that_users_see() -> None:
    sizes = {one.key: one.size for one in inspect(DIRECTORY, stopped().disk)}
    assert sizes[KEY] == len(b"a value of some length")
    assert sizes[b"large"] == len(BLOB) + len(b"in a file")
    assert sizes[b"gone"] == 0


def test_inspect_tells_what_is_mended_and_what_is_damaged() -> None:
    engine = stopped()
    whole = listed(engine)
    flip(engine, KEY, 30, 1)
    flip(engine, b"late", HEADER_BYTES + 6, 1)
    flip(engine, b"large", HEADER_BYTES + 6, 1)
    damaged = listed(engine)
    changed = {key: one for key, one in damaged.items() if one != whole[key]}
    assert {key[1]: one.state for key, one in changed.items()} == {
        KEY: "mended",
        b"late": "damaged",
        b"large": "damaged",
    }
    for key, one in changed.items():
        if key[1] != b"large":  # its size is in its value
            assert msgspec.structs.replace(one, state="ok") == whole[key]


def test_inspect_passes_over_what_is_no_record() -> None:
    engine = stopped()
    before = listed(engine)
    flip(engine, KEY, 30, 1, 2)
    missing = before.keys() - listed(engine).keys()
    assert [key for _, key, _ in missing] == [KEY]


def test_a_volume_in_use_is_not_inspected() -> None:
    engine = stopped()
    engine.open()
    with pytest.raises(VolumeInUse):
        list(inspect(DIRECTORY, engine.disk))


def test_a_volume_is_checked_where_nobody_may_write() -> None:
    engine = stopped()
    for kind in ("create", "write", "unlink", "rename", "truncate", "allocate"):
        fault = Fault(kinds=(kind,), error=errno.EROFS, lasting=True)
        engine.disk.faults = FaultPlan(fault)
        assert findings(engine) == []
        assert not engine.disk.faults.fired
    engine.disk.faults = None
