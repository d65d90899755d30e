"""Histories that lost or confused something once, each as it was found.

Every one takes two or three unlikely things at the same time, which random histories seldom bring
together; so they are told here one by one, on the simulated disk.
"""

import contextlib
import errno

import pytest

from pulzar.errors import NotAVolume, OutOfSpace, ValueTooLarge
from pulzar.testing import Fault, FaultPlan, Killed
from pulzar.testing.faults import at_point
from pulzar.testing.index import DictIndex
from pulzar.varidb.crash_point import CrashPoint
from pulzar.varidb.record import Type, epoch_of, make_version
from pulzar.varidb.segment import segment_name
from tests.model.engine import Engine, open_volume, read

GRACE_MS = 200_000


def path(name: str) -> str:
    return f"/volume/{name}"


def compacted(engine: Engine) -> Engine:
    """A volume with one group compacted: `precious` is in the output only."""
    engine.write([(b"precious", b"p" * 100)])
    engine.write([(b"x", b"1")])
    engine.write([(b"x", b"2")])
    engine.compact()
    return engine


def outlives_the_grace(engine: Engine) -> None:
    """What is there stays when replaced files go, and when the views are lost after that."""
    engine.now_ms += GRACE_MS
    engine.volume.remove_retired(now_ms=engine.now_ms)
    engine.check()
    engine.restart()
    engine.check()
    engine.check_rebuild()


@pytest.mark.parametrize("fate", range(20))
def test_a_footer_of_which_no_line_tells_is_made_durable_before_it_is_believed(fate: int) -> None:
    engine = Engine(1)
    engine.write([(b"precious %d" % n, b"p" * 900) for n in range(3)])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.disk.faults = FaultPlan(at_point(CrashPoint.SEAL_WRITTEN))
    with pytest.raises(Killed):
        engine.seal()
    engine.disk.faults = None
    engine.crash(power=False)
    for _ in range(2):
        for n in range(4):
            engine.write([(b"x", b"%d" % n)])
        engine.compact()
    engine.now_ms += GRACE_MS
    engine.volume.remove_retired(now_ms=engine.now_ms)
    engine.rng.seed(fate)
    engine.crash(power=True)
    engine.check()
    engine.check_rebuild()


def test_nothing_behind_a_segment_without_a_footer_is_compacted() -> None:
    engine = Engine(1)
    engine.write([(b"precious", b"p" * 900)])
    engine.volume.roll(now_ms=engine.now_ms)
    (first,) = engine.volume.unsealed()
    reads = Fault(path=path(f"segments/{segment_name(first.id)}"), kinds=("open",), lasting=True)
    for _ in range(3):
        engine.write([(b"x", b"1" * 300)])
        engine.disk.faults = FaultPlan(reads)  # a bad sector: it can never be sealed
        engine.compact()
        engine.disk.faults = None
    assert not engine.volume.replacements.retired()
    outlives_the_grace(engine)


@pytest.mark.parametrize("swapped", [True, False])
def test_a_flipped_bit_in_the_line_of_an_output_does_not_cost_the_output(*, swapped: bool) -> None:
    engine = Engine(1)
    if not swapped:
        engine.disk.faults = FaultPlan(at_point(CrashPoint.COMPACTION_COMMITTED))
        with pytest.raises(Killed):
            compacted(engine)
        engine.disk.faults = None
        engine.disk.kill()
    else:
        compacted(engine)
    content = engine.disk.open(path("MANIFEST")).read(1 << 20, offset=0)
    engine.disk.flip(path("MANIFEST"), content.index(b'"kind":1'), 0)
    engine.crash(power=False)
    engine.check()
    outlives_the_grace(engine)


def test_a_compaction_finishes_the_one_before_first() -> None:
    engine = Engine(1)
    swap = engine.index.swap

    def full(items: object) -> int:
        raise OutOfSpace("no room on disk for the view")

    engine.index.swap = full  # type: ignore[method-assign]
    with pytest.raises(OutOfSpace):
        compacted(engine)
    engine.index.swap = swap  # type: ignore[method-assign]
    engine.compact()
    outlives_the_grace(engine)


