"""Compaction: what is worth rewriting, and that a rewrite drops superseded records only."""

import errno
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulzar.errors import Damage
from pulzar.limits import MIB
from pulzar.testing import Fault, FaultPlan
from pulzar.varidb.compaction import (
    Group,
    Rewritten,
    Weight,
    compacted_header,
    merge_ranges,
    plan,
    rewrite,
    weigh,
)
from pulzar.varidb.following import blob_key, footer_of, found_records
from pulzar.varidb.footer import Trailer
from pulzar.varidb.log import segment_path
from pulzar.varidb.position import Position, pack_position
from pulzar.varidb.record import HEADER_BYTES, Record, Type
from pulzar.varidb.segment import KIND_COMPACTED, SEGMENT_HEADER_BYTES, SegmentHeader
from pulzar.varidb.survey import Segment
from pulzar.varidb.volume import Options, Volume
from tests.model.engine import Engine

SEGMENT_BYTES = 10_000
LARGE = 5000  # not a small one


def sealed(number: int, record_bytes: int, *, records: int = 10) -> Segment:
    """A sealed segment, as far as the plan looks at it."""
    end = SEGMENT_HEADER_BYTES + record_bytes
    trailer = Trailer(
        body_crc=0,
        volume_id=b"",
        salt=b"",
        segment_id=number,
        records_end=end,
        first_seq=0,
        last_seq=0,
        max_version=0,
        entries=records,
        keys_bytes=0,
        notes=0,
        inputs=0,
        bloom_bytes=0,
        kind=0,
        record_bytes=record_bytes,
    )
    header = SegmentHeader(volume_id=b"", salt=b"", segment_id=number)
    return Segment(header=header, trailer=trailer, size=end, end=end)


def planned(
    segments: Sequence[Segment],
    live: Mapping[int, int],
    *,
    records_max: int = 1000,
    always: Sequence[int] = (),
) -> list[tuple[int, ...]]:
    groups = plan(
        segments,
        {number: Weight(live=count) for number, count in live.items()},
        segment_bytes=SEGMENT_BYTES,
        records_max=records_max,
        live_ratio_max=0.5,
        always=always,
    )
    return [group.inputs for group in groups]


# The plan.


def test_nothing_is_planned_for_nothing() -> None:
    assert planned([], {}) == []


@pytest.mark.parametrize(
    ("live", "worth_it"), [(0, True), (2500, True), (2501, False), (LARGE, False)]
)
def test_a_segment_is_worth_it_up_to_a_ratio_of_live_bytes(live: int, *, worth_it: bool) -> None:
    assert planned([sealed(1, LARGE)], {1: live}) == ([(1,)] if worth_it else [])


def test_a_segment_that_no_entry_points_into_is_worth_it() -> None:
    assert planned([sealed(1, LARGE), sealed(2, LARGE)], {2: LARGE}) == [(1,)]


def test_small_segments_are_put_together_however_live() -> None:
    segments = [sealed(number, 1000) for number in (1, 2, 3)]
    assert planned(segments, {1: 1000, 2: 1000, 3: 1000}) == [(1, 2, 3)]


def test_one_small_segment_that_is_all_live_stays() -> None:
    assert planned([sealed(1, 1000), sealed(2, LARGE)], {1: 1000, 2: LARGE}) == []
    assert planned([sealed(1, 1000)], {1: 400}) == [(1,)]


def test_a_small_segment_left_over_by_the_limits_stays() -> None:
    segments = [sealed(1, 9000), sealed(2, 9000), sealed(3, 2000), sealed(4, 2000)]
    live = {1: 4000, 2: 4000, 3: 1800, 4: 1900}
    assert planned(segments, live) == [(1, 2, 3)]  # 4 alone would gain nothing


def test_the_oldest_come_first() -> None:
    segments = [sealed(number, LARGE) for number in (3, 1, 2)]
    assert planned(segments, {}) == [(1, 2, 3)]


def test_the_live_bytes_of_a_group_fit_a_segment() -> None:
    segments = [sealed(number, 9000) for number in range(1, 6)]
    live = dict.fromkeys(range(1, 6), 4500)
    assert planned(segments, live) == [(1, 2), (3, 4), (5,)]


def test_the_records_of_a_group_are_limited() -> None:
    segments = [sealed(number, LARGE, records=400) for number in range(1, 6)]
    assert planned(segments, {}, records_max=1000) == [(1, 2), (3, 4), (5,)]


