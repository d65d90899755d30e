"""Recovery: where hand-made logs end, what of them is damaged, and which segments count.

The first half is a table of tails for `judge_tail`. A record's `synced` is the highest seq that was
durable when it was written; it is what tells damage from a torn tail.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import pytest

from pulzar.disk import File
from pulzar.errors import NotAVolume, SegmentMissing
from pulzar.testing import Killed, SimulatedDisk
from pulzar.testing.faults import Fault, FaultPlan, at_point
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.log import added, segment_path
from pulzar.varidb.manifest import Lost, ManifestFile, Reverted
from pulzar.varidb.position import NOWHERE
from pulzar.varidb.record import Record, Type, encode
from pulzar.varidb.recovery import Recovered, is_born, judge_tail, recover
from pulzar.varidb.segment import SEGMENT_HEADER_BYTES, SegmentHeader, segment_name
from pulzar.varidb.survey import Segment, Survey, survey
from tests.model.engine import Engine

HEADER = SegmentHeader(volume_id=b"v" * 16, salt=b"s" * 16, segment_id=7)
RECORD_BYTES = 88  # of each record in the table

# The tail.


class R(NamedTuple):
    """One record of a hand-made log, and what happened to it."""

    seq: int
    synced: int
    harm: Literal["", "torn", "value", "bit", "bits"] = ""


class Case(NamedTuple):
    """A log, what is known of it (`durable`, `expected`), and the judgement.

    `end` counts records from the beginning of the segment; `damaged` are (first, last, key).
    """

    name: str
    log: Sequence[R]
    end: int
    carried: Sequence[int]
    next_seq: int
    durable_seq: int
    damaged: Sequence[tuple[int, int, bytes | None]] = ()
    durable: int = 0
    expected: int | None = None
    at: int = 0


CASES = [
    Case("nothing was written", [], 0, [], 1, 0),
    Case("nothing was written behind what is durable", [], 0, [], 10, 9, durable=9, expected=10),
    Case("one batch, acknowledged or not", [R(1, 0), R(2, 0), R(3, 0)], 0, [1, 2, 3], 4, 0),
    Case("the last record tells of those before", [R(1, 0), R(2, 1), R(3, 2)], 2, [3], 4, 2),
    Case("a view knows that all is durable", [R(1, 0), R(2, 0)], 2, [], 3, 2, durable=2),
    Case("a view knows that some is durable", [R(1, 0), R(2, 0)], 1, [2], 3, 1, durable=1),
    Case("a torn tail", [R(1, 0), R(2, 1), R(3, 2, "torn")], 1, [2], 3, 1),
    Case("a torn tail behind what is durable", [R(1, 0, "torn")], 0, [], 1, 0),
    Case("a torn batch: valid records behind a bad one",
         [R(1, 0), R(2, 1), R(3, 1, "torn"), R(4, 1), R(5, 1)], 1, [2], 3, 1),
    Case("a torn batch: nothing but its end", [R(1, 0, "torn"), R(2, 0)], 0, [], 1, 0),
    Case("a torn value", [R(1, 0), R(2, 1, "value")], 1, [], 2, 1),
    Case("a torn value in a batch", [R(1, 0), R(2, 0, "value"), R(3, 0)], 0, [1], 2, 0),
    Case("damage, proven by a later record",
         [R(1, 0), R(2, 1, "torn"), R(3, 2)], 2, [3], 4, 2, [(2, 2, None)]),
    Case("damage of several records",
         [R(1, 0), R(2, 1, "torn"), R(3, 2, "torn"), R(4, 3)], 3, [4], 5, 3, [(2, 3, None)]),
    Case("damage, proven by the second record behind it",
         [R(1, 0), R(2, 0, "torn"), R(3, 0), R(4, 3)], 3, [4], 5, 3, [(2, 2, None)]),
    Case("damage of the first record",
         [R(1, 0, "torn"), R(2, 1)], 1, [2], 3, 1, [(1, 1, None)]),
    Case("damage of a value keeps its key",
         [R(1, 0), R(2, 1, "value"), R(3, 2)], 2, [3], 4, 2, [(2, 2, b"k2")]),
    Case("two bits of a header are damage",
         [R(1, 0), R(2, 1, "bits"), R(3, 2)], 2, [3], 4, 2, [(2, 2, None)]),
    Case("two bits of a header nobody proves durable are a torn tail",
         [R(1, 0), R(2, 1, "bits"), R(3, 1)], 0, [1], 2, 0),
    Case("one bit of a header is mended", [R(1, 0), R(2, 1, "bit"), R(3, 1)], 1, [2, 3], 4, 1),
    Case("one bit of the last header is mended", [R(1, 0), R(2, 1, "bit")], 1, [2], 3, 1),
    Case("two places of damage",
         [R(1, 0), R(2, 0, "torn"), R(3, 2), R(4, 3, "value"), R(5, 4)], 4, [5], 6, 4,
         [(2, 2, None), (4, 4, b"k4")]),
    Case("damage, then a torn tail",
         [R(1, 0), R(2, 1, "torn"), R(3, 2), R(4, 2, "torn"), R(5, 2)], 2, [3], 4, 2,
         [(2, 2, None)]),
    Case("a view proves damage at the end",
         [R(1, 0), R(2, 0, "torn")], 2, [], 3, 2, [(2, 2, None)], durable=2),
    Case("a view proves that more was there",
         [R(1, 0), R(2, 0, "torn")], 2, [], 10, 9, [(2, 9, None)], durable=9),
    Case("a view proves damage of a value",
         [R(1, 0), R(2, 0, "value")], 2, [], 3, 2, [(2, 2, b"k2")], durable=2),
    Case("a seq that was there already ends the log",
         [R(5, 4), R(5, 4), R(6, 4)], 0, [5], 6, 4),
    Case("a seq that was there already, and is durable, is damage",
         [R(5, 0), R(3, 5), R(6, 5)], 2, [6], 7, 5, [(3, 5, b"k3")]),
    Case("what lies before the place of the view is not looked at",
         [R(1, 0, "torn"), R(2, 0, "torn"), R(3, 2)], 2, [3], 4, 2,
         durable=2, expected=3, at=2),
    Case("the place of the view is the end", [R(1, 0), R(2, 1)], 2, [], 3, 2,
         durable=2, expected=3, at=2),
    Case("a record behind the place of the view has another seq",
         [R(1, 0), R(2, 1), R(2, 2)], 3, [], 3, 2, [(2, 2, b"k2")],
         durable=2, expected=3, at=2),
]  # fmt: skip


def laid_out(log: Sequence[R], *, header: SegmentHeader = HEADER) -> tuple[File, int]:
    """A segment with a hand-made log, and where it ends."""
    disk = SimulatedDisk()
    file = disk.create("segment")
    offset = SEGMENT_HEADER_BYTES
    for one in log:
        record = Record(type=Type.PUT, key=b"k%d" % one.seq, value=b"v" * 20, version=one.seq)
        content = bytearray(
            encode(record, seq=one.seq, synced=one.synced, offset=offset, seed=header.seed)
        )
        assert len(content) == RECORD_BYTES
        if one.harm == "torn":
            content[:] = bytes(len(content))
        elif one.harm == "value":
            content[80] ^= 1
        elif one.harm:
            content[40] ^= 2 if one.harm == "bit" else 3
        file.write([content], offset=offset)
        offset += len(content)
    return file, offset


def segment_of(end: int, *, header: SegmentHeader = HEADER) -> Segment:
    return Segment(header=header, trailer=None, size=end, end=end)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_the_end_of(case: Case) -> None:
    file, end = laid_out(case.log)
    tail = judge_tail(
        file,
        segment_of(end),
        at=SEGMENT_HEADER_BYTES + case.at * RECORD_BYTES,
        durable_seq=case.durable,
        expected=case.expected,
    )
    assert (tail.end - SEGMENT_HEADER_BYTES) / RECORD_BYTES == case.end
    assert [record.seq for record in tail.carried] == case.carried
    assert (tail.next_seq, tail.durable_seq) == (case.next_seq, case.durable_seq)
    assert [(one.first_seq, one.last_seq, one.key) for one in tail.damaged] == list(case.damaged)
    assert all(one.segment == 7 for one in tail.damaged)


@pytest.mark.parametrize("room", [8, 500, 5000])
def test_room_behind_the_last_record_is_no_damage(room: int) -> None:
    file, end = laid_out([R(1, 0), R(2, 1)])
    file.allocate(end + room)
    tail = judge_tail(
        file, segment_of(end + room), at=SEGMENT_HEADER_BYTES, durable_seq=0, expected=None
    )
    assert tail.end == end - RECORD_BYTES
    assert [record.seq for record in tail.carried] == [2]
    assert (tail.next_seq, tail.damaged) == (3, ())


def test_room_behind_what_a_view_knows_is_no_damage_either() -> None:
    file, end = laid_out([R(1, 0), R(2, 1)])
    file.allocate(end + 500)
    tail = judge_tail(file, segment_of(end + 500), at=end, durable_seq=2, expected=3)
    assert (tail.end, tail.next_seq, tail.carried, tail.damaged) == (end, 3, (), ())


# Born or not.


@pytest.mark.parametrize(
    ("log", "born"),
    [
        ([], False),
        ([R(3, 2), R(4, 2)], False),
        ([R(3, 2), R(4, 3)], False),
        ([R(3, 2), R(4, 3), R(5, 4)], True),
        ([R(3, 2), R(4, 2, "torn"), R(5, 4)], True),
        ([R(3, 2), R(4, 2), R(5, 4, "torn")], False),
        ([R(3, 2), R(4, 2), R(5, 4, "value")], True),
    ],
)
def test_a_segment_is_born_by_a_record_that_proves_what_it_stands_on(
    log: Sequence[R], *, born: bool
) -> None:
    header = msgspec.structs.replace(HEADER, previous_id=6, first_seq=5)
    file, end = laid_out(log, header=header)
    assert is_born(file, segment_of(end, header=header)) == born


def test_the_first_segment_of_a_log_is_always_born() -> None:
    file, end = laid_out([])
    assert is_born(file, segment_of(end))


# The files.


def looked_at(engine: Engine, *, is_copy: bool = False, volume_id: bytes | None = None) -> Survey:
    """What is in the directory of a volume that is not open."""
    manifest = ManifestFile(engine.disk, engine.directory)
    return survey(
        engine.disk,
        engine.directory,
        manifest,
        volume_id=volume_id or engine.volume.id,
        is_copy=is_copy,
    )


def recovered(engine: Engine) -> Recovered:
    """Where the log goes on, told without a view."""
    found = looked_at(engine)
    return recover(
        engine.disk,
        engine.directory,
        found,
        named=ManifestFile(engine.disk, engine.directory).state.segments.keys(),
        known=NOWHERE,
        place=(0, 0),
    )


def stopped(*, sealed: bool = False, compacted: bool = False) -> Engine:
    """A volume whose process ended in good order, with a key in each of two segments."""
    engine = Engine(5)
    engine.write([(b"a", b"old"), (b"b", b"1")])
    engine.write([(b"a", b"1")])
    engine.volume.roll(now_ms=engine.now_ms)
    if sealed or compacted:
        engine.seal()
    engine.write([(b"c", b"2")])
    if compacted:
        engine.compact()
    engine.volume.close(now_ms=engine.now_ms)
    return engine


def path(engine: Engine, segment_id: int) -> str:
    return segment_path(engine.directory, segment_id)


def test_a_directory_without_segments_begins_at_one() -> None:
    engine = stopped()
    for name in engine.disk.list(f"{engine.directory}/segments"):
        engine.disk.unlink(f"{engine.directory}/segments/{name}")
    engine.disk.unlink(f"{engine.directory}/MANIFEST")
    start = recovered(engine).start
    assert (start.next_segment, start.next_seq, start.carried) == (1, 1, ())


def test_other_files_are_left_alone() -> None:
    engine = stopped()
    engine.disk.create(f"{engine.directory}/segments/notes.txt").close()
    found = looked_at(engine)
    assert [segment.id for segment in found.segments] == [1, 2]
    assert (found.blank, found.foreign) == ([], [])


def test_a_file_that_never_got_its_header_is_no_segment() -> None:
    engine = stopped()
    engine.disk.create(path(engine, 3)).allocate(4096)
    assert (looked_at(engine).blank, looked_at(engine).foreign) == ([3], [])
    assert recovered(engine).start.next_segment == 4
    assert recovered(engine).unborn == (3,)


def test_a_segment_of_another_volume_or_of_another_id_is_none_of_ours() -> None:
    engine = stopped()
    content = engine.disk.open(path(engine, 2)).read(1 << 20, offset=0)
    engine.disk.create(path(engine, 9)).write([content], offset=0)
    assert looked_at(engine).foreign == [9]
    with pytest.raises(NotAVolume, match="belongs to another volume"):
        looked_at(engine, volume_id=b"x" * 16)


@pytest.mark.parametrize("manifest", [True, False])
def test_a_damaged_segment_header_is_made_anew(*, manifest: bool) -> None:
    engine = stopped(sealed=True)
    before = looked_at(engine).segments[0]
    engine.disk.flip(path(engine, 1), 50, 3)
    if not manifest:
        engine.disk.unlink(f"{engine.directory}/MANIFEST")
    after = looked_at(engine).segments[0]
    assert after.mended
    assert not before.mended
    assert after.header.seed == before.header.seed
    assert (after.end, after.trailer) == (before.end, before.trailer)
    engine.open()
    engine.check()


def test_a_trailer_of_another_segment_is_not_believed() -> None:
    engine = stopped(sealed=True)
    segment = looked_at(engine).segments[0]
    content = engine.disk.open(path(engine, 1)).read(segment.size, offset=0)
    engine.disk.open(path(engine, 2), write=True).write(
        [content[segment.end :]], offset=segment.end
    )
    engine.disk.open(path(engine, 2), write=True).truncate(segment.size)
    assert [one.trailer is None for one in looked_at(engine).segments] == [False, True]


def test_a_missing_segment_is_named() -> None:
    engine = stopped()
    engine.disk.unlink(path(engine, 1))
    with pytest.raises(SegmentMissing, match=r"lacks 00000001\.seg: put it back"):
        looked_at(engine)


def test_a_copy_may_lack_the_end_of_the_log_only() -> None:
    engine = stopped()
    engine.disk.unlink(path(engine, 2))
    assert looked_at(engine, is_copy=True).lines == (Lost(segments=(2,)),)
    with pytest.raises(SegmentMissing, match="00000002"):
        looked_at(engine)
    engine = stopped()
    engine.disk.unlink(path(engine, 1))
    with pytest.raises(SegmentMissing, match="00000001"):
        looked_at(engine, is_copy=True)


def test_a_copy_without_the_output_of_a_compaction_goes_back_to_the_inputs() -> None:
    engine = stopped(compacted=True)
    (replaced,) = ManifestFile(engine.disk, engine.directory).state.replaced
    (output,) = replaced.outputs
    engine.disk.unlink(path(engine, output))
    lines = (Reverted(inputs=replaced.inputs), Lost(segments=(output,)))
    assert looked_at(engine, is_copy=True).lines == lines
    with pytest.raises(SegmentMissing):
        looked_at(engine)


def test_a_copy_that_lacks_output_and_input_cannot_be_opened() -> None:
    engine = stopped(compacted=True)
    (replaced,) = ManifestFile(engine.disk, engine.directory).state.replaced
    for segment_id in (replaced.inputs[0], replaced.outputs[0]):
        engine.disk.unlink(path(engine, segment_id))
    with pytest.raises(SegmentMissing):
        looked_at(engine, is_copy=True)


def test_inputs_may_be_missing_where_the_output_is_there() -> None:
    engine = stopped(compacted=True)
    (replaced,) = ManifestFile(engine.disk, engine.directory).state.replaced
    engine.disk.unlink(path(engine, replaced.inputs[0]))
    assert looked_at(engine).lines == ()
    engine.open()
    engine.check()


def test_a_damaged_footer_does_not_stand_for_a_missing_input() -> None:
    engine = stopped(compacted=True)
    (replaced,) = ManifestFile(engine.disk, engine.directory).state.replaced
    output = looked_at(engine).segments[-1]
    assert output.id == replaced.outputs[0]
    engine.disk.unlink(f"{engine.directory}/MANIFEST")
    manifest = ManifestFile(engine.disk, engine.directory)
    manifest.append([added(segment.header) for segment in looked_at(engine).segments])
    manifest.close()
    engine.disk.unlink(path(engine, replaced.inputs[0]))
    assert looked_at(engine).segments[-1] == output
    engine.disk.flip(path(engine, output.id), output.end + 70, 0)
    with pytest.raises(SegmentMissing, match=segment_name(replaced.inputs[0])):
        looked_at(engine)


# Where the log goes on.


def killed_while_opening(point: CrashPoint) -> Engine:
    """A volume with an unacknowledged tail, whose next process died at `point`."""
    engine = Engine(5)
    engine.write([(b"a", b"1")])
    engine.disk.faults = FaultPlan(Fault(kinds=("sync",), path="*.seg", kill=True))
    with pytest.raises(Killed):
        engine.write([(b"b", b"2")])
    engine.disk.faults = None
    engine.disk.kill()
    engine.disk.faults = FaultPlan(at_point(point))
    with pytest.raises(Killed):
        engine.open()
    engine.disk.faults = None
    engine.disk.kill()
    return engine


@pytest.mark.parametrize("point", [CrashPoint.SEGMENT_CREATED, CrashPoint.RECOVERY_COPIED])
def test_an_unborn_segment_does_not_end_the_one_before(point: CrashPoint) -> None:
    engine = killed_while_opening(point)
    there = recovered(engine)
    assert there.unborn == (2,)
    assert [segment.id for segment in there.segments] == [1]
    assert (there.start.previous_id, there.start.next_segment) == (1, 3)
    seqs = [record.seq for record in there.start.carried]
    assert seqs == list(range(seqs[0], there.start.next_seq))
    assert b"b" in {record.key for record in there.start.carried}
    engine.open()
    assert not engine.disk.exists(path(engine, 2))
    engine.check()
    assert engine.read(b"b") == b"2"


def test_what_an_unborn_segment_holds_in_sequence_is_carried_too() -> None:
    there = recovered(killed_while_opening(CrashPoint.RECOVERY_COPIED))
    assert there.start.carried[-1].type == Type.OPEN


def test_a_born_segment_ends_the_one_before() -> None:
    engine = stopped()
    there = recovered(engine)
    first, second = there.segments
    assert first.end == second.header.previous_end
    assert there.start.previous_id == 2
    assert (there.unborn, there.damaged) == ((), ())
    assert there.last_opening == second.header.opening


def test_behind_a_sealed_end_of_the_log_goes_on_at_the_next_seq() -> None:
    engine = stopped()
    last = looked_at(engine).segments[-1]
    engine.open()
    engine.seal()
    engine.disk.kill()
    segments = [s for s in looked_at(engine).segments if s.id <= last.id]
    there = recover(
        engine.disk,
        engine.directory,
        Survey(segments=segments, blank=[], foreign=[], last_id=last.id),
        named={1, 2},
        known=NOWHERE,
        place=(0, 0),
    )
    trailer = segments[-1].trailer
    assert trailer is not None
    assert there.start.next_seq == trailer.last_seq + 1
    assert there.start.carried == ()


def test_where_only_compacted_segments_are_left_the_seq_goes_on_behind_them() -> None:
    engine = stopped(compacted=True)
    found = looked_at(engine)
    compacted = [segment for segment in found.segments if segment.header.kind]
    there = recover(
        engine.disk,
        engine.directory,
        Survey(segments=compacted, blank=[], foreign=[], last_id=compacted[-1].id),
        named={segment.id for segment in compacted},
        known=NOWHERE,
        place=(0, 0),
    )
    assert compacted[0].trailer is not None
    assert there.start.next_seq == compacted[0].trailer.last_seq + 1
    assert there.start.next_segment == compacted[0].id + 1


def test_an_output_that_the_manifest_does_not_name_counts_only_where_it_is_needed() -> None:
    engine = stopped(compacted=True)
    (replaced,) = ManifestFile(engine.disk, engine.directory).state.replaced
    engine.disk.unlink(f"{engine.directory}/MANIFEST")
    assert replaced.outputs[0] in recovered(engine).unborn
    for segment_id in replaced.inputs:
        engine.disk.unlink(path(engine, segment_id))
    there = recovered(engine)
    assert replaced.outputs[0] in {segment.id for segment in there.segments}
    assert there.unborn == ()


def test_damage_in_the_middle_of_the_log_is_told_and_not_cut_off() -> None:
    engine = stopped()
    position = engine.index.entries[b"c"]
    engine.disk.flip(path(engine, position.segment), position.offset + position.length - 1, 0)
    there = recovered(engine)
    assert [(one.segment, one.key) for one in there.damaged] == [(position.segment, b"c")]
    assert there.start.previous_end > position.offset