def test_a_segment_that_could_not_be_removed_keeps_the_deletes_that_hide_it() -> None:
    engine = Engine(1)
    engine.write([(b"k", b"a deleted secret")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.write([(b"k", None), (b"x", b"1")])
    engine.compact()
    engine.now_ms += GRACE_MS
    engine.disk.faults = FaultPlan(Fault(kinds=("unlink",), error=errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        engine.volume.remove_retired(now_ms=engine.now_ms)
    engine.disk.faults = None
    for n in range(3):
        engine.write([(b"x", b"%d" % n)])
        engine.compact()
    engine.restart()
    engine.check()
    engine.check_rebuild()


@pytest.mark.parametrize("fate", range(20))
def test_the_name_of_a_group_of_blobs_is_durable_whoever_made_it(fate: int) -> None:
    engine = Engine(3)
    engine.disk.faults = FaultPlan(at_point(CrashPoint.BLOB_CREATED))
    with pytest.raises(Killed):
        engine.write([(b"first", b"dies")], blob=True)
    engine.disk.faults = None
    engine.crash(power=False)
    for n in range(20):  # some of them into the same group
        engine.write([(b"blob %d" % n, b"acknowledged")], blob=True)
    engine.rng.seed(fate)
    engine.crash(power=True)
    engine.check()


def test_blobs_stay_while_a_record_that_may_name_them_cannot_be_read() -> None:
    engine = Engine(1)
    engine.write([(b"big", b"in a file")], blob=True)
    engine.write([(b"x", b"1")])
    position = engine.index.get(b"big")
    assert position is not None
    descriptor = position.offset + 64 + len(b"big")
    name = segment_name(position.segment)
    engine.disk.flip(path(f"segments/{name}"), descriptor, 0)
    engine.index.reset()
    engine.disk.kill()
    engine.open()
    kept = [
        n
        for group in engine.disk.list(path("blobs"))
        for n in engine.disk.list(path(f"blobs/{group}"))
    ]
    assert len(kept) == 1
    engine.restart()
    assert engine.index.get(b"\xff\x00") is not None, "that some are not known is forgotten"


def test_an_epoch_is_not_given_twice_where_its_record_is_damaged() -> None:
    engine = Engine(1)
    engine.version = make_version(7, 0)
    engine.write([(b"a", b"1")])
    engine.index.reset()
    engine.disk.kill()
    engine.open()
    assert engine.index.get(bytes((0xFF, Type.EPOCH))) is None
    assert engine.volume.promised_epoch() == epoch_of(engine.version)


@pytest.mark.parametrize("replaced", ["yesterday", "elsewhere"])
def test_an_index_of_another_state_of_the_log_is_not_trusted(replaced: str) -> None:
    engine = Engine(1)
    engine.write([(b"a", b"first"), (b"kept", b"first")])
    before = engine.disk.snapshot("/volume")
    index = dict(engine.index.entries)
    at = (engine.index.cursor(), engine.index.place())
    engine.write([(b"a", b"second"), (b"kept", None)])
    if replaced == "yesterday":  # the directory is put back, the index is not
        engine.disk.kill()
        engine.disk.rollback("/volume", before)
        engine.acknowledged = {b"a": b"first", b"kept": b"first"}
    else:  # the log went on without this index
        engine.restart()
        engine.compact()
        engine.disk.kill()
        engine.index.entries = index
        engine.index.apply([], *at)
    engine.open()
    engine.check()
    engine.check_rebuild()


def test_a_segment_of_another_volume_is_refused_and_stays() -> None:
    engine, other = Engine(1), Engine(2)
    other.write([(b"theirs", b"1")])
    content = other.disk.open(path("segments/00000001.seg")).read(1 << 20, offset=0)
    engine.restart()
    engine.disk.kill()
    stranger = path("segments/00000009.seg")
    engine.disk.create(stranger).write([content], offset=0)
    with pytest.raises(NotAVolume, match="belongs to another volume"):
        open_volume(engine.disk, "/volume", engine.index, engine.rng, engine.now_ms)
    assert engine.disk.exists(stranger)


@pytest.mark.parametrize("kinds", [("sync_directory",), ("write",)])
def test_an_id_is_never_given_again(kinds: tuple[str, ...]) -> None:
    """Files are unlinked, the line that says so is missing: then the next one needs another id."""
    engine = Engine(1)
    engine.write([(b"x", b"1")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.write([(b"x", None)])
    engine.compact()
    for _ in range(2):
        engine.now_ms += GRACE_MS
        engine.disk.faults = FaultPlan(Fault(kinds=kinds, lasting=True))
        with contextlib.suppress(OSError):
            engine.volume.remove_retired(now_ms=engine.now_ms)
        engine.disk.faults = None
        engine.crash(power=False)
        engine.write([(b"precious", b"acknowledged")])
        engine.now_ms += GRACE_MS
        engine.volume.remove_retired(now_ms=engine.now_ms)
        engine.check()
        engine.compact()
    engine.check_rebuild()


@pytest.mark.parametrize("seed", range(60))
def test_a_copy_does_not_lose_what_was_superseded_behind_its_back(seed: int) -> None:
    engine = Engine(seed)
    engine.write([(b"k", b"the only value in the copy")])
    engine.volume.roll(now_ms=engine.now_ms)
    copying = engine.disk.copy_steps("/volume", "/copy", seed)
    for number, _ in enumerate(copying):
        if number == seed % 5:
            engine.write([(b"k", b"newer"), (b"other", b"1")])
            engine.compact()
    copy = open_volume(engine.disk, "/copy", DictIndex(), engine.rng, engine.now_ms)
    seen = read(copy, b"k")
    assert seen in (b"the only value in the copy", b"newer")
    copy.remove_retired(now_ms=engine.now_ms + GRACE_MS)
    copy.rebuild_index()
    assert read(copy, b"k") == seen


def test_an_output_that_the_manifest_could_not_take_is_withdrawn() -> None:
    engine = Engine(1)
    engine.write([(b"k", b"a deleted secret"), (b"x", b"1")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.write([(b"x", b"2")])
    engine.volume.roll(now_ms=engine.now_ms)
    engine.seal()
    engine.disk.faults = FaultPlan(Fault(nth=3, path="*/MANIFEST*", kinds=("write",)))
    with pytest.raises(OSError, match="Input/output"):
        engine.compact()
    engine.disk.faults = None
    known = {segment_name(segment) for segment in engine.volume.segments}
    known.add(segment_name(engine.volume.log.segment))
    assert set(engine.disk.list(path("segments"))) == known
    engine.write([(b"k", None)])
    for _ in range(4):
        engine.compact()
        engine.now_ms += GRACE_MS
        engine.volume.remove_retired(now_ms=engine.now_ms)
    engine.restart()
    engine.check()
    engine.check_rebuild()


def test_a_record_larger_than_a_segment_is_refused() -> None:
    engine = Engine(1)
    engine.write([(b"a", b"1")])
    with pytest.raises(ValueTooLarge):
        engine.write([(b"b", b"x" * 20_000)])
    engine.crash(power=True)
    engine.check()