def test_one_that_is_over_the_limits_alone_is_a_group() -> None:
    assert planned([sealed(1, LARGE, records=5000)], {}, records_max=10) == [(1,)]


def test_what_is_named_is_rewritten_however_live() -> None:
    segments = [sealed(1, LARGE), sealed(2, LARGE), sealed(3, 1000)]
    live = {1: LARGE, 2: LARGE, 3: 1000}
    assert planned(segments, live) == []
    assert planned(segments, live, always=[2]) == [(2,)]
    assert planned(segments, live, always=[3]) == [(3,)]


def test_a_group_tells_what_it_holds() -> None:
    groups = plan(
        [sealed(1, LARGE), sealed(2, LARGE)],
        {1: Weight(live=100), 2: Weight(live=200)},
        segment_bytes=SEGMENT_BYTES,
        records_max=1000,
        live_ratio_max=0.5,
    )
    assert groups == [Group((1, 2), 300, 2 * LARGE)]


@given(
    st.dictionaries(
        st.integers(1, 30),
        st.tuples(st.integers(8, 9000), st.floats(0, 1), st.integers(0, 1500)),
        max_size=15,
    )
)
def test_every_plan_keeps_the_limits(world: dict[int, tuple[int, float, int]]) -> None:
    segments = [sealed(number, size, records=count) for number, (size, _, count) in world.items()]
    live = {number: int(size * ratio) for number, (size, ratio, _) in world.items()}
    groups = planned(segments, live)
    chosen = [number for group in groups for number in group]
    assert chosen == sorted(set(chosen))
    for group in groups:
        assert len(group) == 1 or sum(live[number] for number in group) <= SEGMENT_BYTES
        assert len(group) == 1 or sum(world[number][2] for number in group) <= 1000
    for number, (size, _, _) in world.items():
        if live[number] <= 0.5 * size:
            assert number in chosen


def row(key: bytes, segment: int, length: int, type_: Type, size: int = 1) -> tuple[bytes, bytes]:
    position = Position(segment, 128, length, type_, 0, 1, 0, 1, 1, size, 1, 0)
    return key, pack_position(key, position)


def test_live_bytes_are_summed_by_segment_with_their_padding() -> None:
    rows = [row(b"k", segment, length, Type.PUT) for segment, length in [(1, 65), (1, 72), (4, 80)]]
    rows.append(row(b"deleted", 7, 65, Type.DELETE))
    assert weigh(rows) == {
        1: Weight(newest=2, live=72 + 72),
        4: Weight(newest=1, live=80),
        7: Weight(newest=1),
    }


def test_a_replaced_blob_weighs_as_much_as_its_file() -> None:
    rows = [row(b"k", 1, 80, Type.BLOB, 5 << 30)]
    rows += [row(blob_key(name), 1, 80, Type.BLOB, 5 << 30) for name in ("old", "new")]
    weights = weigh(rows)
    assert weights == {1: Weight(newest=1, live=80, live_blobs=5 << 30, blobs=10 << 30)}
    groups = plan(
        [sealed(1, LARGE)],
        {1: Weight(live=LARGE, live_blobs=5 << 30, blobs=10 << 30)},
        segment_bytes=SEGMENT_BYTES,
        records_max=1000,
        live_ratio_max=0.6,
    )
    assert [group.inputs for group in groups] == [(1,)]


ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda r: (r[0], sum(r))))


@given(ranges)
def test_merged_ranges_hold_the_same_ids_in_as_few_as_possible(
    listed: list[tuple[int, int]],
) -> None:
    merged = merge_ranges(listed)
    assert ids(merged) == ids(listed)
    assert all(end + 1 < start for (_, end), (start, _) in pairwise(merged))


def ids(listed: Sequence[tuple[int, int]]) -> set[int]:
    return {number for first, last in listed for number in range(first, last + 1)}


# The rewrite.


