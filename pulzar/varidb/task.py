"""Tasks on sealed segments: what the background process does, as plain functions.

A task is all that it needs to know, an answer all that came of it; both travel as JSON. A task
writes new files only, and nothing of it counts until the volume took the answer in.
"""

from collections.abc import Mapping

import msgspec

from pulzar.disk import Disk
from pulzar.errors import Damage, PulzarError
from pulzar.limits import SEGMENT_RECORDS_MAX
from pulzar.varidb.compaction import Rewritten, Weight, compacted_header, plan, rewrite, weigh
from pulzar.varidb.following import IndexReader, all_columns, footer_of
from pulzar.varidb.footer import entry_order, entry_type
from pulzar.varidb.purge import Deleted, without_older
from pulzar.varidb.record import Type
from pulzar.varidb.scrub import Slice, read_slice
from pulzar.varidb.sealing import SealedSegment, seal
from pulzar.varidb.segment import KIND_LOG
from pulzar.varidb.survey import Segment


class Seal(msgspec.Struct, frozen=True, tag="seal"):
    """Give a segment its footer."""

    directory: str
    segment: Segment


class Compact(msgspec.Struct, frozen=True, tag="compact", kw_only=True):
    """Rewrite the first group of segments that is worth it; none of `skip`. `purge`: leave out
    DELETE records that hide nothing on this volume."""

    directory: str
    views: str
    segments: tuple[Segment, ...]
    retired: frozenset[int]
    skip: frozenset[int]
    output_id: int
    salt: bytes
    opening: bytes
    now_ms: int
    segment_bytes: int
    live_ratio_max: float
    purge: bool


class Scrub(msgspec.Struct, frozen=True, tag="scrub", kw_only=True):
    """Read on in a segment; see scrub.py."""

    directory: str
    views: str
    segment: Segment
    offset: int
    chunk: int
    bytes_max: int


class SealDone(msgspec.Struct, frozen=True, tag="sealed"):
    """The segment, now with a footer."""

    sealed: SealedSegment


class CompactDone(msgspec.Struct, frozen=True, tag="compacted"):
    """What was rewritten, if anything was worth it, and the DELETE records that were left out."""

    rewritten: Rewritten | None
    purged: tuple[Deleted, ...]


class ScrubDone(msgspec.Struct, frozen=True, tag="scrubbed"):
    """What was read, and what is damaged."""

    read: Slice


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The task was given up; nothing of it counts. `inputs` are those that stood in the way."""

    reason: str
    inputs: tuple[int, ...] = ()


Task = Seal | Compact | Scrub
Answer = SealDone | CompactDone | ScrubDone | Failed


def run_seal(task: Seal, disk: Disk) -> SealDone | Failed:
    """Do a Seal. Everything that can go wrong is an answer."""
    try:
        return SealDone(seal(disk, task.directory, task.segment))
    except (OSError, PulzarError) as error:
        return Failed(str(error))


def run_scrub(task: Scrub, disk: Disk, index: IndexReader) -> ScrubDone | Failed:
    """Do a Scrub. Everything that can go wrong is an answer."""
    try:
        read = read_slice(
            disk,
            task.directory,
            index,
            task.segment,
            offset=task.offset,
            chunk=task.chunk,
            bytes_max=task.bytes_max,
        )
    except (OSError, PulzarError) as error:
        return Failed(str(error))
    return ScrubDone(read)


def run_compact(task: Compact, disk: Disk, index: IndexReader) -> CompactDone | Failed:
    """Do a Compact. Everything that can go wrong is an answer."""
    try:
        return _compact(task, disk, index)
    except (OSError, PulzarError) as error:
        return Failed(str(error))


def _compact(task: Compact, disk: Disk, index: IndexReader) -> CompactDone | Failed:
    sealed = [segment for segment in task.segments if segment.trailer is not None]
    # The end of an unsealed segment stands in the header of the one behind it.
    waiting = [segment.id for segment in task.segments if segment.trailer is None]
    weights = weigh(all_columns(index))
    groups = plan(
        [s for s in sealed if _is_candidate(s, task, first_waiting=min(waiting, default=None))],
        weights,
        segment_bytes=task.segment_bytes,
        records_max=SEGMENT_RECORDS_MAX,
        live_ratio_max=task.live_ratio_max,
    )
    inputs: list[Segment] = []
    purged: list[Deleted] = []
    for group in groups:
        inputs = [segment for segment in sealed if segment.id in group.inputs]
        if task.purge and not waiting:
            purged = _purgeable(task, disk, index, inputs)
        if purged or len(inputs) > 1 or not _is_all_newest(inputs[0], weights):
            break
    else:
        return CompactDone(None, ())
    header = compacted_header(
        volume_id=inputs[0].header.volume_id,
        segment_id=task.output_id,
        salt=task.salt,
        opening=task.opening,
        now_ms=task.now_ms,
    )
    try:
        rewritten = rewrite(
            disk,
            task.directory,
            inputs,
            header=header,
            get=index.get,
            retired=task.retired,
            purge={(key, version) for key, version, _ in purged},
        )
    except Damage as error:
        return Failed(str(error), tuple(segment.id for segment in inputs))
    return CompactDone(rewritten, tuple(purged))


def _is_all_newest(segment: Segment, weights: Mapping[int, Weight]) -> bool:
    """Whether rewriting a segment alone would drop nothing: deletes that must stay are dead
    weight, and would be again the next time."""
    assert segment.trailer is not None
    weight = weights.get(segment.id)
    return weight is not None and weight.newest == segment.trailer.entries


def _is_candidate(segment: Segment, task: Compact, *, first_waiting: int | None) -> bool:
    """Whether a sealed segment may be rewritten now."""
    if segment.id in task.retired or segment.id in task.skip:
        return False
    if segment.header.kind != KIND_LOG or first_waiting is None:
        return True
    return segment.id < first_waiting


def _purgeable(
    task: Compact, disk: Disk, index: IndexReader, inputs: list[Segment]
) -> list[Deleted]:
    """The DELETE records of the inputs that hide nothing. One footer in memory at a time."""
    deletes: list[Deleted] = []
    for segment in inputs:
        footer = footer_of(disk, task.directory, segment)
        if footer is None:
            return []
        for key, entry in zip(footer.keys, footer.entries, strict=True):
            if entry_type(entry) == Type.DELETE:
                position = index.get(key)
                if position is not None and position.order == entry_order(entry):
                    deletes.append((key, *position.order))
    for segment in task.segments:
        if not deletes:
            return []
        footer = footer_of(disk, task.directory, segment)
        if footer is None:
            return []
        deletes = without_older(deletes, footer)
    return deletes
