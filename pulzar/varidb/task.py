"""Tasks on sealed segments: what the background process does, as plain functions.

A task is all that it needs to know, an answer all that came of it; both travel as JSON. A task
writes new files only, and nothing of it counts until the volume took the answer in.
"""

from collections.abc import Iterator

import msgspec

from pulzar.disk import Disk
from pulzar.errors import PulzarError
from pulzar.limits import SEGMENT_RECORDS_MAX
from pulzar.varidb.compaction import Rewritten, compacted_header, live_bytes, plan, rewrite
from pulzar.varidb.following import IndexReader, footer_of
from pulzar.varidb.footer import entry_order, entry_type
from pulzar.varidb.purge import Deleted, without_older
from pulzar.varidb.record import Type
from pulzar.varidb.recovery import Segment
from pulzar.varidb.sealing import SealedSegment, seal

_COLUMNS = 65_536


class Seal(msgspec.Struct, frozen=True, tag="seal"):
    """Give a segment its footer."""

    directory: str
    segment: Segment


class Compact(msgspec.Struct, frozen=True, tag="compact", kw_only=True):
    """Rewrite the first group of segments that is worth it; none of `skip`."""

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


class SealDone(msgspec.Struct, frozen=True, tag="sealed"):
    """The segment, now with a footer."""

    sealed: SealedSegment


class CompactDone(msgspec.Struct, frozen=True, tag="compacted"):
    """What was rewritten, if anything was worth it, and the DELETE records that were left out."""

    rewritten: Rewritten | None
    purged: tuple[Deleted, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The task was given up; nothing of it counts."""

    reason: str


Task = Seal | Compact
Answer = SealDone | CompactDone | Failed


def run_seal(task: Seal, disk: Disk) -> SealDone | Failed:
    """Do a Seal. Everything that can go wrong is an answer."""
    try:
        return SealDone(seal(disk, task.directory, task.segment))
    except (OSError, PulzarError) as error:
        return Failed(str(error))


def run_compact(task: Compact, disk: Disk, index: IndexReader) -> CompactDone | Failed:
    """Do a Compact. Everything that can go wrong is an answer."""
    try:
        return _compact(task, disk, index)
    except (OSError, PulzarError) as error:
        return Failed(str(error))


def _compact(task: Compact, disk: Disk, index: IndexReader) -> CompactDone:
    sealed = [segment for segment in task.segments if segment.trailer is not None]
    groups = plan(
        [s for s in sealed if s.id not in task.retired and s.id not in task.skip],
        live_bytes(_puts(index)),
        segment_bytes=task.segment_bytes,
        records_max=SEGMENT_RECORDS_MAX,
        live_ratio_max=task.live_ratio_max,
    )
    if not groups:
        return CompactDone(None, ())
    inputs = [segment for segment in sealed if segment.id in groups[0].inputs]
    purged: list[Deleted] = []
    if len(sealed) == len(task.segments):
        purged = _purgeable(task, disk, index, inputs)
    header = compacted_header(
        volume_id=inputs[0].header.volume_id,
        segment_id=task.output_id,
        salt=task.salt,
        opening=task.opening,
        now_ms=task.now_ms,
    )
    rewritten = rewrite(
        disk,
        task.directory,
        inputs,
        header=header,
        get=index.get,
        purge={(key, version) for key, version, _ in purged},
    )
    return CompactDone(rewritten, tuple(purged))


def _puts(index: IndexReader) -> Iterator[bytes]:
    """All entries but those of DELETE records, which purge may get rid of."""
    after = b""
    while True:
        keys, entries = index.columns(after, _COLUMNS)
        if not keys:
            return
        yield from (entry for entry in entries if entry_type(entry) != Type.DELETE)
        after = keys[-1]


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