class World(Engine):
    """A volume whose first segment is sealed, and a way to rewrite what is sealed."""

    def __init__(self, *changes: tuple[bytes, bytes | None], blobs: bool = False) -> None:
        super().__init__(11)
        for change in changes:
            self.write([change], blob=blobs)
        self.volume.roll(now_ms=self.now_ms)
        self.seal()
        self.output = self.volume.take_segment_id()

    def open(self) -> Volume:
        self.volume = Volume.open(
            self.directory,
            disk=self.disk,
            open_index=lambda _: self.index,
            token=self.rng.randbytes,
            now_ms=self.now_ms,
            options=Options(segment_bytes=4 * MIB),
        )
        return self.volume

    def sealed(self) -> list[Segment]:
        return [s for s in self.volume.segments.values() if s.trailer is not None]

    def rewrite(self, *, purge: Sequence[tuple[bytes, int]] = ()) -> Rewritten:
        header = compacted_header(
            volume_id=self.volume.id,
            segment_id=self.output,
            salt=b"n" * 16,
            opening=self.volume.log.opening,
            now_ms=self.now_ms,
        )
        return rewrite(
            self.disk,
            self.directory,
            self.sealed(),
            header=header,
            get=self.index.get,
            purge=set(purge),
        )

    def records(self, segment: Segment) -> list[Record]:
        found = found_records(self.disk, self.directory, segment)
        return [one.record for one in found if one.record is not None]

    def left_behind(self) -> bool:
        return self.disk.exists(segment_path(self.directory, self.output))


def test_superseded_records_go_and_the_others_stay_as_they_are() -> None:
    world = World((b"a", b"old"), (b"b", b"kept"), (b"a", b"new"), (b"c", b"x"), (b"c", None))
    before = [r for segment in world.sealed() for r in world.records(segment)]
    done = world.rewrite()
    assert done.output is not None
    after = world.records(done.output)
    assert [(r.type, r.key, r.value) for r in after] == [
        (Type.PUT, b"b", b"kept"),
        (Type.PUT, b"a", b"new"),
        (Type.DELETE, b"c", b""),
    ]
    assert all(record in before for record in after)  # seq, version and times too
    assert (done.kept, done.dropped) == (3, len(before) - 3)
    assert done.inputs == (1,)
    assert done.horizon == max(record.seq for record in before)


def test_the_output_is_sealed_and_says_what_it_stands_for() -> None:
    world = World((b"a", b"1"), (b"b", b"2"))
    done = world.rewrite()
    assert done.output is not None
    assert done.output.header.kind == KIND_COMPACTED
    footer = footer_of(world.disk, world.directory, done.output)
    assert footer is not None
    assert (footer.keys, footer.inputs) == ([b"a", b"b"], [(1, 1)])
    assert check_footer(world, done.output) == {b"a", b"b"}


def test_the_output_of_outputs_stands_for_all_of_them() -> None:
    world = World((b"a", b"1"), (b"a", b"2"), (b"b", b"3"))
    world.compact()
    world.write([(b"b", b"4"), (b"c", b"5")])
    world.compact()
    (output,) = (s for s in world.sealed() if s.id not in world.volume.replacements.retired())
    footer = footer_of(world.disk, world.directory, output)
    assert footer is not None
    assert ids(footer.inputs) >= set(world.volume.replacements.retired())


def test_a_purged_delete_is_dropped() -> None:
    world = World((b"a", b"1"), (b"b", None), (b"c", None))
    position = world.index.get(b"b")
    assert position is not None
    done = world.rewrite(purge=[(b"b", position.version)])
    assert done.output is not None
    assert [record.key for record in world.records(done.output)] == [b"a", b"c"]


def test_the_newest_note_stays_and_the_logs_own_records_go() -> None:
    engine = World()
    notes = [Record(type=Type.EPOCH, version=1 << 40), Record(type=Type.PURGE, version=3)]
    engine.volume.append(notes, now_ms=1)
    engine.volume.roll(now_ms=1)
    engine.seal()
    done = engine.rewrite()
    assert done.output is not None
    assert [record.type for record in engine.records(done.output)] == [Type.EPOCH, Type.PURGE]
    assert engine.records(engine.sealed()[0])[0].type == Type.OPEN


def test_where_nothing_is_live_there_is_no_output() -> None:
    world = World((b"a", b"old"))
    world.write([(b"a", b"new")])
    done = world.rewrite()
    assert (done.output, done.kept) == (None, 0)
    assert not world.left_behind()


def test_a_blob_that_lost_its_record_is_named() -> None:
    world = World((b"a", b"old"), (b"b", b"kept"), (b"a", b"new"), blobs=True)
    names = {key[1:].decode(): at for key, at in world.index.entries.items() if key[0] == 0xFE}
    done = world.rewrite()
    (gone,) = done.blobs
    newest = world.index.get(b"a")
    assert newest is not None
    assert names[gone].order < newest.order
    assert len(names) == 3


def test_a_blob_whose_record_is_at_another_place_too_stays() -> None:
    world = World((b"a", b"old"), (b"a", b"new"), blobs=True)
    for key, position in world.index.entries.items():
        if key[0] == 0xFE:  # as if the index had it from a copy in another segment
            world.index.entries[key] = msgspec.structs.replace(position, segment=99)
    assert world.rewrite().blobs == ()


def test_a_blob_that_the_index_does_not_know_goes_with_its_record() -> None:
    world = World((b"a", b"old"), (b"a", b"new"), blobs=True)
    names = [key for key in world.index.entries if key[0] == 0xFE]
    for name in names:
        del world.index.entries[name]
    (gone,) = world.rewrite().blobs
    assert b"\xfe" + gone.encode() in names


def test_a_record_that_the_index_has_at_another_place_is_dropped() -> None:
    world = World((b"a", b"1"), (b"b", b"2"))
    position = world.index.entries[b"a"]
    world.index.entries[b"a"] = msgspec.structs.replace(position, segment=99)
    done = world.rewrite()
    assert done.output is not None
    assert [record.key for record in world.records(done.output)] == [b"b"]


def test_a_key_that_the_index_does_not_know_is_kept() -> None:
    world = World((b"a", b"1"), (b"b", b"2"))
    del world.index.entries[b"a"]
    done = world.rewrite()
    assert done.output is not None
    assert [record.key for record in world.records(done.output)] == [b"a", b"b"]


def test_an_index_that_is_behind_stops_the_rewrite() -> None:
    world = World((b"a", b"1"))
    position = world.index.entries[b"a"]
    world.index.entries[b"a"] = msgspec.structs.replace(position, version=position.version - 1)
    with pytest.raises(Damage, match="does not know the newest"):
        world.rewrite()
    assert not world.left_behind()


@pytest.mark.parametrize("header", [False, True])
def test_a_damaged_input_stays_and_nothing_is_left_behind(*, header: bool) -> None:
    world = World((b"a", b"1"), (b"b", b"2"))
    position = world.index.entries[b"b"]
    path = segment_path(world.directory, 1)
    if header:
        world.disk.flip(path, position.offset + 20, 0)
        world.disk.flip(path, position.offset + 30, 0)
    else:
        world.disk.flip(path, position.offset + HEADER_BYTES + 1, 0)
    with pytest.raises(Damage, match=f"damaged at {position.offset}: not compacted"):
        world.rewrite()
    assert not world.left_behind()


@pytest.mark.parametrize("kind", ["create", "write", "sync", "sync_directory"])
def test_a_full_disk_leaves_nothing_behind(kind: str) -> None:
    world = World((b"a", b"1"))
    world.disk.faults = FaultPlan(Fault(kinds=(kind,), error=errno.ENOSPC))
    with pytest.raises(OSError):
        world.rewrite()
    assert not world.left_behind()
    assert world.read(b"a") == b"1"


def test_a_half_written_output_that_cannot_be_removed_is_swept_by_the_next_opening() -> None:
    world = World((b"a", b"1"))
    world.disk.faults = FaultPlan(
        Fault(kinds=("sync",), error=errno.EIO), Fault(kinds=("unlink",), error=errno.EIO)
    )
    with pytest.raises(OSError):
        world.rewrite()
    assert world.left_behind()
    world.disk.faults = None
    world.restart()
    assert not world.left_behind()
    world.check()


def test_much_is_written_piece_by_piece() -> None:
    values = [b"%d" % number * 900_000 for number in range(3)]
    world = World(*((b"k%d" % number, value) for number, value in enumerate(values)))
    world.disk.operations_by_kind.clear()
    done = world.rewrite()
    assert world.disk.operations_by_kind["write"] > 1
    assert done.output is not None
    assert [record.value for record in world.records(done.output)] == values
    assert check_footer(world, done.output) == {b"k0", b"k1", b"k2"}


def check_footer(world: World, segment: Segment) -> set[bytes]:
    """The keys in a footer, each entry held against the record that it points to."""
    footer = footer_of(world.disk, world.directory, segment)
    assert footer is not None
    there = {one.offset: one.header for one in found_records(world.disk, world.directory, segment)}
    for key, position in footer.positions():
        header = there[position.offset]
        assert (header.key, header.version, header.seq) == (key, *position.order)
    return set(footer.keys)
